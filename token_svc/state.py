"""What handlers share: the state, and the holder of a request's token."""

import asyncio
from typing import Any, NamedTuple, TypedDict

from starlette.requests import Request

from shared import auth
from shared.auth import Claims, TokenDoor
from shared.database import Database
from shared.health import Health
from shared.pages import Cursors
from shared.rate_limits import AtOnce, RateLimit, count
from token_svc import sessions
from token_svc.accounts import AccountRow
from token_svc.changes import Watchers
from token_svc.clients import Clients
from token_svc.grants import Grants
from token_svc.recovery import Recovery
from token_svc.sessions import Issuer
from token_svc.settings import Settings

MAX_LANGUAGE = 100  # characters: the first languages of a list are the ones that count


class State(TypedDict):
    """What the lifespan makes and every handler finds in `request.state`."""

    settings: Settings
    database: Database
    token_door: TokenDoor
    issuer: Issuer
    grants: Grants
    clients: Clients
    recovery: Recovery
    cursors: Cursors
    keys: dict[str, Any]
    exports: AtOnce
    rate_limit: RateLimit | None
    changes: Watchers
    left: asyncio.Event  # set when an account was deleted: what it stored is to be deleted too
    health: Health
    document: str


class Holder(NamedTuple):
    """An account, and its token's claims. A unit that writes checks them again with `sessions.hold`: the body may
    arrive long after the headers."""

    account: AccountRow
    claims: Claims


async def holder_of(request: Request[State], scope: str = "") -> Holder:
    """The account that sent the request, as it is now. Raises 401, 403 and 429."""
    claims = await auth.require(request)
    account = await request.state["database"].read(lambda tx: sessions.need_holder(tx, claims))
    if scope:
        auth.need_scope(claims, scope)
    count(request, account.id)
    return Holder(account, claims)


def language_of(request: Request[State]) -> str:
    """The Accept-Language header, for mails."""
    return request.headers.get("accept-language", "")[:MAX_LANGUAGE]
