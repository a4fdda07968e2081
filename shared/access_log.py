"""One line for each request: what, how it ended, how long it took. Never a body, a token or a query."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs


class AccessLog:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        status, size = 500, 0

        async def send_noted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            logs.info("request", _fields(scope, status, time.perf_counter() - started, size))


def _fields(scope: Scope, status: int, seconds: float, size: int) -> dict[str, object]:
    route = scope.get("route")
    return {
        "method": scope["method"],
        "route": getattr(route, "path", "-"),  # the pattern, not the path: ids and typos stay out
        "status": status,
        "ms": round(seconds * 1000, 1),
        "bytes": size,
        "client": scope["client"][0] if scope["client"] else "-",
    }
