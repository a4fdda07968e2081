"""Headers that may be sent only once."""

import re
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors

# Where a proxy and a service read different copies of one, requests can be smuggled (RFC 9112 §11.2).
SINGLE = frozenset(
    {b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"idempotency-key"}
)
MAX_HOST_BYTES = 300  # a name has 253 at most
BY_NAME = "headers_by_name"


# RFC 3986 §3.2.2: a name, an IPv4 address, or one of another kind in brackets; and a port.
HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(:[0-9]*)?|\[[0-9A-Fa-f:.vV]+\](:[0-9]*)?")


class SingleHeaders:
    """Answers 400 to a request that repeats one of them, and to HTTP/1.1 without a well-formed Host (RFC 9112 §3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = headers_by_name(scope)
            if len(sent) < len(scope["headers"]) and (repeated := _repeated(scope)):
                raise errors.BadRequest("duplicate_header", f"{repeated}: sent more than once")
            if scope["http_version"] != "1.0" and not _is_host(sent.get(b"host")):
                raise errors.BadRequest("invalid_host", "Host: needed, as name:port")
        await self.app(scope, receive, send)


def _is_host(value: bytes | None) -> bool:
    return value is not None and len(value) <= MAX_HOST_BYTES and _is_well_formed(value)


@lru_cache(maxsize=1024)
def _is_well_formed(host: bytes) -> bool:
    return HOST.fullmatch(host) is not None


def single_header(scope: Scope, name: bytes) -> str | None:
    """The value of one of SINGLE, None when it was not sent. The headers are indexed once a request."""
    value: bytes | None = headers_by_name(scope).get(name)
    return None if value is None else value.decode("latin-1")


def headers_by_name(scope: Scope) -> dict[bytes, bytes]:
    """The last of each name."""
    if BY_NAME not in scope:
        scope[BY_NAME] = dict(scope["headers"])
    found: dict[bytes, bytes] = scope[BY_NAME]
    return found


def _repeated(scope: Scope) -> str | None:
    names = [name for name, _ in scope["headers"]]
    return next((name.decode() for name in SINGLE if names.count(name) > 1), None)
