"""The handlers of each user's own JSON."""

import asyncio
import re
import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shared import bodies, ids, strict_json, urls
from shared.database import Transaction
from shared.errors import BadRequest, Conflict, Invalid, NotFound, Problem, Unavailable
from shared.idempotency import Answer, key_of, once
from shared.pages import limit_of
from shared.schemas import Fault
from token_svc import filters, items, models, sessions
from token_svc.items import Deleted, ItemRow, Page, Room
from token_svc.state import Holder, State, holder_of, written_response

MERGE_PATCH = "application/merge-patch+json"
MAX_WAIT_SECONDS = 25  # Heroku's router gives up at 30
MERGE_TRIES = 20  # a try fails only when another writer succeeds: twenty writers at once all get through


async def list_all(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    account = holder.account
    query = request.query_params
    limit = limit_of(query.get("limit"))
    if "since" in query:
        return await _list_changes(request, holder, query["since"], limit)
    if query.get("wait"):
        raise Invalid([Fault("/wait", "is for since")])
    where = query.get("where")
    fits = filters.containing(where) if where is not None else None
    cursors, bound = request.state["cursors"], ("items", account.id, where)
    position = cursors.read(query["cursor"], *bound) if "cursor" in query else ""

    def unit(tx: Transaction) -> tuple[str, Page]:
        mark, _, after = position.partition(" ") if position else (str(items.latest_change(tx, account.id)), "", "")
        return mark, items.page(tx, account.id, after, limit, fits)

    database = request.state["database"]
    # A page without a filter is quicker to read than another thread to wake.
    mark, page = await (database.query(unit) if fits else database.read(unit))
    next_cursor = cursors.write(f"{mark} {page.after}", *bound) if page.after is not None else None
    return _page(list(map(models.item_json, page.items)), next_cursor, cursors.write(mark, "since", account.id))


async def _list_changes(request: Request[State], holder: Holder, since: str, limit: int) -> Response:
    owner = holder.account.id
    query, cursors = request.query_params, request.state["cursors"]
    if "where" in query:
        raise Invalid([Fault("/where", "is not for since: an item that no longer fits would never be reported")])
    seconds = _wait_of(query.get("wait"))
    bound = ("changes", owner, since)
    start = int(cursors.read(since, "since", owner))
    position = cursors.read(query["cursor"], *bound) if "cursor" in query else ""

    def unit(tx: Transaction) -> tuple[int, list[ItemRow | Deleted], int | None]:
        sessions.need_holder(tx, holder.caller.claims)  # it may have ended while the request waited
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
    return _page(list(map(models.change_json, found)), next_cursor, cursors.write(str(upto), "since", owner))


def _wait_of(text: str | None) -> int:
    """Seconds. Raises 422."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 3) or int(text) > MAX_WAIT_SECONDS:
        raise Invalid([Fault("/wait", f"must be a whole number from 0 to {MAX_WAIT_SECONDS}")])
    return int(text)


def _page(written: list[str], next_cursor: str | None, since: str) -> Response:
    encode = strict_json.encode
    return written_response(
        f'{{"items":[{",".join(written)}],"next_cursor":{encode(next_cursor)},"since":{encode(since)}}}'
    )


async def create(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request)
    models.CREATE.parse(body)
    key = key_of(request, "POST /data", holder.account.id, body, is_counted=True)
    room = _room(request)

    def kept(item: ItemRow) -> int:
        return len(models.item_json(item).encode()) if key else 0

    def work(tx: Transaction) -> Answer:
        item = items.create(tx, holder.account.id, written["data"], room, kept)
        if item is None:
            raise _no_room()
        return Answer(201, models.item_json(item))

    def unit(tx: Transaction) -> Answer:
        sessions.hold(tx, holder.caller.claims)
        return once(tx, key, lambda: work(tx))

    answer = await request.state["database"].write(unit)
    request.state["changes"].publish(holder.account.id)
    headers = {"Location": urls.location(request, f"/data/{models.id_of(answer.body)}"), "ETag": '"1"'}
    if answer.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return written_response(answer.body, answer.status, headers)


async def read(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
    unwanted = _tags(request, "if-none-match")
    if unwanted is not None and _is_among(item, unwanted):
        return Response(status_code=304, headers=_etag(item))
    return written_response(models.item_json(item), headers=_etag(item))


async def replace(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request)
    models.ITEM.parse(body)

    def unit(tx: Transaction) -> ItemRow:
        owner = sessions.hold(tx, holder.caller.claims).id
        item = _item_of(tx, request, holder)
        _check_conditions(request, item)
        return _replace(tx, request, owner, item, written["data"])

    replaced = await request.state["database"].write(unit)
    request.state["changes"].publish(holder.account.id)
    return written_response(models.item_json(replaced), headers=_etag(replaced))


async def merge(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request, "application/json", MERGE_PATCH)
    models.PATCH.parse(body)
    if "data" not in written:  # a patch of nothing
        return await _show(request, holder)
    return await _merge(request, holder, written["data"])


async def _show(request: Request[State], holder: Holder) -> Response:
    item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
    _check_conditions(request, item)
    return written_response(models.item_json(item), headers=_etag(item))


async def _merge(request: Request[State], holder: Holder, patch: str) -> Response:
    """Merges in a thread, outside the transaction, since a merge may take long; stores the result if the item has not
    changed meanwhile, else tries again."""
    for _ in range(MERGE_TRIES):
        item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
        _check_conditions(request, item)
        data = await asyncio.to_thread(strict_json.merge, item.data, patch)
        _check_size(request, data)
        unit = partial(_swap, request=request, holder=holder, item=item, data=data)
        if written := await request.state["database"].write(unit):
            request.state["changes"].publish(holder.account.id)
            return written_response(models.item_json(written), headers=_etag(written))
    raise Unavailable("busy", "too many write this item at once")  # with If-Match it was a 412 by now


def _swap(tx: Transaction, request: Request[State], holder: Holder, item: ItemRow, data: str) -> ItemRow | None:
    """None when the item has changed since it was read."""
    owner = sessions.hold(tx, holder.caller.claims).id
    current = items.find(tx, owner, item.id)
    return _replace(tx, request, owner, current, data) if current == item else None


def _replace(tx: Transaction, request: Request[State], owner: str, item: ItemRow, data: str) -> ItemRow:
    replaced = items.replace(tx, owner, item, data, _room(request))
    if replaced is None:
        raise _no_room()
    return replaced


def _room(request: Request[State]) -> Room:
    settings = request.state["settings"]
    return Room(settings.max_items_per_user, settings.max_bytes_per_user)


def _no_room() -> Conflict:
    return Conflict("quota_exceeded", "no room for it beside what is stored")


def _check_size(request: Request[State], data: str) -> None:
    most = request.state["settings"].max_body_bytes
    if len(data.encode()) > most:
        raise Problem("body_too_large", f"the merged item would be above {most} bytes", status=413)


async def delete(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")

    def unit(tx: Transaction) -> None:
        sessions.hold(tx, holder.caller.claims)
        item = _item_of(tx, request, holder)
        _check_conditions(request, item)
        items.delete(tx, holder.account.id, item)

    await request.state["database"].write(unit)
    request.state["changes"].publish(holder.account.id)
    return Response(status_code=204)


def _item_of(tx: Transaction, request: Request[State], holder: Holder) -> ItemRow:
    item_id = request.path_params["item_id"]
    item = items.find(tx, holder.account.id, item_id) if ids.is_canonical(item_id) else None
    if item is None:
        raise NotFound("item_not_found", "there is no such item")
    return item


TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
TAGS = re.compile(rf"[ \t,]*(?:{TAG.pattern}[ \t]*(?:,[ \t,]*|$))+|[ \t]*\*[ \t]*")


def _tag(item: ItemRow) -> str:
    return f'"{item.version}"'


def _etag(item: ItemRow) -> dict[str, str]:
    return {"ETag": _tag(item)}


def _tags(request: Request[Any], name: str) -> list[str] | None:
    """The entity tags of a header, `*` among them; None without one. Raises 400 for what is neither."""
    lines = request.headers.getlist(name)
    if not lines:
        return None
    header = ", ".join(lines)
    if not TAGS.fullmatch(header):
        raise BadRequest(f"invalid_{name.replace('-', '_')}", f'{name}: must be * or entity tags such as "1"')
    return TAG.findall(header) or ["*"]


def _check_conditions(request: Request[State], item: ItemRow) -> None:
    """Raises 412 when If-Match names another version, or If-None-Match this one (RFC 9110 §13.1.1, §13.1.2)."""
    wanted, unwanted = _tags(request, "if-match"), _tags(request, "if-none-match")
    if wanted is not None and "*" not in wanted and _tag(item) not in wanted:
        is_weak = any(tag.startswith("W/") for tag in wanted)
        raise _conflict(WEAK if is_weak else "the item has moved on")
    if unwanted is not None and _is_among(item, unwanted):
        raise _conflict("there is an item, or this version of it, that If-None-Match rules out")


WEAK = "If-Match: a weak entity tag, as a compressing proxy makes it, matches nothing; send it without the W/"


def _is_among(item: ItemRow, tags: list[str]) -> bool:
    return "*" in tags or _tag(item) in [tag.removeprefix("W/") for tag in tags]


def _conflict(detail: str) -> Problem:
    return Problem("version_conflict", detail, status=412)
