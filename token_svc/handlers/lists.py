"""Lists of a user's items: pages, filters, and what has changed since."""

import time
from collections.abc import Mapping
from typing import Annotated

from starlette.requests import Request
from starlette.responses import Response

from shared.database import Transaction
from shared.errors import Invalid, Problem
from shared.openapi import Operation, Parameter, Reply
from shared.pages import DEFAULT_LIMIT, MAX_LIMIT, list_json, number_of
from shared.responses import written_response
from shared.schemas import Fault, Limits
from token_svc import filters, items, sessions
from token_svc.filters import Fits
from token_svc.items import Deleted, ItemRow, Page
from token_svc.models.items import ItemPage, change_json, item_json
from token_svc.state import Holder, State, holder_of

MAX_WAIT_SECONDS = 25  # Heroku's router gives up at 30
LIMIT = Parameter(
    "limit",
    "query",
    f"how many at most; {DEFAULT_LIMIT} when left out",
    Annotated[int, Limits(minimum=1, maximum=MAX_LIMIT)],
    {422: "invalid_request"},
)
CURSOR = Parameter("cursor", "query", "the `next_cursor` of the page before", str, {400: "invalid_cursor"})
SINCE = Parameter(
    "since",
    "query",
    "the `since` of a walk before: only what has been made, changed or deleted from there on",
    str,
    {400: "invalid_cursor", 410: "since_expired"},
)
WAIT = Parameter(
    "wait",
    "query",
    "beside `since`: seconds to wait for a change",
    Annotated[int, Limits(minimum=0, maximum=MAX_WAIT_SECONDS)],
    {422: "invalid_request"},
)
WHERE = Parameter(
    "where",
    "query",
    "a JSON object: only items whose data has all its members, objects likewise within. A page may be short, even "
    "empty, while there is a `next_cursor`",
    str,
    {422: "invalid_request"},
)

LIST_ITEMS = Operation(
    name="list_items",
    summary="List one's items, oldest first, or what has changed",
    parameters=(LIMIT, CURSOR, SINCE, WAIT, WHERE),
    scope="data",
    answers={200: Reply("a page", ItemPage)},
)


async def list_all(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    account = holder.account
    query = request.query_params
    limit, seconds, fits = _asked(query)
    if "since" in query:
        return await _list_changes(request, holder, query["since"], limit, seconds)
    cursors, bound = request.state["cursors"], ("items", account.id, query.get("where"))
    position = cursors.read(query["cursor"], *bound) if "cursor" in query else ""

    def unit(tx: Transaction) -> tuple[str, Page]:
        mark, _, after = position.partition(" ") if position else (str(items.latest_change(tx, account.id)), "", "")
        return mark, items.page(tx, account.id, after, limit, fits)

    database = request.state["database"]
    # To read a page without a filter takes less time than to wake another thread.
    mark, page = await (database.query(unit) if fits else database.read(unit))
    next_cursor = cursors.write(f"{mark} {page.after}", *bound) if page.after is not None else None
    since = cursors.write(mark, "since", account.id)
    return written_response(list_json(map(item_json, page.items), next_cursor=next_cursor, since=since))


def _asked(query: Mapping[str, str]) -> tuple[int, int, Fits | None]:
    """How many items, how many seconds to wait, and which items fit. Raises 422."""
    faults: list[Fault] = []
    limit = number_of(query, "limit", range(1, MAX_LIMIT + 1), DEFAULT_LIMIT, faults)
    seconds = number_of(query, "wait", range(MAX_WAIT_SECONDS + 1), 0, faults) if "since" in query else 0
    if query.get("wait") and "since" not in query:
        faults.append(Fault("/wait", "only beside since"))
    fits = _filter(query, faults)
    if faults:
        raise Invalid(faults)
    return limit, seconds, fits


def _filter(query: Mapping[str, str], faults: list[Fault]) -> Fits | None:
    where = query.get("where")
    if where is None:
        return None
    if "since" in query:
        faults.append(Fault("/where", "is not for since: an item that no longer fits would never be reported"))
        return None
    try:
        return filters.containing(where)
    except ValueError as error:
        faults.append(Fault("/where", str(error)))
        return None


async def _list_changes(request: Request[State], holder: Holder, since: str, limit: int, seconds: int) -> Response:
    owner = holder.account.id
    query, cursors = request.query_params, request.state["cursors"]
    bound = ("changes", owner, since)
    start = int(cursors.read(since, "since", owner))
    position = cursors.read(query["cursor"], *bound) if "cursor" in query else ""

    def unit(tx: Transaction) -> tuple[int, list[ItemRow | Deleted], int | None]:
        sessions.need_holder(tx, holder.claims)  # it may have ended while the request waited
        upto, after = map(int, position.split(" ")) if position else (items.latest_change(tx, owner), start)
        found, more = items.changes(tx, owner, after, upto, limit)
        if start < items.forgotten(tx, owner):  # last: pruning may run between two statements
            raise Problem("since_expired", "deletions since then are forgotten; list all items again", status=410)
        return upto, found, more

    deadline = time.monotonic() + seconds
    with request.state["changes"].watching(owner) as news:
        while True:
            news.clear()
            upto, found, more = await request.state["database"].read(unit)
            left = deadline - time.monotonic()
            if found or left <= 0 or not await request.state["changes"].wait(news, left):
                break
    next_cursor = cursors.write(f"{upto} {more}", *bound) if more is not None else None
    next_since = cursors.write(str(upto), "since", owner)
    return written_response(list_json(map(change_json, found), next_cursor=next_cursor, since=next_since))
