"""The wire to a session of PostgreSQL. Statements go out as they come, and answers come back in that order: libpq's
pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html).

psycopg makes the connection and knows the types. Its cursors and its pipeline are not used: they talk to the server
after every statement, and believe that a statement is prepared which the server has skipped behind a failure.
"""

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
from greenlet import getcurrent
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from shared.database import Row
from shared.database.postgres.connections import PatientConnection
from shared.database.postgres.dialect import Statement

LOOK_SECONDS = 0.5
MAX_PREPARED = 256  # statements of a session
PLANS_SECONDS = 2.0  # a plan that was made while a table was empty may read all of it when it is full

FAILURES = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.PIPELINE_ABORTED)


class StatementAnswer:
    """To one statement, once it `is_there`."""

    __slots__ = ("error", "is_there", "prepared", "result", "wake")

    def __init__(self, prepared: bytes | None = None) -> None:
        self.prepared = prepared  # the statement that this is the preparing of
        self.result: PGresult | None = None
        self.error: psycopg.Error | None = None
        self.is_there = False
        self.wake: Callable[[], Any] | None = None

    @property
    def status(self) -> bytes:
        return (self.result and self.result.command_status) or b""

    @property
    def count(self) -> int:
        """Of the rows that were changed, or found."""
        return (self.result and self.result.command_tuples) or 0


class Wire:
    """For a thread, which waits by itself."""

    def __init__(self, connection: PatientConnection, *, patience_seconds: float, prepares: bool = False) -> None:
        self.is_direct = connection.is_direct
        self.is_lost = False
        self.patience_seconds = patience_seconds
        self.failure: psycopg.Error | None = None  # the first since a transaction set it to None
        self._silent_looks = 0
        self._heard_at = 0.0
        self._connection = connection
        self._libpq = connection.pgconn
        self._libpq.nonblocking = 1
        self._libpq.enter_pipeline_mode()
        self._socket = self._libpq.socket
        self._expected: deque[StatementAnswer] = deque()
        self._prepares = prepares and connection.is_direct
        self._prepared: dict[bytes, bytes] = {}  # names of statements, by their text
        self._planned_at = 0.0
        self._count = 0
        self._types = Transformer()
        self._is_sent = True

    def is_good(self) -> bool:
        """For what comes next. One that is not is closed."""
        if self._connection.is_outlived:
            self.close()
        return not self.is_lost

    def silent_seconds(self) -> float:
        """For how long the server has not said what it is expected to."""
        return time.monotonic() - self._heard_at if self._expected else 0.0

    def send(self, statement: Statement, values: list[bytes | None], types: list[int]) -> StatementAnswer:
        """Raises psycopg.OperationalError when the connection is lost, as all do that send or wait."""
        if not self._expected:
            self._heard_at = time.monotonic()
        if self._prepares:
            self._plan_anew()
            name = self._prepared.get(statement.text) or self._prepare(statement, types)
            self._libpq.send_query_prepared(name, values)
        else:
            self._libpq.send_query_params(statement.text, values, types)
        return self._expect(StatementAnswer())

    def _plan_anew(self) -> None:
        now = time.monotonic()
        if now - self._planned_at > PLANS_SECONDS:
            self._planned_at = now
            self._libpq.send_query_params(b"DISCARD PLANS", None)
            self._expect(StatementAnswer())

    def _prepare(self, statement: Statement, types: list[int]) -> bytes:
        if len(self._prepared) >= MAX_PREPARED:
            oldest = next(iter(self._prepared))
            self._libpq.send_query_params(b"DEALLOCATE " + self._prepared.pop(oldest), None)
            self._expect(StatementAnswer())
        self._count += 1
        name = self._prepared[statement.text] = b"s%d" % self._count
        self._libpq.send_prepare(name, statement.text, types)
        self._expect(StatementAnswer(statement.text))
        return name

    def _expect(self, answer: StatementAnswer) -> StatementAnswer:
        self._expected.append(answer)
        return answer

    def sync(self) -> None:
        """Sends all there is to send. A failure concerns what was sent since the last sync and no more."""
        self._libpq.pipeline_sync()
        self._expect(StatementAnswer())
        self._flush()

    def undo(self) -> None:
        self.sync()  # behind a failure nothing is looked at until then
        self._libpq.send_query_params(b"ROLLBACK", None)
        undoing = self._expect(StatementAnswer())
        self.sync()
        self.wait(undoing)

    def rows(self, answer: StatementAnswer) -> list[Row]:
        assert answer.result is not None
        self._types.set_pgresult(answer.result)
        return self._types.load_rows(0, answer.result.ntuples, tuple)

    def wait(self, answer: StatementAnswer) -> None:
        """Until the answer is there."""
        while not answer.is_there:
            news = select.poll()  # select.select takes no file numbers above 1023
            news.register(self._socket, select.POLLIN if self._is_sent else select.POLLIN | select.POLLOUT)
            if news.poll(LOOK_SECONDS * 1000):
                self._flush()
                self.hear()
            else:
                self.look()

    def look(self) -> None:
        """Once in LOOK_SECONDS: to TCP all is well as long as something in between, or a server that is stopped, takes
        what is sent. A process that slept for long itself has looked but once."""
        self._silent_looks = self._silent_looks + 1 if self._expected else 0
        if self._silent_looks * LOOK_SECONDS >= self.patience_seconds:
            self.lose(psycopg.InterfaceError("the server has fallen silent"))

    def hear(self) -> None:
        """Takes in what has come."""
        arrived: list[StatementAnswer] = []
        try:
            self._libpq.consume_input()
            while self._expected and not self._libpq.is_busy():
                self._take(self._libpq.get_result(), arrived)
        except psycopg.Error as error:
            self.lose(error)
        self._heard_at = time.monotonic()
        self._silent_looks = 0
        _wake(arrived)

    def _take(self, result: PGresult | None, arrived: list[StatementAnswer]) -> None:
        """What comes in is the result of each statement and None behind it; a sync has no None."""
        answer = self._expected[0]
        if result is not None and result.status != ExecStatus.PIPELINE_SYNC:
            answer.result = result
            if result.status in FAILURES:
                self._fail(answer, result)
            return
        self._expected.popleft()
        answer.is_there = True
        arrived.append(answer)

    def _fail(self, answer: StatementAnswer, result: PGresult) -> None:
        if answer.prepared is not None:
            self._prepared.pop(answer.prepared, None)
        if result.status == ExecStatus.PIPELINE_ABORTED:
            answer.error = errors.PipelineAborted("a statement before it failed")
        else:
            answer.error = errors.error_from_result(result)
            self.failure = self.failure or answer.error

    def lose(self, error: psycopg.Error) -> None:
        """Ends the connection: who waits for it is told why."""
        if not self.is_lost:
            self._connection.losses.count += 1
            self._end(error)

    def close(self) -> None:
        if not self.is_lost:
            self._end(psycopg.OperationalError("the connection was closed"))

    def _end(self, error: psycopg.Error) -> None:
        self.is_lost = True
        self.failure = self.failure or error
        self._connection.close()
        lost, self._expected = list(self._expected), deque()
        for answer in lost:
            answer.error = answer.error or error
            answer.is_there = True
        self._wake(lost)

    def _wake(self, lost: list[StatementAnswer]) -> None:
        """A thread is awake."""

    def _flush(self) -> None:
        try:
            self._is_sent = self._libpq.flush() == 0
        except psycopg.Error as error:
            self.lose(error)


