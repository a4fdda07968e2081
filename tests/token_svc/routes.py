"""The service's own table of routes, so that no test forgets a new one."""

from token_svc import api

READ_BY_ALL = (
    "/health",
    "/metrics",
    "/openapi.json",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
)
OPEN = {
    ("POST", "/register"),
    ("POST", "/token"),
    ("POST", "/revoke"),
    ("POST", "/password/forgot"),
    ("POST", "/password/reset"),
    ("POST", "/email/verify"),
    *((method, path) for method in ("GET", "HEAD") for path in READ_BY_ALL),
}


def every() -> list[tuple[str, str]]:
    """Method and path, with the names of its parameters in braces."""
    return [(method, route.path) for route in api.routes() for method in sorted(route.methods or ())]


def guarded() -> list[tuple[str, str]]:
    """All that need a token: a new route does, unless it is added to OPEN."""
    return [route for route in every() if route not in OPEN]
