"""SQLite: all writes that wait are one group, with one commit.

    caller          in the event loop                            what it waits for
    ------          -----------------                            -----------------
    write(unit) ──► all that come in together are a group:   ──► the turn to write (a lock on a file beside the
                    BEGIN, their statements, COMMIT              database), and COMMIT: in the thread `sqlite-disk`
    write(is_long) ► nothing                                 ──► the same thread runs all of it
    read(unit)  ──► runs where it is, on a connection of     ──► nothing
                    its own
    query(unit) ──► nothing                                  ──► the thread `sqlite-query` runs it on a snapshot
    publish     ──► a datagram to each process (Hints)       ──► nothing

Its statements run in the event loop: they take microseconds, and a thread that runs them costs more than that, as both
would take turns for the interpreter. What waits for the disk or for another process is left to a thread: COMMIT, the
lock, and units that say they are long.

Two connections that write and checkpoint at the same moment can corrupt a WAL database of
SQLite 3.7.0 to 3.51.2 (https://sqlite.org/wal.html#walresetbug), and most systems have one of
these. So every transaction that writes, and the checkpoints inside its COMMIT, take turns by a
lock on a file beside the database, across processes, which rules out "database is locked", too.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shared.database import Unit, Unstorable, report_unavailable
from shared.database.hints import Hints
from shared.database.jobs import Ended, Gathering, Helper, Job, Outcome, Waiting, failed, resolve
from shared.database.sqlite_files import identity, lock_of, make_file, open_lock
from shared.database.sqlite_transaction import Transaction
from shared.errors import Unavailable, stopping

T = TypeVar("T")

MEMORY = ":memory:"
STATEMENTS = 512  # prepared, per connection: an IN list has a text for each length
LOOP_SECONDS = 0.01  # that the statements of one group may hold up the event loop
MAX_WAITING = 10_000
WRITE_SECONDS = 5  # how long a caller waits for its commit before it gets a 503
LOOK_SECONDS = 0.1  # between two looks of reads for the file
LOCKED_MS = 1000  # another program has the file, sqlite3's own shell, say
# The first reader after a commit sets a read mark (https://sqlite.org/walformat.html#read_marks), and blocks while the
# disk does not answer. So the writer reads first, in its thread: other reads run in the event loop.
MARK = "PRAGMA data_version"
REFUSED = (sqlite3.DataError, OverflowError, UnicodeEncodeError)  # because of a value: trying again does not help
PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -16000;
PRAGMA journal_size_limit = 67108864;
PRAGMA busy_timeout = 0;
"""


