"""What goes out on the wire, and in how many pieces."""

import asyncio

import pytest

from shared.http_protocol import Transport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


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
        self.pieces.append(b"closed")


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_a_head_goes_out_with_its_body(wire: Wire) -> None:
    transport = Transport(wire)
    for _ in range(2):
        transport.write(HEAD)
        transport.write(b"{}")
    assert wire.pieces == [HEAD + b"{}"] * 2


def test_a_body_in_pieces_goes_out_as_it_comes(wire: Wire) -> None:
    transport = Transport(wire)
    for piece in (HEAD, b"{", b"}"):
        transport.write(piece)
    assert wire.pieces == [HEAD + b"{", b"}"]


def test_a_head_without_a_body_goes_out_when_the_response_is_complete(wire: Wire) -> None:
    transport = Transport(wire)
    transport.write(HEAD)
    transport.write(b"")
    transport.write(b"")
    assert wire.pieces == [HEAD]


def test_nothing_is_sent_to_a_client_that_has_gone(wire: Wire) -> None:
    transport = Transport(wire)
    transport.write(HEAD)
    wire.is_gone = True
    transport.close()
    assert wire.pieces == [b"closed"]


def test_a_head_goes_out_before_the_connection_ends(wire: Wire) -> None:
    transport = Transport(wire)
    transport.write(HEAD)
    transport.close()
    assert wire.pieces == [HEAD, b"closed"]


def test_a_client_that_waits_for_100_continue_is_told_at_once(wire: Wire) -> None:
    Transport(wire).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n"]
