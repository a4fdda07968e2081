"""TASK_AUTH=required: who may call, and that each caller sees only their own."""

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from only_post_svc import api
from shared import VERSION
from tests.processes import TASKS, Service, eventually
from tests.tokens import SECRET, bearer, header, segment, sign, token

OPEN = ("/health", "/metrics")  # the second to who has METRICS_TOKEN
PATHS = [route.path for route in api.routes(health_get=False) if route.path not in OPEN]
DOCUMENT = "/openapi.json"  # for any token


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {"TASK_MODULES": TASKS, "TASK_AUTH": "required", "SECRET_KEY": SECRET}
    service = Service(tmp_path_factory.mktemp("bearer"), env)
    yield service
    service.kill()


class Caller:
    """Somebody with a good token."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.headers = bearer(sub=str(uuid.uuid4()))

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return self.service.post(path, body, headers=self.headers | headers)

    def submit(self, type: str = "echo", **options: Any) -> Any:
        answer = self.post("/api/task", {"type": type, **options})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def tasks(self, **options: Any) -> list[str]:
        return [task["task_id"] for task in self.post("/api/tasks", options).json()["items"]]


@pytest.fixture
def alice(service: Service) -> Caller:
    return Caller(service)


@pytest.fixture
def bob(service: Service) -> Caller:
    return Caller(service)


def challenge_of(answer: requests.Response) -> str:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["status"] == answer.status_code
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    return answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_every_route_challenges_and_names_no_error(service: Service, path: str) -> None:
    answer = service.post(path)
    assert answer.status_code == 401
    challenge = challenge_of(answer)
    assert challenge.startswith('Bearer realm="')
    assert "error" not in challenge


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_token_is_invalid_token_on_every_route(service: Service, path: str) -> None:
    answer = service.post(path, headers={"Authorization": f"Bearer {token()[:-2]}AA"})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in challenge_of(answer)


@pytest.mark.parametrize("path", [path for path in PATHS if path != DOCUMENT])
def test_a_token_without_the_scope_is_insufficient_scope_on_every_route(service: Service, path: str) -> None:
    answer = service.post(path, headers=bearer(scope="data"))
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in challenge_of(answer)


@pytest.mark.parametrize("scope", ["", "task", "taskss", "TASKS", "data,tasks", "tasks:read"])
def test_a_scope_is_a_whole_word(service: Service, scope: str) -> None:
    assert service.post("/api/types", headers=bearer(scope=scope)).status_code == 403


@pytest.mark.parametrize("scope", ["tasks", "data tasks", "tasks data"])
def test_the_scope_among_others_is_enough(service: Service, scope: str) -> None:
    assert service.post("/api/types", headers=bearer(scope=scope)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer junk"}, {"Authorization": "Basic eDp5"}])
def test_health_says_the_status_alone_to_all(service: Service, headers: dict[str, str]) -> None:
    answer = service.post("/health", headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": VERSION})


def test_health_says_more_to_any_good_token(service: Service) -> None:
    answer = service.post("/health", headers=bearer(scope="data"))
    assert answer.json().keys() == {"status", "version", "database", "queue", "workers"}


def test_the_document_is_for_any_good_token(service: Service) -> None:
    assert service.post(DOCUMENT, headers=bearer(scope="data")).json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_written_in_any_case(service: Service, scheme: str) -> None:
    assert service.post("/api/types", headers={"Authorization": f"{scheme} {token()}"}).status_code == 200


def credentials() -> Iterator[tuple[str, str]]:
    good = token()
    a, b, c = good.split(".")
    yield "an empty header", ""
    yield "no token", "Bearer"
    yield "the token alone", good
    yield "Basic", "Basic dXNlcjpwYXNz"
    yield "another scheme", f"Token {good}"
    yield "a tab", f"Bearer\t{good}"
    yield "a comma", f"Bearer {good},"
    yield "two tokens", f"Bearer {good} {good}"
    yield "a list of two", f"Bearer {good}, Bearer {good}"
    yield "quotes", f'Bearer "{good}"'
    yield "padding", f"Bearer {good}="
    yield "an unsigned one", f"Bearer {segment(header(alg='none'))}.{b}."
    yield "other claims", f"Bearer {a}.{segment({'sub': 'admin'})}.{c}"
    yield "another secret", f"Bearer {sign(header(), {'sub': 'x'}, SECRET.upper())}"
    yield "an expired one", f"Bearer {token(exp=1, iat=0, nbf=0)}"
    yield "the wrong audience", f"Bearer {token(aud='other')}"
    yield "exp as Infinity", f"Bearer {token(exp=float('inf'))}"
    yield "exp as a list", f"Bearer {token(exp=[])}"
    yield "ver of 31 digits", f"Bearer {token(ver=10**30)}"
    yield "a lone surrogate", f"Bearer {token(sub=chr(0xD800))}"
    yield "a kid of lists", f"Bearer {sign({**header(), 'kid': []}, {})}"
    yield "a deep header", f"Bearer {segment(b'[' * 2900)}.{b}.{c}"
    yield "Latin-1", "Bearer é.é.é"
    yield "50 KB", f"Bearer {'A' * 50_000}"


CREDENTIALS = dict(credentials())


def test_bad_credentials_of_any_kind_have_one_and_the_same_answer(service: Service) -> None:
    answers = {}
    for name, value in CREDENTIALS.items():
        headers: dict[str, str | bytes] = {"Authorization": value.encode("latin-1"), "X-Request-ID": "the-same-for-all"}
        answer = service.session.post(f"{service.url}/api/types", json={}, headers=headers, timeout=10)
        answers[name] = (answer.status_code, answer.headers.get("WWW-Authenticate"), answer.content)
    assert len(set(answers.values())) == 1, answers
    assert answers["Basic"][0] == 401


def test_a_token_is_checked_before_the_body(service: Service) -> None:
    answer = service.request("POST", "/api/task", data=b"{", headers={"Content-Type": "text/plain"}, timeout=10)
    assert answer.status_code == 401


def test_a_token_in_the_query_is_not_taken(service: Service) -> None:
    for name in ("access_token", "token", "authorization"):
        assert service.post(f"/api/types?{name}={token()}").status_code == 401


def test_a_token_in_the_body_or_a_cookie_is_not_taken(service: Service) -> None:
    url = f"{service.url}/api/types"
    assert service.post("/api/types", {"access_token": token()}).status_code == 401
    assert requests.post(url, data={"access_token": token()}, timeout=10).status_code == 401
    assert requests.post(url, json={}, cookies={"access_token": token()}, timeout=10).status_code == 401


@pytest.mark.parametrize("second", ["Bearer {}", "Basic dXNlcjpwYXNz", ""])
def test_two_authorization_headers_are_a_400(service: Service, second: str) -> None:
    lines = [f"Authorization: Bearer {token()}", f"Authorization: {second.format(token())}".rstrip()]
    head = ["POST /api/types HTTP/1.1", "Host: localhost", *lines, "Content-Length: 2", "Connection: close", "", "{}"]
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall("\r\n".join(head).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "duplicate_header"


def test_no_token_is_in_the_log(service: Service, alice: Caller) -> None:
    before = len(service.log.read_text())
    alice.submit()
    service.post(f"/api/types?access_token={alice.headers['Authorization'][7:]}")
    eventually(lambda: "status=401" in service.log.read_text()[before:])
    written = service.log.read_text()
    assert alice.headers["Authorization"][7:].split(".")[2] not in written
    assert SECRET not in written


NOBODYS = "01932f3e-7b1a-7c3d-9e4f-0123456789ab"


@pytest.mark.parametrize("path", ["/api/result", "/api/cancel", "/api/retry"])
def test_the_task_of_another_is_the_same_to_the_byte_as_none(
    service: Service, alice: Caller, bob: Caller, path: str
) -> None:
    task_id = alice.submit("fail", wait=10)["task_id"]
    same = {"X-Request-ID": "the-same-for-both"}
    theirs, none = (bob.post(path, {"task_id": id}, **same) for id in (task_id, NOBODYS))
    assert (theirs.status_code, theirs.json()["code"]) == (404, "task_not_found")
    assert theirs.content == none.content
    assert {**theirs.headers, "date": ""} == {**none.headers, "date": ""}


def test_the_task_of_another_goes_on_untouched(alice: Caller, bob: Caller) -> None:
    task_id = alice.submit(delay=1000)["task_id"]
    bob.post("/api/cancel", {"task_id": task_id})
    assert alice.post("/api/result", {"task_id": task_id}).json()["status"] == "queued"


def test_waiting_for_the_task_of_another_is_answered_at_once(alice: Caller, bob: Caller) -> None:
    task_id = alice.submit(delay=1000)["task_id"]
    answer = bob.post("/api/result", {"task_id": task_id, "wait": 20})
    assert answer.status_code == 404
    assert answer.elapsed.total_seconds() < 5


def test_a_list_has_the_callers_own_tasks_alone(alice: Caller, bob: Caller) -> None:
    mine = [alice.submit()["task_id"] for _ in range(3)]
    theirs = bob.submit()["task_id"]
    assert alice.tasks() == mine[::-1]
    assert bob.tasks() == bob.tasks(type="echo") == [theirs]
    assert bob.tasks(status="failed") == []


def test_a_batch_belongs_to_its_caller(alice: Caller, bob: Caller) -> None:
    items = alice.post("/api/batch", {"tasks": [{"type": "echo"}] * 2}).json()["items"]
    assert {item["task_id"] for item in items} == set(alice.tasks())
    assert bob.tasks() == []


def test_the_cursor_of_another_is_refused(alice: Caller, bob: Caller) -> None:
    for caller in (alice, bob):
        caller.post("/api/batch", {"tasks": [{"type": "echo"}] * 3})
    cursor = alice.post("/api/tasks", {"limit": 1}).json()["next_cursor"]
    answer = bob.post("/api/tasks", {"limit": 1, "cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")
    assert alice.post("/api/tasks", {"limit": 1, "cursor": cursor}).status_code == 200


@pytest.mark.parametrize("path", ["/api/task", "/api/batch"])
def test_two_callers_may_use_the_same_idempotency_key(alice: Caller, bob: Caller, path: str) -> None:
    body: Any = {"type": "echo"} if path == "/api/task" else {"tasks": [{"type": "echo"}]}
    answers = [caller.post(path, body, **{"Idempotency-Key": "same"}) for caller in (alice, bob)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() != answers[1].json()
    assert not any("Idempotency-Replayed" in answer.headers for answer in answers)


def test_a_caller_is_the_subject_and_not_the_token(service: Service) -> None:
    sub = str(uuid.uuid4())
    made = service.post("/api/task", {"type": "echo"}, headers=bearer(sub=sub)).json()
    again = service.post("/api/result", {"task_id": made["task_id"]}, headers=bearer(sub=sub, scope="tasks"))
    assert again.json()["task_id"] == made["task_id"]
