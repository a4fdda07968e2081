"""Holds the answers that the tests get against the OpenAPI document of their service, and what it took too."""

import re
from functools import cache, reduce
from operator import getitem
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

import only_post_svc.document
import token_svc.document
from shared import strict_json
from shared.openapi import JSON, PROBLEM_JSON
from shared.schemas import Schema
from token_svc.handlers.oauth import FORM

MAX_CHECKED_BYTES = 64 * 1024  # of a request: a batch of a thousand takes a while
UNROUTED = {
    400: {"duplicate_header", "invalid_host", "invalid_http"},
    403: {"cross_site", "https_required"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    413: {"body_too_large"},
    429: {"rate_limited"},
}


class Place(NamedTuple):
    """Where an operation stands in the document."""

    path: str
    method: str


class Document:
    def __init__(self, described: Schema) -> None:
        self.described = _closed(described, described["components"])
        self._paths = [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), path) for path in described["paths"]]
        self._validators: dict[tuple[str, ...], Validator] = {}

    def check(self, answer: requests.Response, **options: Any) -> None:
        """A hook of requests. Raises AssertionError for what the document does not say."""
        if options.get("stream"):
            return  # it is the test that reads it
        place = self._place_of(answer.request)
        if place is None:
            self._check_unrouted(answer)
            return
        operation = self._operation(place)
        status = str(answer.status_code)
        assert status in operation["responses"], _said(answer)
        self._check_headers(answer, operation["responses"][status]["headers"])
        content = operation["responses"][status]["content"]
        self._check_body(answer, content, ("paths", *place, "responses", status, "content"))
        if answer.ok:
            self._check_taken(answer, operation.get("requestBody"), ("paths", *place, "requestBody", "content"))

    def _place_of(self, request: requests.PreparedRequest) -> Place | None:
        path = unquote(urlsplit(request.url or "").path)
        method = "get" if request.method == "HEAD" else (request.method or "").lower()
        found = next((template for pattern, template in self._paths if pattern.fullmatch(path)), None)
        return Place(found, method) if found and method in self.described["paths"][found] else None

    def _operation(self, place: Place) -> Any:
        return self.described["paths"][place.path][place.method]

    def _check_unrouted(self, answer: requests.Response) -> None:
        if answer.request.method == "HEAD":
            assert answer.status_code in UNROUTED, _said(answer)
            return
        problem = strict_json.decode(answer.content)
        code = problem.get("code") if isinstance(problem, dict) else None
        assert code in UNROUTED.get(answer.status_code, ()), _said(answer)
        name = "ProblemDetails" if _media_type(answer) == PROBLEM_JSON else "OAuthProblem"
        self._validate(answer, problem, ("components", "schemas", name))

    def _check_headers(self, answer: requests.Response, described: Schema) -> None:
        for name in self.described["components"]["headers"]:
            if name in answer.headers:
                assert name in described, f"{name} is not described: {_said(answer)}"
            elif name in described:
                assert not described[name].get("required"), f"{name} is missing: {_said(answer)}"

    def _check_body(self, answer: requests.Response, content: Schema, at: tuple[str, ...]) -> None:
        if answer.request.method == "HEAD" or not content:
            assert not answer.content, _said(answer)
            return
        kind = _media_type(answer)
        assert kind in content, _said(answer)
        value = answer.text if kind.startswith("text/plain") else strict_json.decode(answer.content)
        self._validate(answer, value, (*at, kind, "schema"))

    def _check_taken(self, answer: requests.Response, described: Schema | None, at: tuple[str, ...]) -> None:
        """What was taken is what the document says may be sent."""
        sent = answer.request.body or b""
        raw = sent.encode() if isinstance(sent, str) else sent
        if described is None or not isinstance(raw, bytes) or len(raw) > MAX_CHECKED_BYTES:
            return
        if not raw:
            assert not described["required"], f"taken without a body: {_said(answer)}"
            return
        kind = str(answer.request.headers.get("Content-Type", JSON)).partition(";")[0].strip().lower()
        body = dict(parse_qsl(raw.decode(), keep_blank_values=True)) if kind == FORM else strict_json.decode(raw)
        self._validate(answer, body, (*at, kind, "schema"))

    def _validate(self, answer: requests.Response, value: Any, at: tuple[str, ...]) -> None:
        if at not in self._validators:
            schema = reduce(getitem, at, self.described)
            self._validators[at] = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        fault = next(self._validators[at].iter_errors(value), None)
        assert fault is None, f"{fault.json_path} {fault.message}: {_said(answer)}"


def _media_type(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "")


def _said(answer: requests.Response) -> str:
    return f"{answer.request.method} {answer.request.path_url}: {answer.status_code} {answer.text[:500]}"


def _closed(schema: Any, components: Schema) -> Any:
    """The same in full, without references, which take time; and without members that are not described:
    clients have to bear with those, the tests don't."""
    if isinstance(schema, list):
        return [_closed(one, components) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one, components) for name, one in schema.items() if name != "$ref"}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    if "$ref" not in schema:
        return closed
    kind, name = schema["$ref"].removeprefix("#/components/").split("/")
    referred = _closed(components[kind][name], components)
    return {"allOf": [referred, closed]} if closed else referred


@cache
def document_of(module: str, *, health_get: bool) -> Document:
    """What the service says of itself when it asks for tokens; of the tasks' own payloads nothing."""
    if module == "token_svc":
        return Document(strict_json.decode(token_svc.document.document().encode()))
    return Document(only_post_svc.document.describe(health_get=health_get, has_tokens=True))
