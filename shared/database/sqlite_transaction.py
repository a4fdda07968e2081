"""Transactions of SQLite."""

import re
import sqlite3
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from shared.database import Row, is_reading
from shared.database.jobs import Publishing

CLOCK = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"  # unixepoch('subsec') needs 3.42


class Transaction(Publishing):
    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection
        self._now: int | None = None
        self.has_run = False

    @property
    def now(self) -> int:
        if self._now is None:
            self._now = int(self._connection.execute(CLOCK).fetchone()[0])
        return self._now

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._connection.execute(_dialect(sql), values).fetchall()

    def one(self, sql: str, **values: Any) -> Row | None:
        cursor = self._connection.execute(_dialect(sql), values)
        row: Row | None = cursor.fetchone()
        cursor.close()
        return row

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        # No LATERAL in SQLite, and no round trip to save.
        cursor = self._connection.execute(_dialect(outer), values)
        names = [f"each_{name}" for name, *_ in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return [found for row in rows for found in self.all(inner.replace(":each.", ":each_"), **values, **row)]

    def run(self, sql: str, **values: Any) -> int:
        self.has_run = True
        return self._connection.execute(_dialect(sql), values).rowcount

    def put(self, sql: str, **values: Any) -> None:
        self.run(sql, **values)

    def later(self, sql: str, **values: Any) -> Callable[[], list[Row]]:
        rows = self.all(sql, **values)
        return lambda: rows

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        if count != (len(self.all(sql, **values)) if is_reading(sql) else self.run(sql, **values)):
            raise error

    def lock(self, name: str) -> None:
        pass  # one writes at a time


FOR_UPDATE = re.compile(r"FOR UPDATE( OF \w+)?( SKIP LOCKED)?")


@lru_cache(maxsize=4096)
def _dialect(sql: str) -> str:
    return FOR_UPDATE.sub("", sql)
