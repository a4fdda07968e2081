"""The OpenAPI document."""

from shared import openapi
from shared.routing import operations_of
from shared.schemas import Schema
from shared.strict_json import encode
from token_svc.api import routes

TITLE = "token_svc"
DESCRIPTION = (
    "Users, OAuth 2 bearer tokens, and each user's own JSON. Another method on a known path is a 405 "
    "`method_not_allowed`, an unknown path a 404 `not_found`."
)
HEADERS: dict[str, Schema] = {
    "ETag": {"description": "the item's version", "required": True, "schema": {"type": "string"}},
}


def document() -> str:
    """The service's OpenAPI document."""
    return encode(openapi.document(TITLE, DESCRIPTION, operations_of(routes()), headers=HEADERS))
