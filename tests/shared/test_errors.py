"""What is raised is answered, once, and what nobody foresaw is not hidden."""

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Scope

from shared.errors import Conflict, ExceptionHandler, TooManyRequests, Unavailable
from shared.middleware.access_log import AccessLog
from shared.middleware.request_id import RequestId
from shared.openapi import Operation
from shared.routing import Path, Routes


async def answered(app: ASGIApp, **scope: Any) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{scope['type']}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def exchange(app: ASGIApp, method: str = "POST", path: str = "/", **scope: Any) -> tuple[int, dict[bytes, bytes], Any]:
    """Status, headers and body."""
    given: Scope = {"type": "http", "method": method, "path": path, "headers": [], "client": None, **scope}
    start, body = asyncio.run(answered(app, **given))
    content = body["body"]
    return start["status"], dict(start["headers"]), json.loads(content) if content[:1] == b"{" else content


def raising(error: BaseException) -> ASGIApp:
    async def app(*_: Any) -> None:
        raise error

    return ExceptionHandler(app)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Conflict("username_taken", "try another"), 409, "username_taken"),
        (TooManyRequests(1.5), 429, "rate_limited"),
        (ClientDisconnect(), 400, "client_disconnected"),
        (asyncio.CancelledError(), 503, "shutting_down"),
    ],
)
def test_what_is_raised_is_answered(error: BaseException, status: int, code: str) -> None:
    found, headers, body = exchange(raising(error))
    assert (found, body["status"], body["code"]) == (status, status, code)
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"retry-after" in headers) == (status in (429, 503))


def test_what_nobody_foresaw_is_answered_under_its_request_id_and_goes_on_to_the_server() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def work() -> None:
        scope: Scope = {"type": "http", "method": "POST", "headers": [], "client": None}
        app = RequestId(AccessLog(raising(ZeroDivisionError("a secret"))))
        await app(scope, lambda: asyncio.sleep(0, {}), send)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())
    start, body = sent
    described = json.loads(body["body"])
    assert (start["status"], described["code"]) == (500, "internal_error")
    assert described["request_id"] == dict(start["headers"])[b"x-request-id"].decode()
    assert b"secret" not in body["body"]


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise Conflict("too", "late")

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(Conflict):
        asyncio.run(ExceptionHandler(app)({"type": "http"}, lambda: asyncio.sleep(0, {}), send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_a_head_without_a_body_may_still_become_another_answer() -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise Unavailable("database_unavailable", "the first page could not be read")

    status, headers, body = exchange(ExceptionHandler(app))
    assert (status, body["code"]) == (503, "database_unavailable")
    assert b"retry-after" in headers


async def show(request: Request[Any]) -> Response:
    return PlainTextResponse(f"{request.method} {request.path_params.get('id', '-')}")


SHOW = (show, Operation(name="show", summary="Show it", answers={}))
PATHS = [Path("/one", GET=SHOW, PUT=SHOW), Path("/some/{id}", GET=SHOW)]
ROUTES = ExceptionHandler(Routes(PATHS, middleware=[], lifespan=lambda app: nullcontext()))


@pytest.mark.parametrize(
    ("method", "path", "root", "expected"),
    [
        ("GET", "/one", "", b"GET -"),
        ("HEAD", "/one", "", b"HEAD -"),
        ("PUT", "/one", "", b"PUT -"),
        ("GET", "/some/x", "", b"GET x"),
        ("GET", "/app/one", "/app", b"GET -"),
        ("GET", "/app/some/x", "/app", b"GET x"),
    ],
)
def test_a_path_has_its_handler(method: str, path: str, root: str, expected: bytes) -> None:
    status, _, body = exchange(ROUTES, method, path, root_path=root)
    assert (status, body) == (200, expected)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("DELETE", "/one", b"GET, HEAD, PUT"), ("get", "/one", b"GET, HEAD, PUT"), ("POST", "/some/x", b"GET, HEAD")],
)
def test_another_method_is_told_which_there_are(method: str, path: str, allowed: bytes) -> None:
    status, headers, body = exchange(ROUTES, method, path)
    assert (status, body["code"], headers[b"allow"]) == (405, "method_not_allowed", allowed)


@pytest.mark.parametrize("path", ["/", "/two", "/one/", "/some/", "/some/x/y", "//one", "/ONE"])
def test_another_path_is_none(path: str) -> None:
    status, _, body = exchange(ROUTES, "GET", path)
    assert (status, body["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/one", "/two"])
def test_nobody_speaks_websocket(path: str) -> None:
    (message,) = asyncio.run(answered(ROUTES, type="websocket", path=path, headers=[]))
    assert message["type"] == "websocket.close"