def _wake(answers: list[StatementAnswer]) -> None:
    for answer in answers:
        if answer.wake is not None:
            answer.wake()


class LoopWire(Wire):
    """For the event loop: a greenlet that waits gives way to it."""

    def __init__(
        self,
        connection: PatientConnection,
        loop: asyncio.AbstractEventLoop,
        *,
        patience_seconds: float,
        hear_hint: Callable[[str], None] | None = None,
    ) -> None:
        """`hear_hint` is told what comes by NOTIFY."""
        super().__init__(connection, patience_seconds=patience_seconds, prepares=True)
        self._loop = loop
        self._hear_hint = hear_hint
        self._is_writing = False
        self._is_syncing = False
        loop.add_reader(self._socket, self.hear)

    def wait(self, answer: StatementAnswer) -> None:
        if not answer.is_there:
            me = getcurrent()
            answer.wake = me.switch
            assert me.parent is not None
            me.parent.switch()

    def hear(self) -> None:
        super().hear()
        while self._hear_hint and not self.is_lost and (news := self._libpq.notifies()):
            self._hear_hint(news.extra.decode())

    def sync_soon(self) -> None:
        """With all that is sent in this turn of the loop."""
        if not self._is_syncing:
            self._is_syncing = True
            self._loop.call_soon(self._sync)

    def _sync(self) -> None:
        self._is_syncing = False
        if self.is_lost:
            return
        try:
            self.sync()
        except psycopg.Error as error:
            self.lose(error)

    def _end(self, error: psycopg.Error) -> None:
        self._loop.remove_reader(self._socket)  # before its number is another's
        self._loop.remove_writer(self._socket)
        super()._end(error)

    def _wake(self, lost: list[StatementAnswer]) -> None:
        self._loop.call_soon(_wake, lost)  # it may be a greenlet that ends the connection, which others wait for

    def _flush(self) -> None:
        super()._flush()
        if self._is_writing != (not self._is_sent) and not self.is_lost:
            self._is_writing = not self._is_sent
            if self._is_writing:
                self._loop.add_writer(self._socket, self._write)
            else:
                self._loop.remove_writer(self._socket)

    def _write(self) -> None:
        self._flush()
        self.hear()  # libpq reads while it can't write, so there may be nothing more to wait for
