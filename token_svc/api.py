"""The application as a request meets it: the middleware from the outside in, then the routes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.middleware import Middleware

from shared.errors import ExceptionHandler, Extended
from shared.middleware.access_log import AccessLog
from shared.middleware.body_limit import BodyLimit
from shared.middleware.cors import CORS
from shared.middleware.https_only import HTTPSOnly
from shared.middleware.request_id import RequestId
from shared.middleware.single_headers import SingleHeaders
from shared.rate_limits import CountAll
from shared.routing import Path, Routes
from token_svc import oauth_errors
from token_svc.handlers import data, discovery, lists, me, oauth, service
from token_svc.settings import Settings
from token_svc.state import State

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_app(settings: Settings, lifespan: Callable[[Settings], AbstractAsyncContextManager[State]]) -> Routes:
    return Routes(
        routes(),
        middleware=[
            Middleware(RequestId),
            Middleware(AccessLog),
            *([Middleware(CORS, settings.cors_origins, METHODS)] if settings.cors_origins else []),
            Middleware(Extended, oauth_errors.EXTENSION),
            *([Middleware(HTTPSOnly)] if settings.require_https else []),
            Middleware(ExceptionHandler),
            *([Middleware(CountAll)] if settings.rate_limits.other else []),
            Middleware(SingleHeaders),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
        lifespan=lambda app: lifespan(settings),
    )


def routes() -> list[Path]:
    return [
        Path("/data", GET=(lists.list_all, lists.LIST_ITEMS), POST=(data.create, data.CREATE_ITEM)),
        Path(
            "/data/{item_id}",
            GET=(data.read, data.READ_ITEM),
            PUT=(data.replace, data.REPLACE_ITEM),
            PATCH=(data.merge, data.MERGE_ITEM),
            DELETE=(data.delete, data.DELETE_ITEM),
        ),
        Path("/register", POST=(me.register, me.REGISTER)),
        Path("/token", POST=(oauth.token, oauth.TOKEN)),
        Path("/revoke", POST=(oauth.revoke, oauth.REVOKE)),
        Path("/introspect", POST=(oauth.introspect, oauth.INTROSPECT)),
        Path(
            "/me",
            GET=(me.show, me.SHOW_ME),
            PATCH=(me.change, me.CHANGE_ME),
            DELETE=(me.delete, me.DELETE_ME),
        ),
        Path("/password/forgot", POST=(me.forgot_password, me.FORGOT_PASSWORD)),
        Path("/password/reset", POST=(me.reset_password, me.RESET_PASSWORD)),
        Path("/email/verify", POST=(me.verify_email, me.VERIFY_EMAIL)),
        Path("/me/export", GET=(me.export, me.EXPORT_ME)),
        Path("/health", GET=(service.health, service.HEALTH)),
        Path("/metrics", GET=(service.show_metrics, service.METRICS)),
        Path("/openapi.json", GET=(service.show_document, service.OPENAPI)),
        Path("/.well-known/oauth-authorization-server", GET=(discovery.metadata, discovery.METADATA)),
        Path("/.well-known/jwks.json", GET=(discovery.jwks, discovery.JWKS)),
    ]
