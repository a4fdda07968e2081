"""What goes out on the wire, and in how many pieces."""

import asyncio
from collections.abc import Sequence

import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from shared.errors import ExceptionHandler
from shared.http.protocol import Protocol


class Reading:
    """An app that waits for the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n"


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.is_gone = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes) and not self.is_gone
        self.pieces.append(data)

    def is_closing(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.is_gone = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def opened(app: ASGIApp, wire: Wire) -> Protocol:
    """A connection. To be called in a loop."""
    config = uvicorn.Config(app, http=Protocol, ws="none", server_header=False, date_header=False)
    config.load()
    protocol = Protocol(config, ServerState(), {})
    protocol.connection_made(wire)
    return protocol


def sent(app: ASGIApp, *received: bytes, drops: bool = False) -> Wire:
    """What comes out for what comes in; the client is gone before the answer where it `drops`."""

    async def exchange() -> Wire:
        wire = Wire()
        protocol = opened(app, wire)
        for data in received:
            protocol.data_received(data)
            if drops:
                protocol.connection_lost(None)
            for _ in range(20):
                await asyncio.sleep(0)
        return wire

    return asyncio.run(exchange())


PLAIN = Response(b"{}", media_type="application/json")
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"


def test_a_whole_answer_is_one_piece() -> None:
    assert sent(PLAIN, GET, GET).pieces == [WHOLE, WHOLE]


def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    assert sent(PLAIN, GET + GET + GET).pieces == [WHOLE] * 3


def test_an_answer_without_a_body_is_one_piece() -> None:
    assert sent(Response(status_code=204), GET).pieces == [b"HTTP/1.1 204 No Content\r\n\r\n"]
    etag = Response(status_code=304, headers={"ETag": '"1"'})
    assert sent(etag, GET).pieces == [b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\n\r\n']


def joined(pieces: Sequence[bytes]) -> bytes:
    return b"".join(pieces)


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    assert joined(sent(PLAIN, HEAD).pieces) == WHOLE.removesuffix(b"{}")


def test_a_body_in_pieces_goes_out_as_it_comes() -> None:
    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        async def pieces() -> object:
            yield b"{"
            yield b"}"

        await StreamingResponse(pieces())(scope, receive, send)  # type: ignore[arg-type]

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert joined(sent(streaming, GET).pieces) == head + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [LAST, GET], ids=["the client's wish", "ours"])
def test_a_connection_that_ends_says_so(request_bytes: bytes) -> None:
    app = PLAIN if request_bytes is LAST else Response(b"{}", headers={"Connection": "close"})
    wire = sent(app, request_bytes)
    assert b"\r\nconnection: close\r\n" in joined(wire.pieces) and joined(wire.pieces).endswith(b"\r\n\r\n{}")
    assert wire.is_gone


def test_nothing_is_sent_to_a_client_that_has_gone() -> None:
    assert sent(PLAIN, GET, drops=True).pieces == []


def test_a_client_that_waits_for_100_continue_is_told_at_once() -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await PLAIN(scope, receive, send)

    assert sent(reads, EXPECTING, b"x").pieces == [b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE]


def test_an_app_that_fails_between_head_and_body_gives_a_500() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError

    assert joined(sent(ExceptionHandler(failing), GET).pieces).startswith(b"HTTP/1.1 500 ")


def test_the_answers_of_one_turn_go_out_together_behind_it() -> None:
    wires = [Wire(), Wire()]
    sent_by_then: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PLAIN(scope, receive, send)
        sent_by_then.append(sum(len(wire.pieces) for wire in wires))

    async def exchange() -> None:
        for wire in wires:
            opened(app, wire).data_received(GET)
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(exchange())
    assert sent_by_then == [0, 0]
    assert [wire.pieces for wire in wires] == [[WHOLE], [WHOLE]]


def test_no_answer_is_lost_where_the_connection_is_closed_in_the_same_turn() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PLAIN(scope, receive, send)
        raise RuntimeError("behind the answer")

    wire = sent(app, GET)
    assert (joined(wire.pieces), wire.is_gone) == (WHOLE, True)


def test_no_answer_is_lost_where_the_server_stops_in_the_same_turn() -> None:
    wire, protocols = Wire(), list[Protocol]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PLAIN(scope, receive, send)
        protocols[0].shutdown()

    async def exchange() -> None:
        protocols.append(opened(app, wire))
        protocols[0].data_received(GET)
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(exchange())
    assert (joined(wire.pieces), wire.is_gone) == (WHOLE, True)


def test_answers_keep_their_order_whichever_way_they_go() -> None:
    pieces = joined(sent(PLAIN, GET + HEAD + GET + LAST).pieces)
    last = WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert pieces == WHOLE + WHOLE.removesuffix(b"{}") + WHOLE + last


def test_a_long_stream_is_not_held_back() -> None:
    wire = Wire()
    sent_by_then: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
            sent_by_then.append(len(joined(wire.pieces)))
        await send({"type": "http.response.body"})

    async def exchange() -> None:
        opened(app, wire).data_received(GET)
        await asyncio.sleep(0)

    asyncio.run(exchange())
    assert sent_by_then[-1] > 90_000


class Repeating:
    """An app that answers with the method and the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await Response(scope["method"].encode() + b" " + body)(scope, receive, send)


SUBMIT = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
BREW = b"BREW / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
MADE_UP: dict[str, list[bytes]] = {
    "alone": [BREW],
    "in pieces": [BREW[:10], BREW[10:]],
    "behind another": [GET, BREW],
    "sent ahead": [GET + BREW],
    "sent ahead of a body": [SUBMIT + BREW],
    "behind a body": [SUBMIT[:-2], SUBMIT[-2:] + BREW],
    "with an upgrade": [BREW.replace(b"host: x", b"host: x\r\nconnection: upgrade\r\nupgrade: x")],
    "chunked": [b"BREW / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
}


@pytest.mark.parametrize("name", MADE_UP)
def test_a_method_that_the_parser_does_not_know_is_the_application_s(name: str) -> None:
    answers = joined(sent(Repeating(), *MADE_UP[name], GET).pieces).split(b"HTTP/1.1 200 OK")
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers][-2:] == [b"BREW abc", b"GET "]


@pytest.mark.parametrize(
    "received",
    [
        [b"POST / HTTP/1.1\r\n", b"bad line\r\n\r\n"],
        [b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"bad chunk\r\n"],
        [b"POST / HTTP/4.7\r\nhost: x\r\n\r\n"],
    ],
    ids=["header", "chunk", "version"],
)
def test_what_follows_a_known_method_is_a_400(received: list[bytes]) -> None:
    *_, answer = sent(Reading(), *received).pieces
    assert answer.startswith(b"HTTP/1.1 400 ")
