"""One line for each request: what, how it ended, how long it took. Never a body, a token or a query."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs
from shared.metrics import Counter, Histogram

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # callers can make up any other: '-'

REQUESTS = Counter("http_requests_total", "Requests that this process has answered.", "method", "route", "status")
DURATIONS = Histogram("http_request_duration_seconds", "How long they took, long polls included.", "route")


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
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "-")  # the pattern, not the path: ids and typos stay out
            REQUESTS.add(scope["method"] if scope["method"] in METHODS else "-", route, status)
            DURATIONS.add(seconds, route)
            logs.info("request", _fields(scope, route, status, seconds, size))


def _fields(scope: Scope, route: str, status: int, seconds: float, size: int) -> dict[str, object]:
    return {
        "method": scope["method"],
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
        "bytes": size,
        "client": scope["client"][0] if scope["client"] else "-",
    }
