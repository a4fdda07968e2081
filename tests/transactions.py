"""Transactions at a time that the test sets."""

from typing import Any

from shared.database import Row, Transaction


class At:
    """A transaction at another time."""

    def __init__(self, tx: Transaction, now: int) -> None:
        self._tx = tx
        self.now = now

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._tx.all(sql, **values)

    def one(self, sql: str, **values: Any) -> Row | None:
        return self._tx.one(sql, **values)

    def run(self, sql: str, **values: Any) -> int:
        return self._tx.run(sql, **values)

    def put(self, sql: str, **values: Any) -> None:
        self._tx.put(sql, **values)

    def lock(self, name: str) -> None:
        self._tx.lock(name)
