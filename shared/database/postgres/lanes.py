"""Lanes: where units wait for a transaction."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from shared.database import Unit, report_unavailable
from shared.database.jobs import ENOUGH, Ended, Gathering, Job, Waiting, failed, resolve, unpublished
from shared.database.postgres.connections import Connector
from shared.database.postgres.greenlets import Greenlets, awaited
from shared.database.postgres.sessions import LOCK_MS, SILENT_SECONDS, Sessions
from shared.database.postgres.transaction import Times, session
from shared.database.postgres.wire import LOOK_SECONDS, LoopWire, Wire
from shared.errors import Unavailable, stopping

T = TypeVar("T")

MAX_GROUP = 128
HELD_UP_SECONDS = 0.01  # a group that takes longer waits for a lock, or for the disk
MAX_WAITING = 10_000
SILENT_LOOKS = 3  # at which nothing had got done; looks and not seconds, since a process may itself have been stopped


class Lane:
    """Runs units as one transaction after another, each for all that wait, in up to `width` at once. Units are plain
    functions. Each group runs in one greenlet, which gives way to the event loop whenever it waits for the server."""

    def __init__(
        self,
        connections: Connector,
        begin: str,
        publish: Callable[[str], None] = unpublished,
        *,
        width: int,
        seconds: float,
    ) -> None:
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._times = Times(int(seconds * 1000), LOCK_MS)
        self._sessions = Sessions(self._make, begin, self._times)
        self._width = width
        self._greenlets = Greenlets()
        self._waiting = Waiting()
        self._under_way = 0  # groups
        self._gathering = Gathering()
        self._is_starting = False
        self._late: asyncio.TimerHandle | None = None
        self._impatient: set[asyncio.Future[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def _make(self) -> LoopWire:
        connection = awaited(self._loop.run_in_executor(None, self._connections.connect, session(self._times)))
        return LoopWire(connection, self._loop, patience_seconds=SILENT_SECONDS)

    async def run(self, unit: Unit[T], seconds: float | None, *, is_last: bool = False) -> T:
        """The unit's value. Raises Unavailable after `seconds`, and when the server is silent."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("busy", "too many units are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.add(Job(unit, future, is_last=is_last))
        self._idle.clear()
        if not self._is_starting:
            self._is_starting = True
            self._loop.call_soon(self._start)
        late = self._loop.call_later(seconds, give_up, future) if seconds is not None else None
        if late is not None:
            self._impatient.add(future)
        self._look_out()
        try:
            return await future
        finally:
            self._impatient.discard(future)
            future.cancel()  # a unit whose caller has gone is not run
            if late is not None:
                late.cancel()

    def _start(self) -> None:
        """Begins a group once it is gathered."""
        if not self._under_way and not self._gathering.is_over(len(self._waiting)):
            self._loop.call_soon(self._start)
            return
        self._is_starting = False
        self._begin(ENOUGH)

    def _begin(self, fewest: int) -> None:
        """Beside a group that is under way another takes `fewest` units: fewer are cheaper in the next, with those that
        come meanwhile."""
        while self._under_way < self._width and len(self._waiting) >= (fewest if self._under_way else 1):
            self._under_way += 1
            self._greenlets.start(self._work)
        if self._waiting and self._under_way < self._width and self._late is None:
            self._late = self._loop.call_later(HELD_UP_SECONDS, self._start_late)

    def _start_late(self) -> None:
        self._late = None
        if self._under_way:
            self._begin(fewest=1)

    def _work(self) -> None:
        while group := self._next():
            try:
                for ended in self._sessions.run(group):
                    resolve(ended, self._publish)
            except asyncio.CancelledError:  # of the connecting, when the event loop is about to end
                resolve(failed(stopping(), group))
            except Exception as error:  # or its callers would wait for ever
                resolve(failed(error, group))
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _next(self) -> list[Job]:
        group: list[Job] = []
        for job in self._waiting.next_group(lambda: len(group) < MAX_GROUP):
            group.append(job)
        return group

    def _look_out(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Gives up for all who wait when nothing at all has got done for a while."""
        silent_looks = 0
        while self._under_way or self._waiting:
            heard_at = self._sessions.heard_at
            await asyncio.sleep(LOOK_SECONDS)
            self._sessions.look()
            silent_looks = silent_looks + 1 if self._sessions.heard_at == heard_at else 0
            if silent_looks >= SILENT_LOOKS:
                for future in list(self._impatient):
                    give_up(future)

    async def close(self) -> None:
        """Waits for what is under way, though not long for a server that says nothing."""
        self._sessions.stop()
        await self._idle.wait()
        self._greenlets.close()
        self._sessions.close()


def give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(report_unavailable("no answer in time"))


class Aside:
    """Runs units that may take long, one after the other, in a thread."""

    def __init__(
        self, connections: Connector, begin: str, publish: Callable[[str], None] = unpublished, *, seconds: float
    ) -> None:
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._times = Times(int(seconds * 1000), LOCK_MS)
        self._sessions = Sessions(self._make, begin, self._times)
        self._thread = ThreadPoolExecutor(1, "postgres")
        self._waiting = 0  # callers

    def _make(self) -> Wire:
        connection = self._connections.connect(session(self._times, keeps_plans=False))
        return Wire(connection, patience_seconds=SILENT_SECONDS)

    async def run(self, unit: Unit[T], seconds: float | None, *, is_long: bool = False) -> T:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("busy", "too many units are waiting")
        self._waiting += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._thread.submit(self._work, Job(unit, future, is_long))
        late = self._loop.call_later(seconds, give_up, future) if seconds is not None else None
        try:
            return await future
        finally:
            self._waiting -= 1
            future.cancel()  # a unit whose caller has gone is not run
            if late is not None:
                late.cancel()

    def _work(self, job: Job) -> None:
        try:
            for ended in self._sessions.run([job]):
                self._tell(ended)
        except Exception as error:  # or its callers would wait for ever
            self._tell(failed(error, [job]))

    def _tell(self, ended: Ended) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(resolve, ended, self._publish)

    def close(self) -> None:
        """Waits for what is under way, though not long for a server that says nothing."""
        self._sessions.stop()
        self._thread.shutdown()
        self._sessions.close()
