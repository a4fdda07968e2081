"""How the statements of a unit of work find their rows, by the engine's own account."""

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import sql as literal

from shared import database, exports
from shared.database import Row, Unit, connection, sqlite_transaction
from shared.database.postgres import dialect
from shared.database.postgres.clock import Clock
from shared.database.postgres.connections import Connector
from shared.database.postgres.dialect import lateral
from shared.database.postgres.transaction import WRITING, Times, Transaction, session
from shared.database.postgres.wire import Wire
from tests.postgres import execute, new_database

ROWS = int(os.environ.get("PLAN_ROWS", "20000"))  # that are over and done with; a tenth as many are not
TIMES = Times(statement_ms=60_000, lock_ms=1000)
TYPES = {0: "unknown", 16: "boolean", 20: "bigint", 701: "float8"}  # by their oids
STATES = ("sqlite", "analysed", "outdated")  # the last two are PostgreSQL's


class Statement(NamedTuple):
    sql: str
    plan: str
    indexes: frozenset[str]
    looked_at: int  # rows; on SQLite ten steps of its machine are one
    given: int  # rows returned or changed


class Plans(Protocol):
    def of(self, unit: Unit[Any], now: int, *, is_query: bool) -> list[Statement]:
        """The statements of a unit, whose writes are taken back."""


class Watched:
    """A transaction that notes how each of its statements is done."""

    def __init__(
        self,
        watch: Callable[[str, dict[str, Any]], tuple[Statement, list[Row]]],
        each: "Callable[[Watched, str, str, dict[str, Any]], list[Row]]",
        now: int,
    ) -> None:
        self._watch = watch
        self._each = each
        self.now = now
        self.statements: list[Statement] = []

    def all(self, sql: str, **values: Any) -> list[Row]:
        statement, rows = self._watch(sql, values)
        self.statements.append(statement)
        return rows

    def one(self, sql: str, **values: Any) -> Row | None:
        rows = self.all(sql, **values)
        return rows[0] if rows else None

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        return self._each(self, outer, inner, values)

    def run(self, sql: str, **values: Any) -> int:
        self.all(sql, **values)
        return self.statements[-1].given

    def put(self, sql: str, **values: Any) -> None:
        self.all(sql, **values)

    def later(self, sql: str, **values: Any) -> Callable[[], list[Row]]:
        rows = self.all(sql, **values)
        return lambda: rows

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        self.all(sql, **values)

    def lock(self, name: str) -> None:
        pass

    def publish(self, hint: str) -> None:
        pass

    def republish(self, hint: str, instead: str) -> None:
        pass


