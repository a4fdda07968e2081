"""Items: each user's own JSON, kept as the text that was sent.

Every statement names the owner, so that another user's item is not found, like one that does not exist. A unit that
writes holds the account's lock, since the account has the number of its latest change and the sums of what it stores.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from shared import ids, pruning
from shared.database import Transaction
from shared.errors import Conflict
from shared.pages import DEFAULT_LIMIT

DELETED_MS = 30 * 86400 * 1000  # how long `since` reports a deletion
MAX_DELETED = 100_000  # latest changes of one account: deletions before them are forgotten early


class ItemRow(NamedTuple):
    id: str
    data: str  # JSON
    version: int
    created_at: int  # milliseconds since 1970
    updated_at: int
    change: int = 0  # its number among the account's changes


class Deleted(NamedTuple):
    id: str
    change: int


class Room(NamedTuple):
    """How much one account may store."""

    items: int
    bytes: int


# coalesce hides the owner from the planner, which may prefer the owner's index to the primary key.
MINE = "id = :id AND coalesce(account_id, '') = :owner"

COLUMNS = ", ".join(ItemRow._fields)

# The sums are columns of the account, so that a write costs the same beside ten thousand items. Answers kept for
# idempotency keys count too.
COUNT = """
UPDATE account SET item_count = item_count + :items, item_bytes = item_bytes + :bytes, change = change + 1
WHERE id = :owner AND (:items <= 0 OR item_count + :items <= :most_items) AND (:growth <= 0 OR item_bytes + :growth
    + coalesce((SELECT bytes FROM kept_answers WHERE kept_answers.owner = account.id), 0) <= :most_bytes)
"""

CHANGE = "(SELECT change FROM account WHERE account.id = :owner)"

INSERT = f"""
INSERT INTO item (id, account_id, data, version, created_at, updated_at, change)
VALUES (:id, :owner, :data, 1, :now, :now, {CHANGE})
"""


def _count(tx: Transaction, owner: str, room: Room, *, items: int, size: int, kept: int = 0) -> None:
    tx.expect(
        1,
        Conflict("quota_exceeded", "it does not fit beside what is stored already"),
        COUNT,
        owner=owner,
        items=items,
        bytes=size,
        growth=size + kept,
        most_items=room.items,
        most_bytes=room.bytes,
    )


def create(
    tx: Transaction, owner: str, data: str, room: Room, kept: Callable[[ItemRow], int] = lambda item: 0
) -> ItemRow:
    """The item, but for the number of its change. Raises 409 when there is no room for it, and for `kept(item)` bytes
    of an answer about it."""
    item = ItemRow(ids.new(), data, 1, tx.now, tx.now)
    _count(tx, owner, room, items=1, size=len(data.encode()), kept=kept(item))
    tx.put(INSERT, id=item.id, owner=owner, data=data, now=tx.now)
    return item


def find(tx: Transaction, owner: str, item_id: str) -> ItemRow | None:
    row = tx.one(f"SELECT {COLUMNS} FROM item WHERE {MINE}", id=item_id, owner=owner)
    return ItemRow(*row) if row else None


def count(tx: Transaction, owner: str) -> int:
    row = tx.one("SELECT item_count FROM account WHERE id = :owner", owner=owner)
    return int(row[0]) if row else 0


MAX_PAGE_BYTES = 1024 * 1024  # or one larger item: an answer stays in memory until its client has read it
LONG = 16 * 1024  # characters, above which an item is read by itself
FIRST_LOOK = 2  # items, whose lengths are known only once they are read
CHUNK = DEFAULT_LIMIT + 1  # a page of the usual length, and the item behind it, if there are more

LIST_SHORT = f"""
SELECT {COLUMNS.replace("data", "CASE WHEN length(data) <= :long THEN data END")} FROM item
WHERE account_id = :owner AND id > :after ORDER BY id LIMIT :limit
"""

MAX_LOOKED_AT = 2000  # items, in one page of those that a filter lets through
MAX_LOOKED_AT_BYTES = 4 * 1024 * 1024


class Page(NamedTuple):
    """`after` is where the next one begins, None on the last."""

    items: list[ItemRow]
    after: str | None


def page(
    tx: Transaction,
    owner: str,
    after: str,
    limit: int,
    fits: Callable[[ItemRow], bool] | None = None,
    most_bytes: int = MAX_PAGE_BYTES,
) -> Page:
    """Up to `limit` items behind `after` that fit. It ends early before the item that would make it longer than
    `most_bytes`; with a filter also once it has looked at much, and it may be empty then."""
    found: list[ItemRow] = []
    size = looked_at_bytes = 0
    for looked_at, item in enumerate(_behind(tx, owner, after, most=None if fits else limit + 1)):
        length = len(item.data.encode())
        if looked_at == MAX_LOOKED_AT or looked_at_bytes > MAX_LOOKED_AT_BYTES:
            return Page(found, after)
        if fits is None or fits(item):
            if len(found) == limit or (found and size + length > most_bytes):
                return Page(found, after)
            found.append(item)
            size += length
        looked_at_bytes, after = looked_at_bytes + length, item.id
    return Page(found, None)


def _behind(tx: Transaction, owner: str, after: str, most: int | None) -> Iterator[ItemRow]:
    """The items behind `after`, up to `most`: short ones are read together, each long one by itself."""
    look, given = FIRST_LOOK, 0
    while most is None or given < most:
        chunk = look if most is None else min(look, most - given)
        some = tx.all(LIST_SHORT, owner=owner, after=after, limit=chunk, long=LONG)
        for row in some:
            item = ItemRow(*row) if row[1] is not None else find(tx, owner, row[0])
            if item is not None:  # or it was deleted since, by another transaction
                given += 1
                yield item
        if len(some) < chunk:
            return
        after = some[-1][0]
        look = CHUNK if all(row[1] is not None for row in some) else FIRST_LOOK


def latest_change(tx: Transaction, owner: str) -> int:
    row = tx.one("SELECT change FROM account WHERE id = :owner", owner=owner)
    return int(row[0]) if row else 0


def forgotten(tx: Transaction, owner: str) -> int:
    """The number of the change up to which deletions may be forgotten."""
    row = tx.one("SELECT forgotten FROM account WHERE id = :owner", owner=owner)
    return int(row[0]) if row else 0


CHANGED = """
SELECT change, id FROM {table} WHERE account_id = :owner AND change > :after AND change <= :upto
ORDER BY change LIMIT :limit
"""


def changes(
    tx: Transaction, owner: str, after: int, upto: int, limit: int
) -> tuple[list[ItemRow | Deleted], int | None]:
    """Up to `limit` changes behind the number `after`, up to the number `upto`, oldest first: each item once, as it is
    now. And where the next page begins, None on the last."""
    span = {"owner": owner, "after": after, "upto": upto, "limit": limit + 1}
    changed = [(change, id, False) for change, id in tx.all(CHANGED.format(table="item"), **span)]
    deleted = [(change, id, True) for change, id in tx.all(CHANGED.format(table="deleted_item"), **span)]
    found: list[ItemRow | Deleted] = []
    size, last = 0, after
    for number, (change, id, is_deleted) in enumerate(sorted(changed + deleted)):
        item = None if is_deleted else find(tx, owner, id)
        length = len(item.data.encode()) if item else 0
        if number == limit or (found and size + length > MAX_PAGE_BYTES):
            return found, last
        if is_deleted:
            found.append(Deleted(id, change))
        elif item and item.change <= upto:  # else it has changed again, and is reported after the next mark
            found.append(item)
        size, last = size + length, change
    return found, None


REPLACE = f"""
UPDATE item SET data = :data, version = :version, updated_at = :now, change = {CHANGE} WHERE {MINE}
"""


def replace(tx: Transaction, owner: str, item: ItemRow, data: str, room: Room) -> ItemRow:
    """The item as it is then, but for the number of its change. Raises 409 when there is no room. `item` was read under
    the account's lock."""
    _count(tx, owner, room, items=0, size=len(data.encode()) - len(item.data.encode()))
    replaced = item._replace(data=data, version=item.version + 1, updated_at=tx.now)
    tx.put(REPLACE, id=item.id, owner=owner, data=data, version=replaced.version, now=tx.now)
    return replaced


