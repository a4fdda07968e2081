"""The paths of a service: each method of a path has its handler, and the operation that describes it (openapi.py)."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Lifespan, Receive, Scope, Send

from shared import errors
from shared.openapi import Operation, Operations
from shared.urls import routed_path

Handler = Callable[[Request[Any]], Awaitable[Response]]


class Path(Route):
    """One route for all methods of a path, so that its 405 names them all."""

    def __init__(self, pattern: str, **methods: tuple[Handler, Operation]) -> None:
        self.handlers = {method: handler for method, (handler, _) in methods.items()}
        self.operations = {method: operation for method, (_, operation) in methods.items()}
        super().__init__(pattern, self.handle, methods=list(methods))
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")  # `$` lets a newline follow

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self.handlers.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            raise errors.MethodNotAllowed(self.methods or ())
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


class Routes(Router):
    """All paths of a service. Those without parameters are looked up by name, instead of trying one pattern after
    another."""

    def __init__(self, paths: list[Path], middleware: list[Middleware], lifespan: Lifespan[Any]) -> None:
        super().__init__(paths, redirect_slashes=False, middleware=middleware, lifespan=lifespan)
        self._fixed = {path.path: path for path in paths if not path.param_convertors}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        fixed = self._fixed.get(routed_path(scope)) if scope["type"] == "http" else None
        if fixed is None:
            await super().app(scope, receive, send)
        else:
            scope["route"] = fixed
            await fixed.handle(scope, receive, send)

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise errors.NotFound
        await super().not_found(scope, receive, send)


def operations_of(paths: Iterable[Path]) -> Operations:
    return {path.path: path.operations for path in paths}
