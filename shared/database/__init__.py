"""One interface to SQLite and PostgreSQL: a unit of work is a plain function over a transaction.

task = await database.write(lambda tx: queue.submit(tx, new_task))   # returns after the commit
task = await database.read(lambda tx: queue.find(tx, task_id))
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.errors import Problem, Unavailable
from shared.metrics import Counter

DATABASE_ERRORS = Counter("only_post_database_errors_total", "Times that the database did not answer this process.")

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = tuple[Any, ...]


class Transaction(Protocol):
    """What a unit of work sees. SQL takes its values by name (`:id`) and is written in the
    subset that SQLite 3.35 and PostgreSQL 13 share.

    Units of one process or of several may run side by side, each statement seeing the newest commit (READ COMMITTED).
    Rows that have to stay as they were read are locked by FOR UPDATE, which SQLite, with one writer at a time, does
    without; rows that may not exist yet by a name (`lock`).
    """

    @property
    def now(self) -> int:
        """The database's clock in milliseconds since 1970, one value for the whole transaction."""

    def all(self, sql: str, **values: Any) -> list[Row]: ...

    def one(self, sql: str, **values: Any) -> Row | None: ...

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        """The rows of `inner` for each row of `outer`, whose columns it has as `:each.column`."""

    def run(self, sql: str, **values: Any) -> int:
        """How many rows it changed."""

    def put(self, sql: str, **values: Any) -> None:
        """As `run`, without the number: it may be sent together with the next statement."""

    def later(self, sql: str, **values: Any) -> Callable[[], list[Row]]:
        """The rows of `all`, for when they are asked for: by the unit, or from its value, once that is committed."""

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        """As `put`. The unit raises `error`, here or in place of its commit, and leaves nothing behind where the
        statement does not find or change `count` rows."""

    def lock(self, name: str) -> None:
        """Other transactions wait here for the same name until this one ends."""

    def publish(self, hint: str) -> None:
        """Sent with the commit, once however many units publish it, and before the units that waited for the
        transaction begin."""

    def republish(self, hint: str, instead: str) -> None:
        """Publishes another hint in place of one that this transaction's units have published by now, if any has."""


Unit = Callable[[Transaction], T]


class Database(Protocol):
    dialect: str

    async def write(self, unit: Unit[T], seconds: float | None = ..., *, is_long: bool = ..., is_last: bool = ...) -> T:
        """The unit's value, once what it wrote is on disk. A unit may run twice, so it must have no effect but its SQL
        and its hints; one that raises leaves nothing behind. One that `is_long`, some milliseconds and more, is run so
        that others need not wait for it. One that `is_last` runs behind the others of its transaction, and sees what
        they have written; it is not long.

        Raises Unavailable (503) when the database does not answer or has no room; whether the unit
        was committed is then unknown only if it was under way. Raises Unstorable (422) for a value that it refuses.
        """

    async def read(self, unit: Unit[T]) -> T:
        """For few rows, by key or index: runs in the event loop, so it has to be quick. Each statement sees the newest
        commit."""

    async def query(self, unit: Unit[T]) -> T:
        """For reads that may take longer: does not hold up others, all its statements on one snapshot."""

    async def vacuum(self, table: str) -> None:
        """Makes the room of rows that were overwritten or deleted free again, once there are many. Where rows change
        often, statements pass over more and more of them until then."""

    def publish(self, hint: str) -> None:
        """Tells every process on this database that has subscribed to the hint's topic, its first word, this one
        included. A hint may get lost."""

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> None:
        """Calls back with what follows the topic in each hint, `''` where nothing does."""

    async def close(self) -> None: ...


class Unstorable(Problem):
    """A value that the database refuses, however often it is tried: out of its range, or not in its encoding."""

    status = 422
    code = "invalid_request"

    def __init__(self, reason: object) -> None:
        super().__init__(detail="the database can't store a value of it")
        log.warning("database.refused", extra={"reason": str(reason)})


NONE = "SELECT NULL WHERE 1 = 0"  # an empty list, `()`, is SQL on SQLite alone


def listed(name: str, values: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """A list of texts in SQL for IN and NOT IN, `(:id0, :id1)`, and its values."""
    named = {f"{name}{number}": value for number, value in enumerate(values)}
    return f"({', '.join(f':{each}' for each in named) or NONE})", named


def is_reading(sql: str) -> bool:
    """Whether a statement is a query, and changes nothing."""
    return sql.lstrip().startswith("SELECT")


def report_unavailable(reason: object) -> Unavailable:
    """Counts and logs that the database did not answer. The error to raise, without the reason, which may name files
    or rows."""
    DATABASE_ERRORS.add()
    log.warning("database.unavailable", extra={"reason": str(reason)})
    return Unavailable("database_unavailable", "the database does not answer", retry_after_seconds=2)


async def migrate(database: Database, name: str, directory: Path) -> None:
    """Applies the numbered files of `directory` that `name` has not had yet, each in one transaction: `0001.sql`, and
    `0001.postgresql.sql` after it on that engine alone."""
    for file in sorted(directory.glob("*.sql"), key=lambda file: file.stem):
        if file.suffixes[:-1] in ([], [f".{database.dialect}"]):
            unit = partial(_apply, name=f"{name}/{file.stem}", script=file.read_text())
            await database.write(unit, seconds=None, is_long=True)


def _apply(tx: Transaction, name: str, script: str) -> None:
    tx.lock("migration")
    tx.run("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at BIGINT NOT NULL)")
    if tx.one("SELECT 1 FROM migration WHERE name = :name", name=name):
        return
    for statement in script.split(";\n"):
        if statement.strip():
            tx.run(statement)
    tx.run("INSERT INTO migration (name, applied_at) VALUES (:name, :now)", name=name, now=tx.now)