class SQLite:
    """A Database (see shared.database) on one file, shared by any number of processes of one machine."""

    dialect = "sqlite"

    def __init__(self, location: str) -> None:
        """Opens, and makes, the file. Raises OSError or sqlite3.Error when that can't be done."""
        self._loop = asyncio.get_running_loop()
        self._is_memory = location == MEMORY
        self._path = location if self._is_memory else str(Path(location).resolve())
        self._lock = open_lock(self._path, self._is_memory)
        self._waiting = Waiting()
        self._gathering = Gathering()
        self._writing: asyncio.Task[None] | None = None
        self._is_closing = False
        if not self._is_memory:
            make_file(Path(self._path))
        self._take_turn()
        try:
            self._writer = self._connect(PRAGMAS)
        finally:
            self._end_turn()
        self._reader = self._writer if self._is_memory else self._connect("PRAGMA query_only = ON;")
        self._slow_reader = self._writer if self._is_memory else self._connect("PRAGMA query_only = ON;")
        self._reader.execute(MARK).fetchone()  # makes the files beside it
        names = () if self._is_memory else (self._path, f"{self._path}-wal", lock_of(self._path))
        self._files = {name: identity(name) for name in names}
        self._looks_at = 0.0  # whether reads still find the file
        self._hints = Hints(None if self._is_memory else Path(f"{self._path}-hints"))
        self._aside = ThreadPoolExecutor(1, "sqlite-query")
        self._disk = Helper("sqlite-disk")

    async def write(
        self, unit: Unit[T], seconds: float | None = WRITE_SECONDS, *, is_long: bool = False, is_last: bool = False
    ) -> T:
        if self._is_closing:
            raise stopping()
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("busy", "too many writes are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.add(Job(unit, future, is_long, is_last))
        if self._writing is None:
            self._writing = self._loop.create_task(self._write_all())
        if seconds is None:
            return await future
        late = self._loop.call_later(seconds, _give_up, future)  # cheaper than asyncio.timeout
        try:
            return await future
        finally:
            late.cancel()

    async def read(self, unit: Unit[T]) -> T:
        if self._is_closing:
            raise stopping()
        if self._is_memory:
            return await self.write(unit)
        try:
            self._need_own_file()
            return unit(Transaction(self._reader))
        except REFUSED as error:
            raise Unstorable(error) from error
        except (sqlite3.Error, OSError) as error:
            raise report_unavailable(error) from error

    async def query(self, unit: Unit[T]) -> T:
        if self._is_closing:
            raise stopping()
        if self._is_memory:
            return await self.write(unit)
        return await self._loop.run_in_executor(self._aside, self._query, unit)

    def _query(self, unit: Unit[T]) -> T:
        try:
            self._need_files(self._path)
            self._slow_reader.execute("BEGIN")
            try:
                return unit(Transaction(self._slow_reader))
            finally:
                self._slow_reader.execute("COMMIT")
        except REFUSED as error:
            raise Unstorable(error) from error
        except (sqlite3.Error, OSError) as error:
            raise report_unavailable(error) from error

    async def vacuum(self, table: str) -> None:
        """Nothing: the room is free with the commit."""

    def publish(self, hint: str) -> None:
        self._hints.publish(hint)

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> None:
        self._hints.subscribers.add(topic, callback)

    async def _write_all(self) -> None:
        """One group after another, while anything waits."""
        try:
            while self._waiting:
                while not self._gathering.is_over(len(self._waiting)):
                    await asyncio.sleep(0)
                if long := self._waiting.next_long():
                    await self._write_each([long])
                if self._waiting.has_group:
                    await self._write_group()
        finally:
            self._writing = None

    async def _write_group(self) -> None:
        group: list[Job] = []
        try:
            await self._begin()
            ended = self._together(group)
            if ended is not None:
                await self._disk.do(self._commit)
        except Exception as error:  # or its callers would wait for ever
            unavailable = report_unavailable(error)
            ended = failed(unavailable, group or self._next())
        if ended is not None:
            resolve(ended, self.publish)
        else:
            await self._write_each(group)

    async def _write_each(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.future.done():
                resolve(await self._disk.do(partial(self._alone, job)), self.publish)

    def _next(self) -> Iterator[Job]:
        """Jobs that wait, as many as run in LOOP_SECONDS, and all that are to be last."""
        until = time.monotonic() + LOOP_SECONDS
        return self._waiting.next_group(lambda: time.monotonic() < until)

    def _together(self, group: list[Job]) -> Ended | None:
        """Runs the jobs that wait, and adds them to `group`. None when one failed that may have written something: all
        are rolled back."""
        outcomes: list[Outcome] = []
        tx = Transaction(self._writer)
        for job in self._next():
            group.append(job)
            changes = self._writer.total_changes  # counts rows of RETURNING too, but no DDL: hence `has_run`
            tx.has_run, hints = False, tx.hints.copy()
            try:
                value = None if job.future.done() else job.unit(tx)
                outcomes.append(Outcome(job.future, value))
            except Exception as error:
                may_have_written = tx.has_run or self._writer.total_changes != changes
                if may_have_written or isinstance(error, (sqlite3.Error, *REFUSED)):
                    self._undo()
                    return None
                tx.hints = hints
                outcomes.append(Outcome(job.future, None, error))
        return Ended(outcomes, tx.hints)

    def _alone(self, job: Job) -> Ended:
        try:
            tx = Transaction(self._writer)
            self._begin_in_turn()
            try:
                value = job.unit(tx)
            except BaseException:
                self._undo()
                raise
            self._commit()
        except REFUSED as error:
            return failed(Unstorable(error), [job])
        except (sqlite3.Error, OSError, MemoryError) as error:
            return failed(report_unavailable(error), [job])
        except Exception as error:
            return failed(error, [job])
        return Ended([Outcome(job.future, value)], tx.hints)

    async def _begin(self) -> None:
        if not self._has_begun():
            await self._disk.do(self._begin_in_turn)

    def _has_begun(self) -> bool:
        """Begins, unless that would wait for another process; whether it has."""
        try:
            self._take_turn(fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._end_turn()
            return False
        return True

    def _begin_in_turn(self) -> None:
        if not self._is_memory:
            make_file(Path(self._path))
        self._take_turn()
        try:
            self._writer.execute(f"PRAGMA busy_timeout = {LOCKED_MS}")  # for programs that take no turns
            self._writer.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._end_turn()
            raise
        finally:
            self._writer.execute("PRAGMA busy_timeout = 0")

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
            self._writer.execute(MARK).fetchone()
            self._need_files(*self._files)
        except BaseException:
            self._undo()
            raise
        self._end_turn()

    def _need_files(self, *paths: str) -> None:
        """Raises OSError where a file was deleted or replaced under this process: what it writes has no name any more
        and is gone with the process, and what it reads is not what others see."""
        for path in paths if self._files else ():
            if identity(path) != self._files[path]:
                raise FileNotFoundError(errno.ENOENT, "replaced under this process, which has to be restarted", path)

    def _need_own_file(self) -> None:
        """For reads, which lose nothing: once in LOOK_SECONDS."""
        now = self._loop.time()
        if now >= self._looks_at:
            self._need_files(self._path)
            self._looks_at = now + LOOK_SECONDS

    def _undo(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        finally:
            self._end_turn()

    def _take_turn(self, how: int = 0) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX | how)

    def _end_turn(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _connect(self, pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=LOCKED_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )
        try:
            for pragma in pragmas.split(";"):
                connection.execute(pragma)
        except sqlite3.Error:  # not a database, say
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Waits for what is under way, for WRITE_SECONDS at most; later units are refused."""
        self._is_closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_SECONDS):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                await self._loop.run_in_executor(self._aside, int)  # behind the queries under way
                await self._disk.do(self._close_files)
        self._disk.stop()
        self._aside.shutdown()
        self._hints.close()

    def _close_files(self) -> None:
        self._take_turn()  # the last connection to close makes a checkpoint
        for connection in (self._slow_reader, self._reader, self._writer):
            connection.close()
        if self._lock is not None:
            os.close(self._lock)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(report_unavailable("no turn to write"))