UNCOUNT = """
UPDATE account SET item_count = item_count - 1, item_bytes = item_bytes - :bytes, change = change + 1,
    forgotten = CASE WHEN forgotten < change - :most THEN change - :most ELSE forgotten END
WHERE id = :owner
RETURNING change
"""

REMEMBER = """
INSERT INTO deleted_item (id, account_id, change, deleted_at) VALUES (:id, :owner, :change, :now)
"""

FORGET = "DELETE FROM deleted_item WHERE account_id = :owner AND change <= :forgotten"


def delete(tx: Transaction, owner: str, item: ItemRow) -> None:
    """`item` was read under the account's lock."""
    tx.put(f"DELETE FROM item WHERE {MINE}", id=item.id, owner=owner)
    row = tx.one(UNCOUNT, owner=owner, bytes=len(item.data.encode()), most=MAX_DELETED)
    change = row[0] if row else 0
    tx.put(REMEMBER, id=item.id, owner=owner, change=change, now=tx.now)
    if change > MAX_DELETED:
        tx.put(FORGET, owner=owner, forgotten=change - 1 - MAX_DELETED)


MOVE_ON = "UPDATE account SET forgotten = :change WHERE id = :owner AND forgotten < :change"


def prune(tx: Transaction) -> int:
    """Forgets up to MAX_PRUNED deletions older than DELETED_MS; how many."""
    forgotten: dict[str, int] = {}
    is_old, before = "deleted_at <= :before ORDER BY deleted_at", tx.now - DELETED_MS
    rows = pruning.delete(tx, "deleted_item", "id", is_old, returning="account_id, change", before=before)
    for owner, change in rows:
        forgotten[owner] = max(change, forgotten.get(owner, 0))
    for owner, change in sorted(forgotten.items()):  # sorted: a fixed lock order cannot deadlock
        tx.put(MOVE_ON, owner=owner, change=change)
    return len(rows)
