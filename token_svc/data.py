"""The handlers of each user's own JSON."""

import asyncio
import re
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shared import bodies, ids, strict_json, urls
from shared.database import Transaction
from shared.errors import BadRequest, Conflict, NotFound, Problem, Unavailable
from shared.idempotency import Answer, key_of, once
from shared.pages import limit_of
from token_svc import items, models, sessions
from token_svc.items import ItemRow
from token_svc.state import Holder, State, holder_of, written_response

MERGE_PATCH = "application/merge-patch+json"
MERGE_TRIES = 20  # every one that fails is another writer's success, so twenty at once all get through


async def list_all(request: Request[State]) -> Response:
    account, _ = await holder_of(request, "data")
    limit = limit_of(request.query_params.get("limit"))
    cursors, bound = request.state["cursors"], ("items", account.id)
    cursor = request.query_params.get("cursor")
    after = cursors.read(cursor, *bound) if cursor is not None else ""
    # Where it is: a page is bounded in rows and bytes, and a hop to another thread costs more than it takes.
    found, is_more = await request.state["database"].read(lambda tx: items.page(tx, account.id, after, limit))
    next_cursor = strict_json.encode(cursors.write(found[-1].id, *bound) if is_more else None)
    return written_response(f'{{"items":[{",".join(map(models.item_json, found))}],"next_cursor":{next_cursor}}}')


async def create(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request)
    models.CREATE.parse(body)
    key = key_of(request, "POST /data", holder.account.id, body)
    most = request.state["settings"].max_items_per_user

    def work(tx: Transaction) -> Answer:
        item = items.create(tx, holder.account.id, written["data"], most)
        if item is None:
            raise Conflict("quota_exceeded", "no room for another item")
        return Answer(201, models.item_json(item))

    def unit(tx: Transaction) -> Answer:
        sessions.hold(tx, holder.caller.claims)
        return once(tx, key, lambda: work(tx))

    answer = await request.state["database"].write(unit)
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
        return items.replace(tx, owner, item, written["data"]) or item  # the account is locked: nothing has moved on

    replaced = await request.state["database"].write(unit)
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
    """Merges aside into what was read, and stores it if the item is as it was: a merge may take long, and no other
    write has to wait for it."""
    for _ in range(MERGE_TRIES):
        item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
        _check_conditions(request, item)
        data = await asyncio.to_thread(strict_json.merge, item.data, patch)
        _check_size(request, data)
        if written := await request.state["database"].write(partial(_swap, holder=holder, item=item, data=data)):
            return written_response(models.item_json(written), headers=_etag(written))
    raise Unavailable("busy", "too many write this item at once")  # who named a version has had a 412 by now


def _swap(tx: Transaction, holder: Holder, item: ItemRow, data: str) -> ItemRow | None:
    return items.replace(tx, sessions.hold(tx, holder.caller.claims).id, item, data)


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
