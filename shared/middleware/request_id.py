"""An id for each request, and the headers that every response carries."""

import random
import re
from collections.abc import Iterable
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.middleware.added_headers import adding

ACCEPTED = re.compile(rb"[A-Za-z0-9._+/=-]{8,200}")

current: ContextVar[str] = ContextVar("request_id", default="")


def standard_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-request-id", request_id.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]


def new() -> str:
    return f"{random.getrandbits(128):032x}"  # an id, not a secret


def choose(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own id, if it is one."""
    for name, value in headers:
        if name == b"x-request-id" and ACCEPTED.fullmatch(value):
            return str(value, "ascii")
    return new()


class RequestId:
    """Puts the id into the scope, the log's context and every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        request_id = scope["request_id"] = choose(scope["headers"])
        current.set(request_id)
        await self.app(scope, receive, adding(send, standard_headers(request_id)))
