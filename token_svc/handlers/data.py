"""One item of a user's own JSON: store, read, replace, merge, delete."""

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from shared import bodies, ids, strict_json, urls
from shared.database import Transaction
from shared.errors import NotFound, Problem, Unavailable
from shared.idempotency import Answer, key_of, once
from shared.openapi import IDEMPOTENCY_KEY, JSON, Operation, Parameter, Reply
from shared.responses import written_response
from token_svc import items, sessions
from token_svc.conditions import IF_MATCH, IF_NONE_MATCH, UNWANTED, check_conditions, etag, is_among, tags_of
from token_svc.items import ItemRow, Room
from token_svc.models.items import CREATE_REQUEST, ITEM_REQUEST, PATCH_REQUEST, Item, id_of, item_json
from token_svc.state import Holder, State, holder_of

MERGE_PATCH = "application/merge-patch+json"
MERGE_TRIES = 20  # a try fails only when another writer succeeds: twenty writers at once all get through
ITEM_ID = Parameter("item_id", "path", "the item's `id`", str, {404: "item_not_found"})

CREATE_ITEM = Operation(
    name="create_item",
    summary="Store an item",
    body={JSON: CREATE_REQUEST},
    parameters=(IDEMPOTENCY_KEY,),
    scope="data",
    answers={201: Reply("the item is stored", Item, ("ETag", "Location", "Idempotency-Replayed"))},
    codes={409: "quota_exceeded"},
)


async def create(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request)
    CREATE_REQUEST.parse(body)
    owner = holder.account.id
    key = key_of(request, "POST /data", owner, lambda: {"data": strict_json.exact(written["data"])}, is_counted=True)
    room = _room(request)

    def kept(item: ItemRow) -> int:
        return len(item_json(item).encode()) if key else 0

    def work(tx: Transaction) -> Answer:
        return Answer(201, item_json(items.create(tx, owner, written["data"], room, kept)))

    def unit(tx: Transaction) -> Answer:
        sessions.expect_holder(tx, holder.claims)
        return once(tx, key, lambda: work(tx))

    answer = await request.state["database"].write(unit)
    request.state["changes"].publish(owner)
    headers = {"Location": urls.location(request, f"/data/{id_of(answer.body)}"), "ETag": '"1"'}
    if answer.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return written_response(answer.body, answer.status, headers)


READ_ITEM = Operation(
    name="read_item",
    summary="Fetch an item",
    parameters=(ITEM_ID, IF_NONE_MATCH),
    scope="data",
    answers={200: Reply("the item", Item, ("ETag",)), 304: Reply("it is as it was", None, ("ETag",))},
)


async def read(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
    unwanted = tags_of(request, "if-none-match")
    if unwanted is not None and is_among(item, unwanted):
        return Response(status_code=304, headers=etag(item))
    return written_response(item_json(item), headers=etag(item))


REPLACE_ITEM = Operation(
    name="replace_item",
    summary="Replace an item's data",
    body={JSON: ITEM_REQUEST},
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={200: Reply("the item as it is now", Item, ("ETag",))},
    codes={409: "quota_exceeded"},
)


async def replace(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request)
    ITEM_REQUEST.parse(body)

    def unit(tx: Transaction) -> ItemRow:
        sessions.expect_holder(tx, holder.claims)
        item = _item_of(tx, request, holder)
        check_conditions(request, item)
        return items.replace(tx, holder.account.id, item, written["data"], _room(request))

    replaced = await request.state["database"].write(unit)
    request.state["changes"].publish(holder.account.id)
    return written_response(item_json(replaced), headers=etag(replaced))


MERGE_ITEM = Operation(
    name="merge_item",
    summary="Merge into an item's data (RFC 7396)",
    body={MERGE_PATCH: PATCH_REQUEST, JSON: PATCH_REQUEST},
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={200: Reply("the item as it is now", Item, ("ETag",))},
    codes={409: "quota_exceeded"},
)


async def merge(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")
    body, written = await bodies.read_json_as_written(request, "application/json", MERGE_PATCH)
    PATCH_REQUEST.parse(body)
    if "data" not in written:  # a patch of nothing
        return await _show(request, holder)
    return await _merge(request, holder, written["data"])


async def _show(request: Request[State], holder: Holder) -> Response:
    item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
    check_conditions(request, item)
    return written_response(item_json(item), headers=etag(item))


async def _merge(request: Request[State], holder: Holder, patch: str) -> Response:
    """Merges in a thread, outside the transaction, since a merge may take long; stores the result if the item has not
    changed meanwhile, else tries again."""
    for _ in range(MERGE_TRIES):
        item = await request.state["database"].read(lambda tx: _item_of(tx, request, holder))
        check_conditions(request, item)
        data = await asyncio.to_thread(strict_json.merge, item.data, patch)
        _check_size(request, data)
        unit = partial(_swap, request=request, holder=holder, item=item, data=data)
        if written := await request.state["database"].write(unit):
            request.state["changes"].publish(holder.account.id)
            return written_response(item_json(written), headers=etag(written))
    raise Unavailable("busy", "too many write this item at once")  # with If-Match another write makes it a 412


def _swap(tx: Transaction, request: Request[State], holder: Holder, item: ItemRow, data: str) -> ItemRow | None:
    """None when the item has changed since it was read."""
    sessions.expect_holder(tx, holder.claims)
    owner = holder.account.id
    return items.replace(tx, owner, item, data, _room(request)) if items.find(tx, owner, item.id) == item else None


DELETE_ITEM = Operation(
    name="delete_item",
    summary="Delete an item",
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={204: Reply("it is gone")},
)


async def delete(request: Request[State]) -> Response:
    holder = await holder_of(request, "data")

    def unit(tx: Transaction) -> None:
        sessions.expect_holder(tx, holder.claims)
        item = _item_of(tx, request, holder)
        check_conditions(request, item)
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


def _room(request: Request[State]) -> Room:
    settings = request.state["settings"]
    return Room(settings.max_items_per_user, settings.max_bytes_per_user)


def _check_size(request: Request[State], data: str) -> None:
    most = request.state["settings"].max_body_bytes
    if len(data.encode()) > most:
        raise Problem("body_too_large", f"the merged item would be above {most} bytes", status=413)
