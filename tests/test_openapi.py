"""The OpenAPI documents of both services: whole, valid, served as they are printed, and true of what is answered."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import only_post_svc.api
import only_post_svc.document
import token_svc.api
import token_svc.document
from tests.databases import ON_A_FILE
from tests.documents import Document
from tests.processes import ROOT, TASKS, HTTPService, Service, TokenService
from tests.token_svc.users import User

Described = dict[str, Any]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    service = TokenService(tmp_path_factory.mktemp("tokens"))
    yield service
    service.kill()


@pytest.fixture(scope="module")
def of_tasks(service: Service) -> Any:
    return service.post("/openapi.json").json()


@pytest.fixture(scope="module")
def of_tokens(tokens: TokenService) -> Any:
    return tokens.get("/openapi.json").json()


def printed(module: str, directory: Path, **env: str) -> Any:
    command = [sys.executable, "-m", module, "openapi"]
    output = subprocess.check_output(command, cwd=directory, env={"PYTHONPATH": str(ROOT), **env}, timeout=60)
    return json.loads(output)


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


@ON_A_FILE
def test_both_are_openapi(of_tasks: Any, of_tokens: Any) -> None:
    for document in (of_tasks, of_tokens):
        assert document["openapi"].startswith("3.1.")
        OpenAPIV31SpecValidator(document).validate()


@ON_A_FILE
def test_both_are_printed_as_they_are_served(of_tasks: Any, of_tokens: Any, tmp_path: Path) -> None:
    assert printed("only_post_svc", tmp_path, TASK_MODULES=TASKS) == of_tasks
    assert printed("token_svc", tmp_path) == of_tokens


@pytest.mark.parametrize("health_get", [False, True])
def test_every_route_is_there_and_nothing_else(health_get: bool) -> None:
    for routes, document in (
        (token_svc.api.routes(), json.loads(token_svc.document.document())),
        (
            only_post_svc.api.routes(health_get=health_get),
            only_post_svc.document.describe(health_get=health_get, has_tokens=True),
        ),
    ):
        answered = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
        assert {(path, method) for path, method, _ in operations(document)} == answered


@ON_A_FILE
def test_every_operation_has_a_name_of_its_own_and_says_what_it_is_for(of_tasks: Any, of_tokens: Any) -> None:
    for document in (of_tasks, of_tokens):
        names = [operation["operationId"] for _, _, operation in operations(document)]
        assert len(set(names)) == len(names) >= 9
        assert all(operation["summary"] for _, _, operation in operations(document))


def test_a_token_is_asked_for_where_the_document_says_so(of_tokens: Any) -> None:
    scopes = {
        (path, method): operation["security"][0]["bearer"]
        for path, method, operation in operations(of_tokens)
        if "security" in operation
    }
    assert scopes[("/data", "POST")] == ["data"]
    assert scopes[("/introspect", "POST")] == ["introspect"]
    assert scopes[("/me", "GET")] == []
    assert not {path for path, _ in scopes} & {"/register", "/token", "/revoke", "/health", "/metrics", "/openapi.json"}


@ON_A_FILE
def test_without_task_auth_no_token_is_spoken_of(of_tasks: Any, tmp_path: Path) -> None:
    assert "securitySchemes" not in of_tasks["components"]
    guarded = printed("only_post_svc", tmp_path, TASK_AUTH="required", HEALTH_GET="true")
    assert guarded["paths"]["/api/task"]["post"]["security"] == [{"bearer": ["tasks"]}]
    assert guarded["paths"]["/openapi.json"]["post"]["security"] == [{"bearer": []}]
    assert guarded["paths"]["/health"].keys() == {"post", "get"}
    for path, method, operation in operations(of_tasks):
        assert "security" not in operation
        assert path == "/metrics" or "401" not in operation["responses"], (path, method)
        assert "insufficient_scope" not in json.dumps(operation), (path, method)


BODIES: list[dict[str, Any]] = [
    {"type": "echo"},
    {"type": "echo", "payload": {"any": ["thing"]}},
    {"type": "echo", "timeout": 31},
    {"type": "sleep", "payload": {"seconds": 0}, "timeout": 31},
    {"type": "sleep"},
    {"type": "sleep", "payload": {"seconds": -1}},
    {"type": "text.stats", "payload": {"text": "a", "top": 1}},
    {"type": "text.stats", "payload": {"txt": "a"}},
    {"type": "csv.summary", "payload": {"text": "a", "delimiter": ""}},
    {"type": "shapes", "payload": {"count": 1, "points": [{"x": 1, "y": 2.5}], "mode": "fast"}},
    {"type": "shapes", "payload": {"count": 1, "points": [{"y": 2.5}]}},
    {"type": "nobody"},
    {"type": "echo", "priority": 101},
    {"type": "echo", "run_at": "2026-11-22T08:30:00Z"},
    {"type": "echo", "run_at": "tomorrow"},
    {"type": "echo", "unknown": 1},
    {"payload": {}},
]


@ON_A_FILE
@pytest.mark.parametrize("body", BODIES, ids=json.dumps)
def test_a_submit_is_taken_if_and_only_if_the_document_allows_it(service: Service, of_tasks: Any, body: Any) -> None:
    taken = service.post("/api/task", body).status_code == 202
    assert taken == (service.post("/api/batch", {"tasks": [body]}).status_code == 202)
    for name, sent in (("SubmitRequest", body), ("BatchRequest", {"tasks": [body]})):
        schema = of_tasks | {"$ref": f"#/components/schemas/{name}"}
        assert Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(sent) == taken


@ON_A_FILE
def test_a_body_is_optional_where_the_document_is_asked_for_by_post(service: Service) -> None:
    for body, status in ((b"", 200), (b"{}", 200), (b"[]", 422), (b"{", 400)):
        assert service.request("POST", "/openapi.json", data=body).status_code == status


def without_a_status(document: Described) -> None:
    del document["paths"]["/health"]["get"]["responses"]["200"]


def without_a_member(document: Described) -> None:
    del document["components"]["schemas"]["Health"]["properties"]["version"]


def with_a_member_more(document: Described) -> None:
    document["components"]["schemas"]["Health"]["required"].append("more")


def of_another_type(document: Described) -> None:
    document["components"]["schemas"]["DatabaseHealth"]["properties"]["milliseconds"] = {"type": "string"}


def of_another_media_type(document: Described) -> None:
    content = document["paths"]["/health"]["get"]["responses"]["200"]["content"]
    content["text/json"] = content.pop("application/json")


def with_a_header_more(document: Described) -> None:
    document["paths"]["/health"]["get"]["responses"]["200"]["headers"]["ETag"] = {"$ref": "#/components/headers/ETag"}


def without_a_header(document: Described) -> None:
    del document["paths"]["/health"]["get"]["responses"]["200"]["headers"]["X-Request-ID"]


def without_a_path(document: Described) -> None:
    del document["paths"]["/health"]


@pytest.mark.parametrize(
    "forget",
    [
        without_a_status,
        without_a_member,
        with_a_member_more,
        of_another_type,
        of_another_media_type,
        with_a_header_more,
        without_a_header,
        without_a_path,
    ],
)
def test_what_an_answer_has_and_the_document_has_not_is_found(
    tokens: TokenService, of_tokens: Any, forget: Callable[[Described], None]
) -> None:
    answer = tokens.get("/health")
    Document(of_tokens).check(answer)
    changed = copy.deepcopy(of_tokens)
    forget(changed)
    with pytest.raises(AssertionError):
        Document(changed).check(answer)


def test_a_code_that_is_not_listed_is_found(tokens: TokenService, of_tokens: Any) -> None:
    answer = tokens.get("/me")
    Document(of_tokens).check(answer)
    changed = copy.deepcopy(of_tokens)
    content = changed["paths"]["/me"]["get"]["responses"]["401"]["content"]
    content["application/problem+json"]["schema"]["properties"]["code"]["enum"].remove("unauthorized")
    with pytest.raises(AssertionError, match="unauthorized"):
        Document(changed).check(answer)


def test_a_body_that_was_taken_and_is_not_described_is_found(tokens: TokenService, of_tokens: Any) -> None:
    answer = tokens.post("/revoke", {"token": "nobody's"})
    Document(of_tokens).check(answer)
    changed = copy.deepcopy(of_tokens)
    changed["components"]["schemas"]["TokenOnlyRequest"]["required"] = ["token", "token_type_hint"]
    with pytest.raises(AssertionError, match="token_type_hint"):
        Document(changed).check(answer)


@ON_A_FILE
def test_every_answer_of_the_fixtures_is_held_against_its_document(tokens: TokenService, service: Service) -> None:
    asks: list[tuple[HTTPService, str, Callable[[], requests.Response]]] = [
        (tokens, "get", lambda: tokens.get("/health")),
        (tokens, "get", lambda: User(tokens).get("/health")),
        (service, "post", lambda: service.post("/health")),
        (service, "post", lambda: service.request("POST", "/health")),
    ]
    for one, method, ask in asks:
        responses = one.document.described["paths"]["/health"][method]["responses"]
        kept = responses.pop("200")
        try:
            with pytest.raises(AssertionError, match="/health: 200"):
                ask()
        finally:
            responses["200"] = kept
        assert ask().status_code == 200
