"""Who sent a request, and what its handlers share."""

import asyncio
from typing import Any, NamedTuple, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from shared import auth
from shared.auth import Caller, TokenDoor
from shared.database import Database
from shared.health import Health
from shared.pages import Cursors
from shared.rate_limits import AtOnce, RateLimit, count
from shared.strict_json import encode
from token_svc import sessions
from token_svc.accounts import AccountRow
from token_svc.changes import Changes
from token_svc.clients import Clients
from token_svc.grants import Grants
from token_svc.recovery import Recovery
from token_svc.settings import Settings

MAX_LANGUAGE = 100  # characters: the first languages of a list are the ones that count


class State(TypedDict):
    """What the lifespan makes and every handler finds in `request.state`."""

    settings: Settings
    database: Database
    token_door: TokenDoor
    grants: Grants
    clients: Clients
    recovery: Recovery
    cursors: Cursors
    keys: dict[str, Any]
    exports: AtOnce
    rate_limit: RateLimit | None
    changes: Changes
    left: asyncio.Event  # an account is gone, and what it stored is to be deleted
    health: Health


class Holder(NamedTuple):
    """An account, and the token that speaks for it. Whatever it writes asks again with `sessions.hold`:
    the body may come in long after the headers."""

    account: AccountRow
    caller: Caller


async def holder_of(request: Request[State], scope: str = "") -> Holder:
    """Who sent the request, as the account is now. Raises 401, 403 and 429."""
    caller = await auth.require(request)
    account = await request.state["database"].read(lambda tx: sessions.need_holder(tx, caller.claims))
    if scope:
        auth.need_scope(caller, scope)
    count(request, account.id)
    return Holder(account, caller)


def language_of(request: Request[State]) -> str:
    """What the user reads, for mails: an Accept-Language header."""
    return request.headers.get("accept-language", "")[:MAX_LANGUAGE]


def written_response(body: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is JSON already."""
    return Response(body.encode(), status, headers, media_type="application/json")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return written_response(encode(value), status, headers)
