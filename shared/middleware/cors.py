"""Pages of other origins that an operator has named may call the service from a browser (CORS, Fetch standard §3.3)."""

from collections.abc import Collection, Set

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.middleware.added_headers import adding
from shared.middleware.single_headers import headers_by_name

EXPOSED = b"ETag, Location, Retry-After, WWW-Authenticate, X-Request-ID, Idempotency-Replayed"
SENT = b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-ID, traceparent"
PREFLIGHT_SECONDS = b"600"
VARY = (b"vary", b"Origin")


def headers(origin: bytes, origins: Set[bytes]) -> list[tuple[bytes, bytes]]:
    """What an answer to a page of `origin` carries, where pages of `origins` may read answers."""
    if origin not in origins:
        return [VARY] if origins else []
    return [VARY, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]


class CORS:
    """Adds its headers to every answer, and answers preflights. Outside the exception handler, so that
    errors have them too."""

    def __init__(self, app: ASGIApp, origins: Collection[str], methods: Collection[str]) -> None:
        self.app = app
        self.origins = frozenset(map(str.encode, origins))
        self.methods = ", ".join(methods).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = headers_by_name(scope)
        origin = sent.get(b"origin", b"")
        added = headers(origin, self.origins)
        is_preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in sent
        if is_preflight and origin in self.origins:
            return await self._answer_preflight(added, send)
        await self.app(scope, receive, adding(send, added))

    async def _answer_preflight(self, added: list[tuple[bytes, bytes]], send: Send) -> None:
        allowed = [
            (b"access-control-allow-methods", self.methods),
            (b"access-control-allow-headers", SENT),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": [*added, *allowed]})
        await send({"type": "http.response.body"})
