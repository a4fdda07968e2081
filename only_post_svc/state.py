"""What handlers share: the state, who sent a request, and the answer that is a task."""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc.backlog import Backlog
from only_post_svc.elsewhere import Claimants
from only_post_svc.lookup import TaskRow
from only_post_svc.metrics import TaskCounts
from only_post_svc.models.tasks import task_json
from only_post_svc.settings import Settings
from only_post_svc.task_types import Types
from only_post_svc.waiters import Waiters
from shared.auth import Claims, TokenDoor, need_scope, require
from shared.database import Database
from shared.health import Health
from shared.pages import Cursors
from shared.rate_limits import RateLimit, count
from shared.responses import written_response

SCOPE = "tasks"  # of callers
OPERATE = "operate"  # of operators, who pause types
WORK = "work"  # of workers elsewhere
ANYONE = ""  # the caller where no token is asked for


class State(TypedDict):
    """What the lifespan makes and every handler finds in `request.state`."""

    settings: Settings
    database: Database
    token_door: TokenDoor
    types: Types
    backlog: Backlog
    waiters: Waiters
    health: Health
    counts: TaskCounts
    claimants: Claimants
    note_claims: Callable[[int], None]
    expect_task: Callable[[], None]
    cursors: Cursors
    rate_limit: RateLimit | None
    document: Callable[[frozenset[str]], str]  # for a caller with these scopes of types


class Requester(NamedTuple):
    """Who sent the request. `claims` is None where no token is asked for."""

    claims: Claims | None

    @property
    def id(self) -> str:
        return self.claims.sub if self.claims else ANYONE

    @property
    def is_person(self) -> bool:
        return self.claims is not None and not self.claims.is_machine

    def has_scope(self, scope: str) -> bool:
        return self.claims is None or not scope or scope in self.claims.scopes

    def need_scope(self, scope: str) -> None:
        """Raises 403."""
        if self.claims is not None and scope:
            need_scope(self.claims, scope)


async def requester_of(request: Request[State], scope: str = SCOPE) -> Requester:
    """Who sent the request. Raises 401, 403 and 429."""
    who = await known_requester(request, scope)
    count(request, who.id)
    return who


async def known_requester(request: Request[State], scope: str) -> Requester:
    """Raises 401 and 403 where a token is asked for."""
    is_required = request.state["settings"].task_auth == "required"
    return Requester(await require(request, scope) if is_required else None)


async def caller_of(request: Request[State], scope: str = SCOPE) -> str:
    """The caller's id. Raises 401, 403 and 429."""
    return (await requester_of(request, scope)).id


def task_response(task: TaskRow, headers: dict[str, str] | None = None) -> Response:
    """200 with a task that has ended, else 202 and when to ask again."""
    if task.is_final:
        return written_response(task_json(task), 200, headers)
    return written_response(task_json(task), 202, {"Retry-After": "1", **(headers or {})})
