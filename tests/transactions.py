"""Transactions at a time that the test sets."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from shared.database import Database, Row, Transaction, connection
from tests.shared.engines import ENGINES

T = TypeVar("T")
START = 1_800_000_000_000


class At:
    """A transaction at another time."""

    def __init__(self, tx: Transaction, now: int) -> None:
        self._tx = tx
        self.now = now

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._tx.all(sql, **values)

    def one(self, sql: str, **values: Any) -> Row | None:
        return self._tx.one(sql, **values)

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        return self._tx.each(outer, inner, **values)

    def run(self, sql: str, **values: Any) -> int:
        return self._tx.run(sql, **values)

    def put(self, sql: str, **values: Any) -> None:
        self._tx.put(sql, **values)

    def later(self, sql: str, **values: Any) -> Callable[[], list[Row]]:
        return self._tx.later(sql, **values)

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        self._tx.expect(count, error, sql, **values)

    def lock(self, name: str) -> None:
        self._tx.lock(name)

    def publish(self, hint: str) -> None:
        self._tx.publish(hint)

    def republish(self, hint: str, instead: str) -> None:
        self._tx.republish(hint, instead)


class Timeline:
    """A database, and what happens to it one after the other."""

    def __init__(self, database: Database, runner: asyncio.Runner) -> None:
        self._database = database
        self._runner = runner
        self.now = START

    def do(self, unit: Callable[[At], T]) -> T:
        return self._runner.run(self._database.write(lambda tx: unit(At(tx, self.now))))

    def hear(self, topic: str) -> list[str]:
        """What the hints of a topic are about, from now on."""
        heard: list[str] = []

        async def subscribe() -> None:
            self._database.subscribe(topic, heard.append)

        self._runner.run(subscribe())
        return heard

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


Opened = TypeVar("Opened", bound=Timeline)


@contextlib.contextmanager
def opened(kind: type[Opened], engine_name: str, directory: Path, schemas: dict[str, Path]) -> Iterator[Opened]:
    """An empty one."""
    with ENGINES[engine_name](directory) as engine, asyncio.Runner() as runner:
        database = runner.run(connection.connect(engine.url, schemas))
        yield kind(database, runner)
        runner.run(database.close())
