"""Headers that mean something to only one reader when they are sent twice."""

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors

# Two parties that each believe another copy of these are how requests are smuggled (RFC 9112 §11.2).
SINGLE = frozenset(
    {b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"idempotency-key"}
)
BY_NAME = "headers_by_name"


class SingleHeaders:
    """Answers 400 to a request that repeats one of them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (repeated := _repeated(scope)):
            raise errors.BadRequest("duplicate_header", f"{repeated}: sent more than once")
        await self.app(scope, receive, send)


def single_header(scope: Scope, name: bytes) -> str | None:
    """The value of one of SINGLE, None when it was not sent. The headers are gone through once for all who ask."""
    value: bytes | None = _by_name(scope).get(name)
    return None if value is None else value.decode("latin-1")


def _by_name(scope: Scope) -> dict[bytes, bytes]:
    if BY_NAME not in scope:
        scope[BY_NAME] = dict(scope["headers"])
    found: dict[bytes, bytes] = scope[BY_NAME]
    return found


def _repeated(scope: Scope) -> str | None:
    names = [name for name, _ in scope["headers"]]
    if len(_by_name(scope)) == len(names):
        return None
    return next((name.decode() for name in SINGLE if names.count(name) > 1), None)
