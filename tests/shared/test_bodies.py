"""What counts as a JSON body."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.bodies import Arriving, Shape, parse_json, read, read_json
from shared.errors import BadRequest, ExceptionHandler, Invalid, Problem
from shared.middleware.body_limit import BodyLimit
from shared.strict_json import MAX_DEPTH, encode

REFUSED = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "half an object": b'{"a":1',
    "two values": b"{} {}",
    "single quotes": b"{'a':1}",
    "a comment": b"{/* */}",
    "a comma too many": b'{"a":1,}',
    "a leading zero": b'{"a":01}',
    "a leading plus": b'{"a":+1}',
    "a bare point": b'{"a":1.}',
    "hexadecimal": b'{"a":0x10}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "a float out of range": b'{"a":1e999}',
    "a negative float out of range": b'{"a":-1e999}',
    "an integer of 4,301 digits": b'{"a":' + b"9" * 4301 + b"}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "Latin-1": '{"a":"é"}'.encode("latin-1"),
    "an overlong encoding": b'{"a":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, once escaped": b'{"a":1,"\\u0061":1}',
    "a key twice, far in": b'{"a":[{"b":{"c":1,"c":2}}]}',
    "a lone high surrogate": b'{"a":"\\ud800"}',
    "a lone low surrogate": b'{"a":"\\udc00"}',
    "surrogates in the wrong order": b'{"a":"\\udc00\\ud800"}',
    "a lone surrogate in a key": b'{"\\ud800":1}',
    "NUL in a string": b'{"a":"\\u0000"}',
    "NUL behind a backslash": b'{"a":"\\\\\\u0000"}',
    "NUL in a key": b'{"a\\u0000":1}',
    "NUL in a list": b'{"a":[["x\\u0000"]]}',
    "a raw NUL": b'{"a":"\x00"}',
    "a raw line feed in a string": b'{"a":"\n"}',
    "65 lists": b"[" * 65 + b"]" * 65,
    "65 objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "lists without end": b"[" * 200_000,
    "objects without end": b'{"a":' * 200_000,
    "deep with an escape": b'{"b":"\\u0061","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_json_is_a_400_invalid_json(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert caught.value.detail


NUMBERS = ["9007199254740993", "-0.0", "123456789012345678901234567890", "-1", "0", "0.1", "1.5e-07", "9" * 4300]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:32])
def test_a_number_is_written_as_it_was_read(number: str) -> None:
    assert encode(parse_json(f"[{number}]".encode())) == f"[{number}]"


@pytest.mark.parametrize("text", ["\\u0000", "a\\\\u0000", "😀", "\u2028", "\x7f", "\U0010ffff", "\ufeff"])
def test_a_string_that_only_looks_odd_is_kept(text: str) -> None:
    assert parse_json(json.dumps({text: text}).encode()) == {text: text}
    assert parse_json(json.dumps({text: text}, ensure_ascii=False).encode()) == {text: text}


@pytest.mark.parametrize("depth", [1, MAX_DEPTH])
def test_64_levels_are_accepted(depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        assert encode(parse_json(body)).encode() == body


def test_brackets_in_strings_and_side_by_side_are_no_depth() -> None:
    assert parse_json(json.dumps("[" * 1000).encode()) == "[" * 1000
    assert parse_json(b"[" + b",".join([b"[]"] * 1000) + b"]") == [[]] * 1000


def test_the_depth_of_the_deepest_branch_counts() -> None:
    shallow = b",".join([b"[]"] * 100)
    with pytest.raises(BadRequest):
        parse_json(b"[" + shallow + b"," + b"[" * 64 + b"]" * 64 + b"," + shallow + b"]")


def request_of(*messages: Message, headers: dict[str, str] | None = None) -> Request[Any]:
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_put_together() -> None:
    request = request_of(part(b'{"a"', more=True), part(b":", more=True), part(b"1}"))
    assert asyncio.run(read(request)) == b'{"a":1}'


def test_a_client_that_leaves_in_the_middle_is_told_apart() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(read(request_of(part(b"{", more=True), {"type": "http.disconnect"})))


def test_a_body_that_is_late_already_harms_no_other_where_there_are_too_many_bytes() -> None:
    async def work() -> bool:
        arriving = Arriving(10)
        async with asyncio.timeout(None) as other:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0) as late:
                    arriving.grew(late, 6)
                    try:
                        await asyncio.sleep(60)
                    finally:
                        arriving.grew(other, 6)
            await asyncio.sleep(0)
        return other.expired()

    assert not asyncio.run(work())


@pytest.mark.parametrize("body", [b"[]", b"1", b'"text"', b"null", b"true"])
def test_json_that_is_no_object_is_a_422(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        asyncio.run(read_json(request_of(part(body))))
    assert [fault.pointer for fault in caught.value.errors] == [""]


JSON_TYPES = [
    "application/json",
    "APPLICATION/JSON",
    "application/json;charset=utf-8",
    'application/json; charset="UTF-8"',
    "application/json ; charset=utf8",
    "application/json;",
]


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_json_by_any_spelling_of_its_media_type_is_read(content_type: str) -> None:
    request = request_of(part(b"{}"), headers={"Content-Type": content_type})
    assert asyncio.run(read_json(request)) == {}


def test_a_body_without_a_content_type_is_read_as_json() -> None:
    assert asyncio.run(read_json(request_of(part(b"{}")))) == {}


OTHER_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "text/json",
    "application/json, text/plain",
    "application/json; charset=utf-16",
    "application",
    "*/*",
]


@pytest.mark.parametrize("content_type", OTHER_TYPES)
def test_another_media_type_is_a_415_that_says_what_to_send(content_type: str) -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(read_json(request_of(part(b"{}"), headers={"Content-Type": content_type})))
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
    assert "curl --json" in caught.value.detail
    assert "Content-Type: application/json" in caught.value.detail


def test_a_compressed_body_is_a_415() -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(read_json(request_of(part(b"{}"), headers={"Content-Encoding": "gzip"})))
    assert caught.value.status == 415


def status_through_limit(limit: int, parts: list[bytes], declared: int | None) -> tuple[int, int]:
    """The status that a client sees, and how many bytes of its body were taken."""
    waiting = [part(body, more=index < len(parts) - 1) for index, body in enumerate(parts)]
    taken = 0
    statuses: list[int] = []

    async def receive() -> Message:
        nonlocal taken
        message = waiting.pop(0)
        taken += len(message["body"])
        return message

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(Request(scope, receive))
        await Response()(scope, receive, send)

    headers = [] if declared is None else [(b"content-length", str(declared).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    asyncio.run(ExceptionHandler(BodyLimit(app, limit))(scope, receive, send))
    return statuses[0], taken


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    assert status_through_limit(10, [b"x" * 10], declared=10) == (200, 10)
    assert status_through_limit(10, [b"x" * 5, b"x" * 5], declared=None) == (200, 10)


def test_a_declared_length_above_the_limit_is_refused_unread() -> None:
    assert status_through_limit(10, [b"x" * 11], declared=11) == (413, 0)


def test_an_undeclared_length_is_counted_while_it_streams() -> None:
    assert status_through_limit(10, [b"x" * 4] * 100, declared=None) == (413, 12)


def test_a_length_that_was_declared_too_small_is_counted_all_the_same() -> None:
    assert status_through_limit(10, [b"x" * 4] * 100, declared=4) == (413, 12)


def test_the_sentence_about_a_413_names_the_limit() -> None:
    problem = BodyLimit(lambda *_: asyncio.sleep(0), 1234)._too_large()
    assert (problem.status, problem.code) == (413, "body_too_large")
    assert "1234" in problem.detail


def test_the_codec_refuses_to_write_what_is_not_json() -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode({"a": float("nan")})


@dataclass
class Point:
    x: int
    y: float = 0.0


def test_a_shape_parses_to_its_dataclass() -> None:
    assert Shape(Point).parse({"x": 1}) == Point(1)


def test_a_shape_raises_all_its_faults_at_once_and_speaks_of_the_first() -> None:
    with pytest.raises(Invalid) as caught:
        Shape(Point).parse({"y": "a", "z": 1})
    assert [fault.pointer for fault in caught.value.errors] == ["/x", "/y", "/z"]
    assert (caught.value.status, caught.value.code, caught.value.detail) == (422, "invalid_request", "x: required")
