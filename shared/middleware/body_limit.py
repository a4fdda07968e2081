"""How large a request body may be."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Problem
from shared.middleware.single_headers import single_header


class BodyLimit:
    """Answers 413 to a body above `max_bytes`: at once when its length is declared, else as
    soon as that much has come in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if _declared_length(scope) > self.max_bytes:
            raise self._too_large()
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counted, send)

    def _too_large(self) -> Problem:
        return Problem("body_too_large", f"the limit is {self.max_bytes} bytes", status=413)


def _declared_length(scope: Scope) -> int:
    declared = single_header(scope, b"content-length") or ""
    return int(declared) if declared.isdecimal() else 0  # the server refuses any other spelling
