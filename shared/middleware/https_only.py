"""Refuses requests without TLS."""

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors
from shared.middleware.added_headers import adding
from shared.urls import routed_path

OPEN_PATHS = frozenset({"/health"})  # the host's own probes do not come through the proxy

# Without includeSubDomains: hosts below this one may be without TLS (RFC 6797 §6.1.2).
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")


class HTTPSOnly:
    """Answers 403 to what came without TLS, as this server or a trusted proxy's X-Forwarded-Proto has it.

    Never a redirect: the request has carried its password or token in the clear by then, and a client that follows
    redirects would go on doing so unnoticed. It stands outside the exception handler, and so answers itself, because
    errors have Strict-Transport-Security too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["scheme"] == "https":
            return await self.app(scope, receive, adding(send, [STRICT_TRANSPORT]))
        if routed_path(scope) in OPEN_PATHS:
            return await self.app(scope, receive, send)
        problem = errors.Forbidden("https_required", "this service is to be reached by https:// only")
        await errors.response(problem, scope)(scope, receive, send)
