"""A service that speaks nothing but POST."""

from collections.abc import Set

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors
from shared.urls import routed_path


class PostOnly:
    """Answers 405 to every other method on any path, and refuses WebSockets. `get_paths` are open to GET too. It comes
    before every other check, outside the exception handler, and so answers itself."""

    def __init__(self, app: ASGIApp, get_paths: Set[str] = frozenset()) -> None:
        self.app = app
        self.get_paths = get_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan" or self._is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            problem = errors.MethodNotAllowed(["POST"], "this service speaks POST only")
            await errors.response(problem, scope)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if scope["method"] in ("GET", "HEAD"):  # HEAD wherever GET (RFC 9110 §9.1)
            return routed_path(scope) in self.get_paths
        return bool(scope["method"] == "POST")
