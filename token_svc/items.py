"""Items: each user's own JSON, kept as the text that was sent.

Every statement names the owner, so that another's item is as absent as one that does not exist.
"""

from typing import NamedTuple

from shared import ids
from shared.database import Transaction
from shared.pages import DEFAULT_LIMIT


class ItemRow(NamedTuple):
    id: str
    data: str  # JSON
    version: int
    created_at: int  # milliseconds since 1970
    updated_at: int


COLUMNS = "id, data, version, created_at, updated_at"

# The count stands in the account, so that a new item costs the same beside ten thousand.
MAKE_ROOM = "UPDATE account SET item_count = item_count + 1 WHERE id = :owner AND item_count < :most"

INSERT = """
INSERT INTO item (id, account_id, data, version, created_at, updated_at)
VALUES (:id, :owner, :data, 1, :now, :now)
"""


def create(tx: Transaction, owner: str, data: str, most: int) -> ItemRow | None:
    """None when the owner has `most` items already."""
    if not tx.run(MAKE_ROOM, owner=owner, most=most):
        return None
    item = ItemRow(ids.new(), data, 1, tx.now, tx.now)
    tx.put(INSERT, id=item.id, owner=owner, data=data, now=tx.now)
    return item


def find(tx: Transaction, owner: str, item_id: str) -> ItemRow | None:
    row = tx.one(f"SELECT {COLUMNS} FROM item WHERE id = :id AND account_id = :owner", id=item_id, owner=owner)
    return ItemRow(*row) if row else None


def count(tx: Transaction, owner: str) -> int:
    row = tx.one("SELECT item_count FROM account WHERE id = :owner", owner=owner)
    return int(row[0]) if row else 0


MAX_PAGE_BYTES = 1024 * 1024  # or one item that is larger: what a client does not read is kept in memory
LONG = 16 * 1024  # characters, above which an item is read by itself
FIRST_LOOK = 2  # finding out how long an item is takes reading it
CHUNK = DEFAULT_LIMIT + 1  # a page of the usual length, with the item that says that there are more

LIST_SHORT = f"""
SELECT {COLUMNS.replace("data", "CASE WHEN length(data) <= :long THEN data END")} FROM item
WHERE account_id = :owner AND id > :after ORDER BY id LIMIT :limit
"""


def page(
    tx: Transaction, owner: str, after: str, limit: int, most_bytes: int = MAX_PAGE_BYTES
) -> tuple[list[ItemRow], bool]:
    """Up to `limit` items behind `after`, and whether there are more. It ends early before the item that would make it
    longer than `most_bytes`."""
    found: list[ItemRow] = []
    size, look = 0, FIRST_LOOK
    while True:
        chunk = min(look, limit + 1 - len(found))
        some = tx.all(LIST_SHORT, owner=owner, after=found[-1].id if found else after, limit=chunk, long=LONG)
        for row in some:
            item = ItemRow(*row) if row[1] is not None else find(tx, owner, row[0])
            if item is None:  # deleted since, by another transaction
                continue
            size += len(item.data.encode())
            if len(found) == limit or (found and size > most_bytes):
                return found, True
            found.append(item)
        if len(some) < chunk:
            return found, False
        look = CHUNK if all(row[1] is not None for row in some) else FIRST_LOOK


REPLACE = f"""
UPDATE item SET data = :data, version = version + 1, updated_at = :now
WHERE id = :id AND account_id = :owner AND version = :version
RETURNING {COLUMNS}
"""


def replace(tx: Transaction, owner: str, item: ItemRow, data: str) -> ItemRow | None:
    """None when it has moved on from `item`'s version."""
    row = tx.one(REPLACE, id=item.id, owner=owner, version=item.version, data=data, now=tx.now)
    return ItemRow(*row) if row else None


def delete(tx: Transaction, owner: str, item: ItemRow) -> bool:
    deleted = tx.run(
        "DELETE FROM item WHERE id = :id AND account_id = :owner AND version = :version",
        id=item.id,
        owner=owner,
        version=item.version,
    )
    if deleted:
        tx.put("UPDATE account SET item_count = item_count - 1 WHERE id = :owner", owner=owner)
    return deleted == 1
