"""Pages of other origins that an operator has named may call the service from a browser (CORS, Fetch standard §3.3)."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.middleware.added_headers import adding
from shared.middleware.single_headers import single_header

EXPOSED = b"ETag, Location, Retry-After, WWW-Authenticate, X-Request-ID, Idempotency-Replayed"
SENT = b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-ID, traceparent"
PREFLIGHT_SECONDS = b"600"
VARY = (b"vary", b"Origin")


class CORS:
    """Adds its headers to every answer, and answers preflights. Outside the exception handler, so that
    errors have them too."""

    def __init__(self, app: ASGIApp, origins: Collection[str], methods: Collection[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)
        self.methods = ", ".join(methods).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        origin = single_header(scope, b"origin")
        headers = [VARY]
        if origin in self.origins:
            headers += [(b"access-control-allow-origin", origin.encode()), (b"access-control-expose-headers", EXPOSED)]
            if scope["method"] == "OPTIONS" and single_header(scope, b"access-control-request-method"):
                return await self._answer_preflight(headers, send)
        await self.app(scope, receive, adding(send, headers))

    async def _answer_preflight(self, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        allowed = [
            (b"access-control-allow-methods", self.methods),
            (b"access-control-allow-headers", SENT),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": [*headers, *allowed]})
        await send({"type": "http.response.body"})