class SQLitePlans:
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._steps = 0

    def of(self, unit: Unit[Any], now: int, *, is_query: bool) -> list[Statement]:
        tx = Watched(self._watch, self._each, now)
        self._connection.execute("BEGIN")
        try:
            unit(tx)
        finally:
            self._connection.execute("ROLLBACK")
        return tx.statements

    def _watch(self, sql: str, values: dict[str, Any]) -> tuple[Statement, list[Row]]:
        tx = sqlite_transaction.Transaction(self._connection)
        plan = [step for *_, step in tx.all(f"EXPLAIN QUERY PLAN {sql}", **values)]
        changed, self._steps = self._connection.total_changes, 0
        self._connection.set_progress_handler(self._step, 1)
        rows = tx.all(sql, **values)
        self._connection.set_progress_handler(None, 0)
        given = len(rows) or self._connection.total_changes - changed
        indexes = frozenset(_sqlite_index(step) for step in plan if " INDEX " in step)
        return Statement(sql, "\n".join(plan), indexes, self._steps // 10, given), rows

    def _each(self, tx: Watched, outer: str, inner: str, values: dict[str, Any]) -> list[Row]:
        names = [f"each_{name}" for name, *_ in self._connection.execute(outer, values).description]
        rows = [dict(zip(names, row, strict=True)) for row in tx.all(outer, **values)]
        return [found for row in rows for found in tx.all(inner.replace(":each.", ":each_"), **values, **row)]

    def _step(self) -> int:
        self._steps += 1
        return 0

    def close(self) -> None:
        self._connection.close()


def _sqlite_index(step: str) -> str:
    """By the name that PostgreSQL would give it."""
    name = step.split(" INDEX ")[1].split()[0]
    return re.sub(r"sqlite_autoindex_(\w+)_(\d)", r"\1_key_\2", name).replace("_key_1", "_pkey")


class PostgresPlans:
    """Of statements as a service sends them, on a connection as it makes them."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(Connector(url).connect(session(TIMES)), patience_seconds=60)

    def of(self, unit: Unit[Any], now: int, *, is_query: bool) -> list[Statement]:
        self._tx = Transaction(self._wire, WRITING, TIMES, TIMES, Clock())
        if is_query:  # planned for its values, each time
            self._tx.put("SET LOCAL plan_cache_mode = 'force_custom_plan'")
        tx = Watched(self._watch, _lateral, now)
        try:
            unit(tx)
        finally:
            self._wire.undo()
        return tx.statements

    def _watch(self, sql: str, values: dict[str, Any]) -> tuple[Statement, list[Row]]:
        self._tx.put("SAVEPOINT before")
        explained = self._explained(*dialect.statement(sql, **values))
        self._tx.put("ROLLBACK TO SAVEPOINT before")
        assert "JIT" not in explained[0][0]
        nodes = list(_nodes(explained[0][0]["Plan"]))
        answer = self._tx.ask(sql, values)
        plan = "\n".join(f"{node['Node Type']} {node.get('Index Name', '')}" for node in nodes)
        indexes = frozenset(node["Index Name"] for node in nodes if "Index Name" in node)
        return Statement(sql, plan, indexes, sum(map(_rows_of, nodes)), answer.count), self._wire.rows(answer)

    def _explained(self, given: dialect.Statement, values: list[bytes | None], oids: list[int]) -> Row:
        """With the plan of a prepared statement, which is made without its values."""
        types = f"({', '.join(TYPES[oid] for oid in oids)})" if oids else ""
        literals = [literal.Literal(value if value is None else value.decode()).as_string() for value in values]
        self._tx.put(f"PREPARE watched {types} AS {given.text.decode()}")
        execute = f"EXECUTE watched ({', '.join(literals)})" if literals else "EXECUTE watched"
        answer = self._wire.send(dialect.Statement(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}".encode(), ()), [], [])
        self._wire.sync()
        self._wire.wait(answer)
        explained = self._wire.rows(answer)[0]
        self._tx.put("DEALLOCATE watched")
        return explained

    def close(self) -> None:
        self._wire.close()


def _lateral(tx: Watched, outer: str, inner: str, values: dict[str, Any]) -> list[Row]:
    return tx.all(lateral(outer, inner), **values)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _rows_of(node: dict[str, Any]) -> int:
    """Those that a node reads from a table or an index."""
    if "Relation Name" not in node or "Scan" not in node["Node Type"]:
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


@contextlib.contextmanager
def plans_of(state: str, directory: Path, schemas: dict[str, Path], old: list[str], new: list[str]) -> Iterator[Plans]:
    """The plans of a database that the statements of `old` and then of `new` have filled: with PostgreSQL's statistics
    as they should be (`analysed`), or from before there was anything new (`outdated`)."""
    if state == "sqlite":
        path = directory / "full.db"
        asyncio.run(make(f"sqlite:///{path}", schemas))
        with contextlib.closing(sqlite3.connect(path)) as filling, filling:
            for statement in old + new:
                filling.execute(statement)
        with contextlib.closing(SQLitePlans(path)) as plans:
            yield plans
        return
    with new_database() as url:
        asyncio.run(make(url, schemas))
        _leave_alone(url)
        with contextlib.closing(PostgresPlans(url)) as plans:
            _fill(url, old)
            if state == "outdated":
                execute(url, "VACUUM ANALYZE")
            _fill(url, new)
            if state == "analysed":
                execute(url, "VACUUM ANALYZE")
            yield plans


async def make(url: str, schemas: dict[str, Path]) -> None:
    await (await connection.connect(url, schemas)).close()


def _fill(url: str, statements: list[str]) -> None:
    with psycopg.connect(url) as filling:
        for statement in statements:
            filling.execute(statement.encode())


def _leave_alone(url: str) -> None:
    """Nobody but the test says when statistics are made."""
    for (table,) in execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        execute(url, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")


def exporting(view: str, columns: str, owner: str, position: str) -> Unit[Any]:
    """A page of the positions of an export's view, and what there is at one of them."""

    def unit(tx: database.Transaction) -> None:
        tx.all(exports.POSITIONS.format(view=view), owner=owner, after="", most=exports.PAGE)
        tx.all(exports.ENTRY.format(view=view, columns=columns), owner=owner, position=position)

    return unit


def check(
    plans: Plans, act: Unit[Any], now: int, indexes: set[str], walked: int = 0, *, is_query: bool = False
) -> None:
    """Every statement takes some of these indexes and no other, and looks at few rows more than it gives; where it has
    to walk an index, at as many as are `walked`."""
    for seen in plans.of(act, now, is_query=is_query):
        assert seen.indexes <= indexes, seen
        most = 15 * seen.given + 300 if isinstance(plans, SQLitePlans) else 3 * seen.given + 30
        assert seen.looked_at <= most + 3 * walked, seen
