"""Reads by key or index. They need no transaction: each statement goes out for itself, and all that come in one turn of
the event loop go out together."""

import asyncio
from typing import TypeVar

import psycopg
from psycopg import errors

from shared.database import Unit, Unstorable, report_unavailable
from shared.database.jobs import Ended, Outcome, resolve
from shared.database.postgres.connections import Connector, PatientConnection
from shared.database.postgres.greenlets import Greenlets, awaited
from shared.database.postgres.lanes import MAX_WAITING, Lane, give_up
from shared.database.postgres.sessions import LOCK_MS, REFUSED, TRANSIENT, TRIES
from shared.database.postgres.transaction import READING, Statements, Times, session
from shared.database.postgres.wire import LOOK_SECONDS, LoopWire, StatementAnswer
from shared.errors import Unavailable, stopping

T = TypeVar("T")

WIRES = 2
HELD_UP_SECONDS = 0.02  # a statement that takes longer is a reason to open a second wire
SILENT_SECONDS = 1.5


class Reading(Statements):
    """Each statement sees the newest commit."""

    _wire: LoopWire

    def _wait(self, answer: StatementAnswer) -> None:
        self._wire.sync_soon()
        self._wire.wait(answer)
        if answer.error is not None:
            raise answer.error


class Reader:
    def __init__(self, connections: Connector, *, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._seconds = seconds
        self._set_up = session(Times(int(seconds * 1000), LOCK_MS), read_only=True)
        self._wires: list[LoopWire] = []
        self._greenlets = Greenlets()
        self._making: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # Behind a pooler only a transaction can be made read only, no session.
        self._pooled = Lane(connections, READING, width=WIRES, seconds=seconds)
        self._is_pooled = False

    async def run(self, unit: Unit[T]) -> T:
        """The unit's value. Raises Unavailable."""
        if self._is_pooled:
            return await self._pooled.run(unit, self._seconds)
        if self._under_way >= MAX_WAITING:
            raise Unavailable("busy", "too many units are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        late = self._loop.call_later(self._seconds, give_up, future)
        self._greenlets.start(self._work, unit, future)
        try:
            return await future
        finally:
            late.cancel()
            future.cancel()

    def _work(self, unit: Unit[T], future: asyncio.Future[T]) -> None:
        self._under_way += 1
        self._idle.clear()
        self._look_out()
        try:
            outcome = Outcome(future, self._insist(unit, future))
        except REFUSED as error:
            outcome = Outcome(future, None, Unstorable(error))
        except psycopg.Error as error:
            outcome = Outcome(future, None, report_unavailable(error))
        except asyncio.CancelledError:  # of the connecting, when the event loop is about to end
            outcome = Outcome(future, None, stopping())
        except Exception as error:
            outcome = Outcome(future, None, error)
        resolve(Ended([outcome]))
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _insist(self, unit: Unit[T], future: asyncio.Future[T]) -> T | None:
        failures = 0
        while not future.done():
            wire = self._ready()
            if wire is None:
                return awaited(self._loop.create_task(self._pooled.run(unit, self._seconds)))
            try:
                return unit(Reading(wire))
            except errors.PipelineAborted:  # another's statement failed before it
                pass
            except TRANSIENT:
                failures += 1
                if failures == TRIES:
                    raise
        return None

    def _ready(self) -> LoopWire | None:
        """The wire that has been silent for the shortest time; None behind a pooler. Raises Unavailable."""
        self._wires = [wire for wire in self._wires if wire.is_good()]
        if not self._wires and not self._is_pooled:
            awaited(asyncio.ensure_future(asyncio.shield(self._make())))
        wire = min(self._wires, key=LoopWire.silent_seconds, default=None)
        if wire and wire.silent_seconds() > HELD_UP_SECONDS and len(self._wires) < WIRES:
            self._make()
        return wire

    def _make(self) -> "asyncio.Task[None]":
        if self._making is None or self._making.done():
            self._making = self._loop.create_task(self._connect())
            self._making.add_done_callback(_note)
        return self._making

    async def _connect(self) -> None:
        connecting = self._loop.run_in_executor(None, self._connections.connect, self._set_up)
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_unused)
            raise
        if connection.is_direct:
            self._wires.append(LoopWire(connection, self._loop, patience_seconds=SILENT_SECONDS))
        else:
            self._is_pooled = True
            connection.close()

    def _look_out(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._under_way:
            await asyncio.sleep(LOOK_SECONDS)
            for wire in self._wires:
                wire.look()

    async def close(self) -> None:
        """Waits for what is under way, though not long for a server that says nothing."""
        await self._idle.wait()
        if self._making is not None:
            await asyncio.wait([self._making])
        for wire in self._wires:
            wire.close()
        self._greenlets.close()
        await self._pooled.close()


def _close_unused(connecting: "asyncio.Future[PatientConnection]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _note(making: "asyncio.Task[None]") -> None:
    """Takes the exception of a failed connect, whose reason is in the log."""
    if not making.cancelled():
        making.exception()
