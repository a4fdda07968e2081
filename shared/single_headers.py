"""Headers that mean something to only one reader when they are sent twice."""

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors

# Two parties that each believe another copy of these are how requests are smuggled (RFC 9112 §11.2).
SINGLE = frozenset({b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key"})


class SingleHeaders:
    """Answers 400 to a request that repeats one of them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        repeated = _repeated(scope["headers"]) if scope["type"] == "http" else None
        if repeated is None:
            return await self.app(scope, receive, send)
        problem = errors.BadRequest("duplicate_header", f"{repeated}: sent more than once")
        await errors.response(problem, scope)(scope, receive, send)


def _repeated(headers: list[tuple[bytes, bytes]]) -> str | None:
    seen = set()
    for name, _ in headers:
        if name in SINGLE:
            if name in seen:
                return name.decode()
            seen.add(name)
    return None
