"""What clients and verifiers find by themselves: the OAuth endpoints, and the public keys."""

from starlette.requests import Request
from starlette.responses import Response

from shared import urls
from shared.openapi import Operation, Reply
from shared.responses import json_response
from token_svc import scopes
from token_svc.handlers.oauth import GRANT_TYPES
from token_svc.models.tokens import PublicKeys, ServerMetadata
from token_svc.state import State

AUTH_METHODS = ["none", "client_secret_basic", "client_secret_post"]

METADATA = Operation(
    name="server_metadata",
    summary="Find the OAuth endpoints",
    overload={},
    answers={200: Reply("where they are", ServerMetadata)},
)


async def metadata(request: Request[State]) -> Response:
    """RFC 8414. `response_types_supported` is required (§2) and must not be empty (§3.2); without an authorization
    endpoint it is `none`."""
    settings = request.state["settings"]
    base = urls.public_url(request)
    return json_response(
        {
            "issuer": settings.issuer,
            "token_endpoint": f"{base}/token",
            "revocation_endpoint": f"{base}/revoke",
            "introspection_endpoint": f"{base}/introspect",
            "jwks_uri": f"{base}/.well-known/jwks.json",
            "scopes_supported": list(scopes.KNOWN),
            "response_types_supported": ["none"],
            "grant_types_supported": list(GRANT_TYPES),
            "token_endpoint_auth_methods_supported": AUTH_METHODS,
            "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
        }
    )


JWKS = Operation(
    name="public_keys",
    summary="Fetch the keys that tokens are checked with",
    overload={},
    answers={200: Reply("the public ones", PublicKeys)},
)


async def jwks(request: Request[State]) -> Response:
    return json_response(request.state["keys"])
