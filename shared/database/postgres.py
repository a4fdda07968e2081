"""PostgreSQL: lanes of a few threads, each with a connection, which run whatever is waiting as one transaction.

Statements are pipelined: those whose outcome nobody needs yet go out with the next that is asked for its rows, so a
group of writes costs a few round trips and one commit. No session state is kept from one transaction to the next, so
that a pooler may stand in between (PgBouncer in transaction mode); only hints need a session of their own.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from shared.database import Row, Unit, Unstorable, database_unavailable
from shared.database.jobs import Job, Outcome, resolve
from shared.database.notifications import Notifications
from shared.database.postgres_connections import Connection, Connections
from shared.errors import Unavailable

T = TypeVar("T")

WRITERS = 2  # connections of a process, opened when they are needed
READERS = 2
MAX_GROUP = 128
MAX_WAITING = 10_000
WRITE_SECONDS = 5.0  # how long a caller waits for its commit before it is told to come back
READ_SECONDS = 5.0
HELD_UP_SECONDS = 0.02  # a thread that has not come back by then has met a lock, or a slow disk: another helps out
LOOK_SECONDS = 0.5
SILENT_LOOKS = 3  # the same while nothing at all gets done; a process that slept for long itself has looked but once
QUERY_SECONDS = 10.0
LONG_SECONDS = 600.0  # a statement of a unit that is long
GROUP_LOCK_MS = 50  # units of two groups may wait for each other in turn; alone they can't
LOCK_MS = 1000  # so that a server that lets somebody wait for a lock is not taken for a silent one
SILENT_SECONDS = 1.0  # beyond the time of a statement, within which the server ends it itself and says so
CLOSE_SECONDS = 1.0
IDLE_MS = 5000  # a process that was stopped in the middle of a transaction does not keep its locks
TRIES = 3

WRITING = "BEGIN"
READING = "BEGIN READ ONLY"
QUERYING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# One statement for all that a transaction begins with. The clock goes on within a transaction, so it is read once.
# Every statement has an index that gives it its rows in their order. Statistics from before a table has grown would
# rather read all of it, for minutes; and what is planned against such odds seems dear enough to be compiled, for a
# third of a second.
SET_UP = """
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    set_config('statement_timeout', %(statement_ms)s, true),
    set_config('lock_timeout', %(lock_ms)s, true),
    set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true),
    set_config('enable_seqscan', 'off', true),
    set_config('enable_sort', 'off', true),
    set_config('jit', 'off', true)
"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"

# What another try may well get over: somebody else was quicker, or in the way.
TRANSIENT = (
    errors.UniqueViolation,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,  # a primary that has become a standby
    psycopg.OperationalError,  # the connection is lost, before COMMIT was sent
)

# A value's own fault, however often it is tried: out of its range, or not in the encoding, or too large for an index.
REFUSED = (psycopg.DataError, errors.ProgramLimitExceeded, UnicodeEncodeError)


class Transaction:
    def __init__(self, connection: Connection, pipeline: psycopg.Pipeline, lock_ms: int, seconds: float) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._now: int | None = None
        self.has_run = False
        settings = {"statement_ms": str(int(seconds * 1000)), "lock_ms": str(lock_ms), "idle_ms": str(IDLE_MS)}
        self._set_up = connection.execute(SET_UP, settings)

    @property
    def now(self) -> int:
        if self._now is None:
            self._pipeline.sync()
            row = self._set_up.fetchone()
            assert row is not None
            self._now = int(row[0])
        return self._now

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._done(sql, values).fetchall()

    def one(self, sql: str, **values: Any) -> Row | None:
        return self._done(sql, values).fetchone()

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        return self.all(lateral(outer, inner), **values)

    def run(self, sql: str, **values: Any) -> int:
        return self._done(sql, values).rowcount

    def put(self, sql: str, **values: Any) -> None:
        self._execute(sql, values)

    def lock(self, name: str) -> None:
        self._connection.execute(as_psycopg(LOCK), {"name": name})

    def _done(self, sql: str, values: dict[str, Any]) -> psycopg.Cursor[Row]:
        """Synced, not just flushed: only then does the server count the time in which it hears no more (IDLE_MS)."""
        cursor = self._execute(sql, values)
        self._pipeline.sync()
        return cursor

    def _execute(self, sql: str, values: dict[str, Any]) -> psycopg.Cursor[Row]:
        self.has_run |= not sql.lstrip().startswith("SELECT")
        return self._connection.execute(as_psycopg(sql), values)


NAME = re.compile(r"(?<!:):([a-z_][a-z_0-9]*)")
DEFINITION = re.compile(r"(\s|--.*\n)*(CREATE|ALTER) TABLE")


