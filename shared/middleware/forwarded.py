"""What trusted proxies say of a request: who sent it, and whether it came by https."""

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

MAPPED = "::ffff:"  # an IPv4 peer of a socket that listens on :: (RFC 4291 §2.5.5.2)


class Forwarded(ProxyHeadersMiddleware):
    """uvicorn's middleware, which by itself takes no IPv4 peer of an IPv6 socket for a trusted proxy, and no
    X-Forwarded-Proto that is a list or in upper case."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        super().__init__(app, list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        if scope["type"] != "lifespan":
            client = scope["client"]
            if client and client[0].startswith(MAPPED):
                scope["client"] = (client[0].removeprefix(MAPPED), client[1])
            for index, (name, value) in enumerate(scope["headers"]):
                if name == b"x-forwarded-proto":
                    scope["headers"][index] = (name, _first(value))
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]


def _first(value: bytes) -> bytes:
    """The first entry of a list, which has one for each proxy: that of the proxy which the client reached."""
    return value.partition(b",")[0].strip().lower()
