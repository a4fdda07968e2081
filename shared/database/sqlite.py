"""SQLite: one writer thread a process, which commits whatever is waiting as one group.

Two connections that write and checkpoint at the same moment can corrupt a WAL database of
SQLite 3.7.0 to 3.51.2 (https://sqlite.org/wal.html#walresetbug), and most systems have one of
these. So every transaction that writes, and the checkpoints inside its COMMIT, take turns by a
lock on a file beside the database, across processes; nobody meets "database is locked" either.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from shared.database import Row, Unit, database_unavailable
from shared.database.hints import Hints
from shared.database.jobs import Job, Outcome, resolve
from shared.errors import Unavailable

T = TypeVar("T")

MEMORY = ":memory:"
MAX_GROUP = 256
MAX_WAITING = 10_000
WRITE_SECONDS = 5  # how long a caller waits for its commit before it is told to come back
READER_SECONDS = 1
CLOCK = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"  # unixepoch('subsec') needs 3.42
# The first reader behind a commit marks it in the file's shared memory (https://sqlite.org/walformat.html#read_marks),
# which a disk that does not answer never lets it do. So the writer is the first: reads run in the event loop.
MARK = "PRAGMA data_version"
PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -16000;
PRAGMA journal_size_limit = 67108864;
"""


class Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
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

    def run(self, sql: str, **values: Any) -> int:
        self.has_run = True
        return self._connection.execute(_dialect(sql), values).rowcount

    def put(self, sql: str, **values: Any) -> None:
        self.run(sql, **values)

    def lock(self, name: str) -> None:
        pass  # one writes at a time


FOR_UPDATE = re.compile(r"FOR UPDATE( OF \w+)?( SKIP LOCKED)?")


@lru_cache(maxsize=4096)
def _dialect(sql: str) -> str:
    return FOR_UPDATE.sub("", sql)


class SQLite:
    """A Database (see shared.database) on one file, shared by any number of processes of one machine."""

    dialect = "sqlite"

    def __init__(self, location: str) -> None:
        """Opens, and makes, the file. Raises OSError or sqlite3.Error when that can't be done."""
        self._loop = asyncio.get_running_loop()
        self._is_memory = location == MEMORY
        self._path = location if self._is_memory else str(Path(location).resolve())
        self._lock = open_lock(self._path, self._is_memory)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._is_closing = False
        with self._turn():
            self._writer = self._connect(PRAGMAS)
        self._reader = self._writer if self._is_memory else self._connect("PRAGMA query_only = ON;")
        self._slow_reader = self._writer if self._is_memory else self._connect("PRAGMA query_only = ON;")
        self._hints = Hints(f"{self._path} {os.getpid() if self._is_memory else ''}")
        self._aside = ThreadPoolExecutor(1, "sqlite-query")
        self._thread = threading.Thread(target=self._write_groups, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def write(self, unit: Unit[T], seconds: float | None = WRITE_SECONDS) -> T:
        if self._is_closing:
            raise Unavailable("shutting_down", "this process is stopping")
        if self._jobs.qsize() >= MAX_WAITING:
            raise Unavailable("busy", "too many writes are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(unit, future))
        if seconds is None:
            return await future
        late = self._loop.call_later(seconds, _give_up, future)  # a third of what asyncio.timeout costs
        try:
            return await future
        finally:
            late.cancel()

    async def read(self, unit: Unit[T]) -> T:
        if self._is_memory:
            return await self.write(unit)
        try:
            return unit(Transaction(self._reader))
        except sqlite3.Error as error:
            raise database_unavailable(error) from error

    async def query(self, unit: Unit[T]) -> T:
        if self._is_memory:
            return await self.write(unit)
        return await self._loop.run_in_executor(self._aside, self._query, unit)

    def _query(self, unit: Unit[T]) -> T:
        try:
            self._slow_reader.execute("BEGIN")
            try:
                return unit(Transaction(self._slow_reader))
            finally:
                self._slow_reader.execute("COMMIT")
        except sqlite3.Error as error:
            raise database_unavailable(error) from error

    def publish(self, hint: str) -> None:
        self._hints.publish(hint)

    def subscribe(self, callback: Callable[[str], None]) -> None:
        self._hints.subscribe(callback)

    def _write_groups(self) -> None:
        while job := self._jobs.get():
            group = [job]
            with contextlib.suppress(queue.Empty):
                while len(group) < MAX_GROUP and (job := self._jobs.get_nowait()):
                    group.append(job)
            outcomes = self._commit_group(group)
            with contextlib.suppress(RuntimeError):  # the loop was closed without us
                self._loop.call_soon_threadsafe(resolve, outcomes)
            if job is None:
                break
        self._close_files()

    def _close_files(self) -> None:
        with self._turn():  # the last connection to close makes a checkpoint
            for connection in (self._slow_reader, self._reader, self._writer):
                connection.close()
        if self._lock is not None:
            os.close(self._lock)

    def _commit_group(self, group: list[Job]) -> list[Outcome]:
        try:
            with self._turn():
                return self._together(group) or [self._alone(job) for job in group if not job.future.done()]
        except (sqlite3.Error, OSError, MemoryError) as error:
            unavailable = database_unavailable(error)
            return [Outcome(job.future, None, unavailable) for job in group]

    def _together(self, group: list[Job]) -> list[Outcome] | None:
        """All units in one transaction; None when one failed that may have written something."""
        outcomes: list[Outcome] = []
        with self._transaction() as tx:
            for job in group:
                written = self._writer.total_changes  # by `one` and `all` with RETURNING; no table is counted
                tx.has_run = False
                try:
                    outcomes.append(Outcome(job.future, None if job.future.done() else job.unit(tx)))
                except Exception as error:
                    if tx.has_run or self._writer.total_changes != written or isinstance(error, sqlite3.Error):
                        if self._writer.in_transaction:
                            self._writer.execute("ROLLBACK")
                        return None
                    outcomes.append(Outcome(job.future, None, error))
        return outcomes

    def _alone(self, job: Job) -> Outcome:
        try:
            with self._transaction() as tx:
                return Outcome(job.future, job.unit(tx))
        except sqlite3.Error as error:
            return Outcome(job.future, None, database_unavailable(error))
        except Exception as error:
            return Outcome(job.future, None, error)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield Transaction(self._writer)
            if self._writer.in_transaction:
                self._writer.execute("COMMIT")
                self._writer.execute(MARK).fetchone()
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _connect(self, pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=READER_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in pragmas.split(";"):
                connection.execute(pragma)
        except sqlite3.Error:  # not a database, say
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Waits for what is under way; whatever comes later is refused."""
        self._is_closing = True
        await self._loop.run_in_executor(self._aside, self._jobs.put, None)  # behind the queries under way
        await self._loop.run_in_executor(self._aside, self._thread.join, WRITE_SECONDS)
        self._aside.shutdown()
        self._hints.close()


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(database_unavailable("no turn to write"))


def open_lock(path: str, is_memory: bool) -> int | None:
    if is_memory:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