@lru_cache(maxsize=4096)
def as_psycopg(sql: str) -> bytes:
    """psycopg's way to name values. Texts compare by their bytes, as everywhere else, not as a language sorts them."""
    if DEFINITION.match(sql):
        sql = re.sub(r"\bTEXT\b", 'TEXT COLLATE "C"', sql)
    return NAME.sub(r"%(\1)s", sql.replace("%", "%%")).encode()


def lateral(outer: str, inner: str) -> str:
    inner = inner.replace(":each.", "each.")
    return f"SELECT found.* FROM ({outer}) AS each CROSS JOIN LATERAL ({inner}) AS found"


class _Failed(Exception):
    """A unit of a group may have left something: the group's transaction is undone."""


class Lane:
    """Runs units as one transaction after another, each for all that wait: in one thread, as then it is for the most at
    once, and in up to `width` while one is held up."""

    def __init__(self, connections: Connections, begin: str, *, width: int, max_group: int, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._begin = begin
        self._max_group = max_group
        self._seconds = seconds
        self._waiting: deque[Job] = deque()
        self._turn = threading.Lock()
        self._width = width
        self._at_work = 0  # threads
        self._taken = 0  # groups
        self._helping: asyncio.TimerHandle | None = None
        self._heard_at = 0.0  # when the server last did what it was asked
        self._impatient: set[asyncio.Future[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._free: deque[Connection] = deque()
        self._is_quick = max_group > 1  # a unit that is long has a turn of its own
        self._busy: set[Connection] = set()
        self._is_closing = False
        self._threads = ThreadPoolExecutor(width, "postgres")

    async def run(self, unit: Unit[T], seconds: float | None, *, is_long: bool = False) -> T:
        """The unit's value. Raises Unavailable after `seconds`, and where units are quick when the server is silent."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("busy", "too many units are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(Job(unit, future, is_long))
        self._call()
        late = self._loop.call_later(seconds, _give_up, future) if seconds is not None else None
        if late is not None and self._is_quick and not is_long:
            self._look_out_for(future)
        try:
            return await future
        finally:
            self._impatient.discard(future)
            future.cancel()  # whoever left before its turn changes nothing
            if late is not None:
                late.cancel()

    def _look_out_for(self, future: asyncio.Future[Any]) -> None:
        self._impatient.add(future)
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Gives up for all who wait when nothing at all has got done for a while."""
        silent_looks = 0
        while self._impatient:
            heard_at = self._heard_at
            await asyncio.sleep(LOOK_SECONDS)
            silent_looks = silent_looks + 1 if self._heard_at == heard_at else 0
            if silent_looks >= SILENT_LOOKS:
                for future in list(self._impatient):
                    _give_up(future)

    def _call(self) -> None:
        with self._turn:
            if self._at_work == 0:
                self._start_thread()
            elif self._at_work < self._width and self._helping is None:
                self._helping = self._loop.call_later(HELD_UP_SECONDS, self._help, self._taken)

    def _help(self, taken: int) -> None:
        self._helping = None
        with self._turn:
            if self._waiting and self._taken == taken:
                self._start_thread()
        if self._waiting:
            self._call()

    def _start_thread(self) -> None:
        self._threads.submit(self._work)
        self._at_work += 1

    def _work(self) -> None:
        while group := self._take_group():
            try:
                self._run_group([job for job in group if not job.future.done()])
            except Exception as error:  # nobody waits for ever, and the thread goes on
                self._tell([Outcome(job.future, None, error) for job in group])

    def _take_group(self) -> list[Job]:
        with self._turn:
            group = list(self._next())
            if group:
                self._taken += 1
            else:
                self._at_work -= 1
        return group

    def _next(self) -> Iterator[Job]:
        """Some that wait; one that is long for itself."""
        for number in range(min(len(self._waiting), self._max_group)):
            if number and self._waiting[0].is_long:
                return
            job = self._waiting.popleft()
            yield job
            if job.is_long:
                return

    def _run_group(self, group: list[Job]) -> None:
        together = self._together(group) if len(group) > 1 else None
        if together is not None:
            self._tell(together)
            return
        for job in group:
            self._tell([self._alone(job)])

    def _together(self, group: list[Job]) -> list[Outcome] | None:
        """All units in one transaction; None when one failed that may have written something."""
        outcomes: list[Outcome] = []
        try:
            with self._transaction(GROUP_LOCK_MS, self._seconds) as tx:
                for job in group:
                    tx.has_run = False
                    try:
                        outcomes.append(Outcome(job.future, job.unit(tx)))
                        self._heard_at = time.monotonic()
                    except Exception as error:
                        if tx.has_run or isinstance(error, (psycopg.Error, *REFUSED)):
                            raise _Failed from error
                        outcomes.append(Outcome(job.future, None, error))
        except Unavailable as error:
            return [Outcome(job.future, None, error) for job in group]
        except (psycopg.Error, _Failed):
            return None
        return outcomes

    def _alone(self, job: Job) -> Outcome:
        failures = 0
        while not job.future.done():
            try:
                with self._transaction(LOCK_MS, LONG_SECONDS if job.is_long else self._seconds) as tx:
                    value = job.unit(tx)
                return Outcome(job.future, value)
            except errors.LockNotAvailable:  # how long to wait for others is the caller's to say
                self._heard_at = time.monotonic()
            except REFUSED as error:
                return Outcome(job.future, None, Unstorable(error))
            except psycopg.Error as error:
                failures += 1
                if failures == TRIES or not isinstance(error, TRANSIENT):
                    return Outcome(job.future, None, database_unavailable(error))
            except Exception as error:
                return Outcome(job.future, None, error)
        return Outcome(job.future, None)

    @contextlib.contextmanager
    def _transaction(self, lock_ms: int, seconds: float) -> Iterator[Transaction]:
        """Raises Unavailable when the server can't be reached or nobody can know whether it has committed, and
        psycopg.Error when it has not."""
        connection = self._connection(seconds)
        is_committing = is_done = False
        try:
            with connection.pipeline() as pipeline:
                connection.execute(self._begin)
                yield Transaction(connection, pipeline, lock_ms, seconds)
                is_committing = True
                committing = connection.execute("COMMIT")
            # Only now, at the end of the pipeline, have all answers come in.
            if committing.statusmessage != "COMMIT":
                raise errors.InFailedSqlTransaction("rolled back")
            self._heard_at = time.monotonic()
            is_done = True
        except psycopg.Error as error:
            if is_committing and connection.closed:
                raise database_unavailable(f"whether it has committed is not known: {error}") from None
            raise
        finally:
            self._give_back(connection, is_done=is_done)

    def _connection(self, seconds: float) -> Connection:
        connection = self._kept() or self._connections.connect()
        self._busy.add(connection)
        connection.patience_seconds = CLOSE_SECONDS if self._is_closing else seconds + SILENT_SECONDS
        return connection

    def _kept(self) -> Connection | None:
        """One that is free, unless any was lost since it was made: then most likely it is gone as well."""
        with contextlib.suppress(IndexError):
            while connection := self._free.pop():
                if connection.made_after == self._connections.lost:
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: Connection, *, is_done: bool) -> None:
        self._busy.discard(connection)
        if not is_done and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.execute("ROLLBACK")
        if connection.closed:
            self._connections.lost += 1
        else:
            self._free.append(connection)

    def _tell(self, outcomes: list[Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without us
            self._loop.call_soon_threadsafe(resolve, outcomes)

    def close(self) -> None:
        """Waits for what is under way, though not long for a server that says nothing."""
        self._is_closing = True
        for connection in self._busy.copy():
            connection.patience_seconds = CLOSE_SECONDS
        self._threads.shutdown()
        while self._free:
            self._free.pop().close()


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(database_unavailable("no answer in time"))


class PostgreSQL:
    """A Database (see shared.database) on one server, shared by any number of processes of any number of hosts."""

    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        """Raises psycopg.Error when the URL is none. Connects when there is something to do."""
        self._connections = connections = Connections(url)
        self._is_closing = False
        self._writers = Lane(connections, WRITING, width=WRITERS, max_group=MAX_GROUP, seconds=WRITE_SECONDS)
        self._readers = Lane(connections, READING, width=READERS, max_group=MAX_GROUP, seconds=READ_SECONDS)
        self._aside = Lane(connections, QUERYING, width=1, max_group=1, seconds=QUERY_SECONDS)
        self._notifications = Notifications(connections)

    async def refusal(self) -> str:
        """Why the server can't be used, in its own words or libpq's; empty when it can."""
        return await asyncio.to_thread(self._connections.refusal)

    async def write(self, unit: Unit[T], seconds: float | None = WRITE_SECONDS, *, is_long: bool = False) -> T:
        if self._is_closing:
            raise Unavailable("shutting_down", "this process is stopping")
        return await self._writers.run(unit, seconds, is_long=is_long)

    async def read(self, unit: Unit[T]) -> T:
        return await self._readers.run(unit, READ_SECONDS)

    async def query(self, unit: Unit[T]) -> T:
        await self.read(lambda tx: None)  # a silent server is found out as soon as by any read, not after QUERY_SECONDS
        return await self._aside.run(unit, QUERY_SECONDS)

    def publish(self, hint: str) -> None:
        self._notifications.publish(hint)

    def subscribe(self, callback: Callable[[str], None]) -> None:
        self._notifications.subscribe(callback)

    async def close(self) -> None:
        """Waits for what is under way; whatever comes later is refused."""
        self._is_closing = True
        lanes = (self._writers, self._readers, self._aside)
        await asyncio.gather(*(asyncio.to_thread(lane.close) for lane in lanes))
        self._notifications.close()
