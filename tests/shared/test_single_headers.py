"""Headers that may come but once."""

import asyncio
import json

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Scope

from shared.errors import ExceptionHandler
from shared.middleware.single_headers import SINGLE, SingleHeaders, single_header

Headers = list[tuple[bytes, bytes]]


def status_and_body(headers: Headers, http_version: str = "1.1") -> tuple[int, bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "http_version": http_version, "headers": headers}
    asyncio.run(ExceptionHandler(SingleHeaders(PlainTextResponse("fine")))(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("name", sorted(SINGLE))
@pytest.mark.parametrize("values", [(b"a", b"a"), (b"a", b"b"), (b"", b"a")])
def test_one_that_comes_twice_is_refused_and_named(name: bytes, values: tuple[bytes, bytes]) -> None:
    status, body = status_and_body([(b"accept", b"*/*"), *((name, value) for value in values)])
    assert (status, json.loads(body)["code"]) == (400, "duplicate_header")
    assert json.loads(body)["detail"].startswith(name.decode())


@pytest.mark.parametrize("headers", [[(b"host", b"x")], [(b"cookie", b"a"), (b"host", b"x"), (b"cookie", b"b")]])
def test_others_may_come_as_often_as_they_like(headers: Headers) -> None:
    assert status_and_body(headers) == (200, b"fine")


@pytest.mark.parametrize(("version", "status"), [("1.0", 200), ("1.1", 400), ("2.0", 400)])
def test_a_host_is_needed_after_http_1_0(version: str, status: int) -> None:
    assert status_and_body([], version)[0] == status


def test_one_is_found_by_its_name() -> None:
    scope: Scope = {"headers": [(b"host", b"x"), (b"content-type", b"caf\xe9")]}
    assert single_header(scope, b"content-type") == "café"
    assert single_header(scope, b"authorization") is None
