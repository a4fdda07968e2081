"""The routes as one list."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared import VERSION
from shared.errors import Unavailable
from token_svc import data, me, oauth
from token_svc.callers import State, json_response

Handler = Callable[[Request[State]], Awaitable[Response]]


async def health(request: Request[State]) -> Response:
    started = time.monotonic()
    try:
        await request.state["database"].query(lambda tx: tx.now)
    except Unavailable as problem:
        database: dict[str, object] = {"status": "unavailable", "detail": problem.detail}
        report = {"status": "degraded", "version": VERSION, "database": database}
        return json_response(report, 503, {"Retry-After": "5"})
    database = {"status": "ok", "milliseconds": round((time.monotonic() - started) * 1000, 1)}
    return json_response({"status": "ok", "version": VERSION, "database": database})


def path(pattern: str, **handlers: Handler) -> Route:
    """One route for all methods of a path, so that its 405 names them all."""

    async def endpoint(request: Request[State]) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(pattern, endpoint, methods=list(handlers))


def routes() -> list[Route]:
    return [
        path("/register", POST=me.register),
        path("/token", POST=oauth.token),
        path("/revoke", POST=oauth.revoke),
        path("/introspect", POST=oauth.introspect),
        path("/me", GET=me.show, PATCH=me.change, DELETE=me.delete),
        path("/me/export", GET=me.export),
        path("/data", GET=data.list_all, POST=data.create),
        path("/data/{item_id}", GET=data.read, PUT=data.replace, PATCH=data.merge, DELETE=data.delete),
        path("/health", GET=health),
        path("/.well-known/oauth-authorization-server", GET=oauth.metadata),
        path("/.well-known/jwks.json", GET=oauth.jwks),
    ]
