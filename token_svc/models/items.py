"""Items on the wire: each user's own JSON."""

from dataclasses import dataclass
from typing import Any, Literal

from shared import times
from shared.bodies import Shape
from shared.openapi import Id, Time
from token_svc.items import Deleted, ItemRow


@dataclass(frozen=True)
class CreateRequest:
    data: Any


@dataclass(frozen=True)
class ItemRequest:
    """The item may be sent back as GET returned it: only `data` counts."""

    data: Any
    id: Any = None
    version: Any = None
    created_at: Any = None
    updated_at: Any = None


@dataclass(frozen=True)
class PatchRequest(ItemRequest):
    """A merge patch of the whole item (RFC 7396), of which only `data` can be changed."""

    data: Any = None


CREATE_REQUEST = Shape(CreateRequest)
ITEM_REQUEST = Shape(ItemRequest)
PATCH_REQUEST = Shape(PatchRequest)


@dataclass(frozen=True)
class Item:
    """A user's own JSON, as it was sent."""

    id: Id
    data: Any
    version: int
    created_at: Time
    updated_at: Time


@dataclass(frozen=True)
class DeletedItem:
    id: Id
    deleted: Literal[True]


@dataclass(frozen=True)
class ItemPage:
    """Some items, oldest first, or what has changed, oldest change first. `next_cursor` is null on the last page;
    `since` is the same on all pages of one walk."""

    items: list[Item | DeletedItem]
    next_cursor: str | None
    since: str


def item_json(item: ItemRow) -> str:
    """An item as its owner sees it, its data as it was sent."""
    created = times.to_text(item.created_at)
    updated = created if item.updated_at == item.created_at else times.to_text(item.updated_at)
    return (
        f'{{"id":"{item.id}","data":{item.data},"version":{item.version},'
        f'"created_at":"{created}","updated_at":"{updated}"}}'
    )


def change_json(change: ItemRow | Deleted) -> str:
    return item_json(change) if isinstance(change, ItemRow) else f'{{"id":"{change.id}","deleted":true}}'


def id_of(item: str) -> str:
    """The id in what `item_json` has written."""
    return item[7:43]
