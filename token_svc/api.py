"""The routes as one list."""

from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from shared import VERSION, metrics_endpoint, openapi
from shared.database import Database
from shared.errors import Unavailable
from shared.health import Report, probe
from shared.routing import Path, operations_of
from shared.strict_json import encode
from token_svc import data, me, metrics, oauth, operations
from token_svc.state import State, json_response, written_response


async def health(request: Request[State]) -> Response:
    is_ok, report = await request.state["health"].report()
    return json_response(report) if is_ok else json_response(report, 503, {"Retry-After": "5"})


async def look(database: Database) -> Report:
    try:
        answered = await probe(database)
    except Unavailable as problem:
        silent = {"status": "unavailable", "detail": problem.detail}
        return Report(False, {"status": "degraded", "version": VERSION, "database": silent})
    return Report(True, {"status": "ok", "version": VERSION, "database": answered})


async def show_metrics(request: Request[State]) -> Response:
    metrics_endpoint.check_reader(request)
    families = await metrics.families(request.state["database"])
    return metrics_endpoint.response([*metrics.hashing(request.state["grants"].passwords), *families])


async def show_document(request: Request[State]) -> Response:
    return written_response(document())


@cache
def document() -> str:
    """The service's OpenAPI document."""
    return encode(openapi.document(operations.TITLE, operations.DESCRIPTION, operations_of(routes())))


def routes() -> list[Path]:
    return [
        Path("/data", GET=(data.list_all, operations.LIST_ITEMS), POST=(data.create, operations.CREATE_ITEM)),
        Path(
            "/data/{item_id}",
            GET=(data.read, operations.READ_ITEM),
            PUT=(data.replace, operations.REPLACE_ITEM),
            PATCH=(data.merge, operations.MERGE_ITEM),
            DELETE=(data.delete, operations.DELETE_ITEM),
        ),
        Path("/register", POST=(me.register, operations.REGISTER)),
        Path("/token", POST=(oauth.token, operations.TOKEN)),
        Path("/revoke", POST=(oauth.revoke, operations.REVOKE)),
        Path("/introspect", POST=(oauth.introspect, operations.INTROSPECT)),
        Path(
            "/me",
            GET=(me.show, operations.SHOW_ME),
            PATCH=(me.change, operations.CHANGE_ME),
            DELETE=(me.delete, operations.DELETE_ME),
        ),
        Path("/password/forgot", POST=(me.forgot_password, operations.FORGOT_PASSWORD)),
        Path("/password/reset", POST=(me.reset_password, operations.RESET_PASSWORD)),
        Path("/email/verify", POST=(me.verify_email, operations.VERIFY_EMAIL)),
        Path("/me/export", GET=(me.export, operations.EXPORT_ME)),
        Path("/health", GET=(health, operations.HEALTH)),
        Path("/metrics", GET=(show_metrics, operations.METRICS)),
        Path("/openapi.json", GET=(show_document, operations.OPENAPI)),
        Path("/.well-known/oauth-authorization-server", GET=(oauth.metadata, operations.METADATA)),
        Path("/.well-known/jwks.json", GET=(oauth.jwks, operations.JWKS)),
    ]
