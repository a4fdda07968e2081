"""Transactions of PostgreSQL, over a wire."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from shared.database import Row, is_reading
from shared.database.jobs import Publishing
from shared.database.postgres.clock import CHECKED_CLOCK, CLOCK, Clock, WrongClock
from shared.database.postgres.dialect import Statement, adds_a_row, expecting, lateral, repeated, statement
from shared.database.postgres.wire import StatementAnswer, Wire

WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
READING = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
QUERYING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

IDLE_MS = 5000  # a process that was stopped in the middle of a transaction does not keep its locks

# How long a statement may take, and how much of that it may wait for a lock.
TIMES = "set_config('statement_timeout', :statement_ms, {is_local}), set_config('lock_timeout', :lock_ms, {is_local})"

# Every statement has an index that gives its rows in order. With statistics from before a table has grown, the planner
# would read all of it, for minutes; and JIT would compile a plan of such a cost, which takes 0.3 s.
REST = f"""
set_config('idle_in_transaction_session_timeout', '{IDLE_MS}', {{is_local}}),
set_config('enable_seqscan', 'off', {{is_local}}),
set_config('enable_sort', 'off', {{is_local}}),
set_config('jit', 'off', {{is_local}})
"""

# With each transaction, where a pooler stands in between.
SET_UP = f"{CLOCK}, {TIMES}, {REST}".format(is_local="true")
OTHER_TIMES = f", {TIMES}".format(is_local="true")

# Once, where the session is this process's own. A prepared statement is parsed once, and its plan kept for
# wire.PLANS_SECONDS: planning takes more time than most statements.
SESSION = f"""
SELECT set_config('statement_timeout', '{{times.statement_ms}}', false),
    set_config('lock_timeout', '{{times.lock_ms}}', false), {REST.format(is_local="false")},
    set_config('plan_cache_mode', '{{plans}}', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', '{{read_only}}', false)
"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"


MAX_ROWS = 32  # of one INSERT

Given = tuple[Statement, list[bytes | None], list[int]]


def _sizes(count: int) -> Iterator[int]:
    """Powers of two that make up `count`: few statements to prepare."""
    size = MAX_ROWS
    while count:
        while size > count:
            size //= 2
        yield size
        count -= size


class Times(NamedTuple):
    statement_ms: int
    lock_ms: int

    @property
    def values(self) -> dict[str, str]:
        return {"statement_ms": str(self.statement_ms), "lock_ms": str(self.lock_ms)}


def session(times: Times, *, read_only: bool = False, keeps_plans: bool = True) -> str:
    plans = "force_generic_plan" if keeps_plans else "force_custom_plan"
    return SESSION.format(times=times, read_only="on" if read_only else "off", plans=plans)


class Unmet(psycopg.Error):
    """An expectation's `error` is to be raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__("not as many rows as expected")
        self.error = error


class Statements(Publishing, ABC):
    """What a unit of work may ask over a wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        self._clock: StatementAnswer | None = None
        self._now: int | None = None
        self.has_run = False

    @property
    def now(self) -> int:
        if self._now is None:
            clock = self._clock or self._send(CLOCK, {})
            self._wait(clock)
            self._now = int(self._wire.rows(clock)[0][0])
        return self._now

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._wire.rows(self.ask(sql, values))

    def one(self, sql: str, **values: Any) -> Row | None:
        found = self.all(sql, **values)
        return found[0] if found else None

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        return self.all(lateral(outer, inner), **values)

    def run(self, sql: str, **values: Any) -> int:
        return self.ask(sql, values).count

    def put(self, sql: str, **values: Any) -> None:
        self._note(sql)
        self._send(sql, values)

    def later(self, sql: str, **values: Any) -> Callable[[], list[Row]]:
        self._note(sql)
        answer = self._send(sql, values)

        def rows() -> list[Row]:
            self._wait(answer)
            return self._wire.rows(answer)

        return rows

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        if self.ask(sql, values).count != count:
            raise error

    def lock(self, name: str) -> None:
        self._send(LOCK, {"name": name})

    def ask(self, sql: str, values: Mapping[str, Any]) -> StatementAnswer:
        """Raises psycopg.Error."""
        self._note(sql)
        answer = self._send(sql, values)
        self._wait(answer)
        return answer

    def _note(self, sql: str) -> None:
        self.has_run |= not is_reading(sql)

    def _send(self, sql: str, values: Mapping[str, Any]) -> StatementAnswer:
        return self._wire.send(*statement(sql, **values))

    @abstractmethod
    def _wait(self, answer: StatementAnswer) -> None:
        """Until the answer is there. Raises psycopg.Error."""


class Transaction(Statements):
    """To be ended by `commit`, or by `undo` of the wire."""

    _clock: StatementAnswer

    def __init__(self, wire: Wire, begin: str, times: Times, session: Times, known: Clock) -> None:
        """`session` has the times of the session, where it is this process's own."""
        super().__init__(wire)
        self._rows: dict[str, list[Given]] = {}  # to be added, by INSERT
        self._expectations: list[tuple[StatementAnswer, Exception]] = []
        self._known = known
        self._clock_at: float | None = None  # when its answer was there
        wire.failure = None
        self._send(begin, {})
        more, values = (OTHER_TIMES, times.values) if times != session else ("", {})
        if not wire.is_direct:
            self._clock = self._send(SET_UP, times.values)
        elif (supposed := known.supposed()) is not None:
            self._now = supposed
            self._clock = self._send(CHECKED_CLOCK.format(more=more), values | {"supposed": supposed})
        else:
            self._clock = self._send(CLOCK + more, values)

    def put(self, sql: str, **values: Any) -> None:
        """Rows that are added one after the other, by one unit or by many, go out as sets."""
        if not adds_a_row(sql):
            return super().put(sql, **values)
        self._note(sql)
        self._rows.setdefault(sql, []).append(statement(sql, **values))

    def expect(self, count: int, error: Exception, sql: str, **values: Any) -> None:
        self._note(sql)
        answer = self._send(expecting(sql), values | {"expected": count})
        self._expectations.append((answer, error))

    def _send(self, sql: str, values: Mapping[str, Any]) -> StatementAnswer:
        if self._rows:
            self._add_rows()
        return super()._send(sql, values)

    def _add_rows(self) -> None:
        added, self._rows = self._rows, {}
        for sql, rows in added.items():
            for size in _sizes(len(rows)):
                some, rows = rows[:size], rows[size:]
                texts = [text for _, row, _ in some for text in row]
                types = [oid for _, _, row in some for oid in row]
                self._wire.send(repeated(sql, size), texts, types)

    def commit(self) -> None:
        """Raises psycopg.Error: nothing was committed or, where the wire is lost, the outcome is unknown."""
        committing = self._send("COMMIT", {})
        self._wait(committing)
        if committing.status != b"COMMIT":
            raise self._failure() or errors.InFailedSqlTransaction("rolled back")
        assert self._clock_at is not None
        self._known.heard(int(self._wire.rows(self._clock)[0][0]), self._clock_at)

    def _wait(self, answer: StatementAnswer) -> None:
        """Synced, not just flushed: only then does the server count the time in which it hears no more (IDLE_MS)."""
        if not answer.is_there:
            self._wire.sync()
            self._wire.wait(answer)
            self._clock_at = self._clock_at or time.monotonic()
        if answer.error is not None:
            raise self._failure() or answer.error

    def _failure(self) -> psycopg.Error | None:
        if isinstance(self._clock.error, errors.DivisionByZero):
            self._known.doubt()
            return WrongClock("the clock is another than supposed")
        for answer, error in self._expectations:
            if isinstance(answer.error, errors.DivisionByZero):
                return Unmet(error)
        return self._wire.failure
