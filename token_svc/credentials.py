"""The credentials of a machine client, by HTTP Basic or in the body (RFC 6749 §2.3.1)."""

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from starlette.requests import Request

from shared.addresses import address, named_address
from shared.errors import BadRequest
from shared.middleware.single_headers import single_header
from shared.rate_limits import count
from token_svc.accounts import AccountRow
from token_svc.clients import Credentials, InvalidClient
from token_svc.state import State

VISIBLE = re.compile(r"[\x20-\x7e]*")  # RFC 6749 appendix A.1 and A.2


def of_request(request: Request[Any], body: Mapping[str, Any]) -> Credentials | None:
    """The client's id and secret; None without a secret, since an id alone proves nothing. Raises 400 when the header
    and the body both have them (RFC 6749 §2.3), and 401 for malformed ones."""
    by_header, by_body = of_header(request), _of_body(body)
    if by_header and (by_body or body.get("client_id") not in (None, by_header.client_id)):
        raise BadRequest("invalid_request", "the client's credentials are in the header and in the body")
    return by_header or by_body


def of_header(request: Request[Any]) -> Credentials | None:
    """The credentials of HTTP Basic: its two parts are percent-encoded, each by itself (RFC 6749 §2.3.1)."""
    scheme, _, encoded = (single_header(request.scope, b"authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        return _credentials(unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict"))
    except ValueError:
        raise InvalidClient from None


def _of_body(body: Mapping[str, Any]) -> Credentials | None:
    client_id, secret = body.get("client_id"), body.get("client_secret")
    if not isinstance(client_id, str) or not isinstance(secret, str):
        return None
    return _credentials(client_id, secret)


def _credentials(client_id: str, secret: str) -> Credentials | None:
    if not VISIBLE.fullmatch(client_id) or not VISIBLE.fullmatch(secret):
        raise InvalidClient
    return Credentials(client_id, secret) if secret else None


async def client_of(request: Request[State], given: Credentials) -> AccountRow:
    """The machine that sends the request. Raises 401 and 429."""
    client = await request.state["clients"].authenticate(given, address(request))
    count(request, client.id)
    return client


def user_address(request: Request[State], client: AccountRow | None) -> str:
    """The address that a user's request comes from. A client with the scope `logins` (an app's server) names its
    user's."""
    return named_address(request) if client and "logins" in client.scopes else address(request)


async def counted_client(request: Request[State], given: Credentials | None) -> AccountRow | None:
    """The machine that sends the request, if one does. Counts the request for it, or else for its address. Raises 401
    and 429."""
    if given is not None:
        return await client_of(request, given)
    count(request)
    return None


async def counted_address(request: Request[State]) -> str:
    """The address of a user's request that needs no token. Counts the request, and raises, as `counted_client` does."""
    return user_address(request, await counted_client(request, of_header(request)))
