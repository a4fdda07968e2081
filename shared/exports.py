"""Everything that is stored about an owner, gathered by one service from all that share its database.

A migration registers a view for each kind of thing that is kept (table `exported`): `owner`, `position`, in whose order
the entries go, and their columns, by the first of which those at one position go. `name/json` is JSON already, and what
ends in `_at` is a time.
"""

from collections.abc import AsyncIterator
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from shared import times
from shared.database import Database, Row, Transaction
from shared.strict_json import encode

PAGE = 200  # positions that are looked up at once; the entries, which may be large, one by one


class View(NamedTuple):
    member: str
    name: str
    columns: tuple[str, ...]


async def members(database: Database, owner: str) -> AsyncIterator[str]:
    """JSON text in pieces: for each view `,"member":[…]`."""
    for view in await database.query(_views):
        yield f",{encode(view.member)}:["
        separator = ""
        async for entry in _entries(database, view, owner):
            yield separator + entry
            separator = ","
        yield "]"


def _views(tx: Transaction) -> list[View]:
    found = tx.all("SELECT member, view_name, columns FROM exported ORDER BY member")
    return [View(member, name, tuple(columns.split())) for member, name, columns in found]


async def _entries(database: Database, view: View, owner: str) -> AsyncIterator[str]:
    after = ""
    while positions := await database.query(partial(_positions, view=view, owner=owner, after=after)):
        for after in positions:
            for entry in await database.query(partial(_entries_at, view=view, owner=owner, position=after)):
                yield entry


POSITIONS = """
SELECT DISTINCT position FROM {view} WHERE owner = :owner AND position > :after ORDER BY position LIMIT :most
"""


def _positions(tx: Transaction, view: View, owner: str, after: str) -> list[str]:
    sql = POSITIONS.format(view=view.name)
    return [position for (position,) in tx.all(sql, owner=owner, after=after, most=PAGE)]


ENTRY = "SELECT {columns} FROM {view} WHERE owner = :owner AND position = :position"


def _entries_at(tx: Transaction, view: View, owner: str, position: str) -> list[str]:
    """Empty when they were deleted meanwhile."""
    columns = [column.partition("/") for column in view.columns]
    sql = ENTRY.format(columns=", ".join(name for name, _, _ in columns), view=view.name)
    rows = sorted(tx.all(sql, owner=owner, position=position), key=itemgetter(0))
    return [_entry(columns, row) for row in rows]


def _entry(columns: list[tuple[str, str, str]], row: Row) -> str:
    values = [_written(name, kind, value) for (name, _, kind), value in zip(columns, row, strict=True)]
    return "{" + ",".join(f"{encode(name)}:{value}" for (name, _, _), value in zip(columns, values, strict=True)) + "}"


def _written(name: str, kind: str, value: object) -> str:
    if kind == "json" and isinstance(value, str):
        return value
    if name.endswith("_at") and isinstance(value, int):
        return encode(times.to_text(value))
    return encode(value)
