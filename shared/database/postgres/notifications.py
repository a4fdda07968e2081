"""Hints between the processes of any number of hosts: LISTEN and NOTIFY, on a wire of their own. Each topic has a
channel, so that a process is not woken by what it has not subscribed to."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from itertools import groupby

import psycopg

from shared.database.hints import Subscribers, packed, topic_of
from shared.database.postgres.connections import PATIENCE_SECONDS, Connector, PatientConnection
from shared.database.postgres.dialect import statement
from shared.database.postgres.wire import LOOK_SECONDS, LoopWire
from shared.errors import Unavailable

CHANNEL = "only_post_{topic}"
# A hint may get lost, so its commit need not wait for the disk. Local: a pooler gives the session to others.
NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(:channel, :payload)"
MAX_PAYLOAD_BYTES = 7900  # PostgreSQL takes less than 8000
MAX_WAITING = 10_000  # while there is no connection; the oldest get lost
# NOTIFY takes a lock of the whole database when it commits. So one hint goes out at once, and after many that went out
# together, those that follow wait for each other.
HINT_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.01
PING_SECONDS = 15.0  # one that does not come back means that the connection is deaf
RECONNECT_SECONDS = 1.0
CLOSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Notifications:
    def __init__(self, connections: Connector) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._subscribers = Subscribers()
        self._pending: dict[str, None] = {}
        self._outgoing: deque[str] = deque(maxlen=MAX_WAITING)
        self._id = uuid.uuid4().hex[:12]  # the topic of its pings, too
        self._heard_at = 0.0
        self._wire: LoopWire | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._is_closed = False

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> None:
        self._subscribers.add(topic, callback)
        self._start()
        if self._wire is not None:
            self._listen_to(self._wire, topic)

    def publish(self, hint: str) -> None:
        self._start()
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending[hint] = None
        self._subscribers.deliver(hint)

    def _start(self) -> None:
        """Not before it is needed: a service that has no hints needs no connection for them."""
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())

    async def close(self) -> None:
        """Sends what there is, if that can be done at once."""
        self._flush()
        self._go_on()
        self._closing.set()
        if self._serving is not None:
            await asyncio.wait([self._serving], timeout=CLOSE_SECONDS)
        self._is_closed = True

    def _flush(self) -> None:
        hints, self._pending = list(self._pending), {}
        self._outgoing.extend(hints)
        if self._pausing is None:
            self._send()

    async def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection = await self._loop.run_in_executor(None, self._connect)
                if not connection.closed:
                    await self._listen(connection)
            except (psycopg.Error, Unavailable) as error:
                log.warning("hints.disconnected", extra={"reason": str(error)})
            await self._closes_within(RECONNECT_SECONDS)

    def _connect(self) -> PatientConnection:
        connection = self._connections.connect()
        if self._is_closed:  # nothing else would close it
            connection.close()
        return connection

    async def _closes_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _listen(self, connection: PatientConnection) -> None:
        """Returns when this process stops. Raises psycopg.Error when the connection is lost, or has gone deaf."""
        wire = LoopWire(connection, self._loop, patience_seconds=PATIENCE_SECONDS, hear_hint=self._hear)
        try:
            self._listen_to(wire, self._id, *self._subscribers.topics)
            if not wire.is_direct:
                log.info("hints.pooled")
            self._heard_at = time.monotonic()
            self._wire = wire
            self._go_on()
            while not self._closing.is_set():
                await self._closes_within(LOOK_SECONDS)
                wire.look()
                self._check(wire)
        finally:
            self._wire = None
            await self._answered(wire)
            wire.close()

    def _listen_to(self, wire: LoopWire, *topics: str) -> None:
        """Behind a pooler to none: its session would listen for its next client, so receivers poll."""
        if not wire.is_direct or wire.is_lost:
            return
        with contextlib.suppress(psycopg.Error):  # the next look finds it lost
            for topic in topics:
                wire.send(*statement(f"LISTEN {CHANNEL.format(topic=topic)}"))
            wire.sync()

    def _check(self, wire: LoopWire) -> None:
        """Whether it hears itself. To TCP all may be well."""
        if wire.failure is not None:
            raise wire.failure
        silent_seconds = time.monotonic() - self._heard_at if wire.is_direct else 0
        if silent_seconds >= 2 * PING_SECONDS:
            raise psycopg.InterfaceError("the connection has gone deaf")
        if silent_seconds >= PING_SECONDS and wire.silent_seconds() == 0:
            self._notify(wire, [self._id])

    def _go_on(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        self._send()

    def _send(self) -> None:
        if self._wire is None or self._wire.is_lost or not self._outgoing:
            return
        hints = list(dict.fromkeys(self._outgoing))
        self._outgoing.clear()
        self._notify(self._wire, hints)
        self._pausing = self._loop.call_later(min(MAX_PAUSE_SECONDS, len(hints) * HINT_SECONDS), self._go_on)

    def _notify(self, wire: LoopWire, hints: list[str]) -> None:
        with contextlib.suppress(psycopg.Error):  # the next look finds it lost
            for topic, some in groupby(sorted(hints, key=topic_of), topic_of):
                for payload in packed(list(some), MAX_PAYLOAD_BYTES):
                    channel = CHANNEL.format(topic=topic)
                    wire.send(*statement(NOTIFY, channel=channel, payload=f"{self._id}\n{payload}"))
            wire.sync()

    async def _answered(self, wire: LoopWire) -> None:
        """What has just been sent is on its way once the server says so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while wire.silent_seconds():
                    await asyncio.sleep(0.01)

    def _hear(self, payload: str) -> None:
        self._heard_at = time.monotonic()
        sender, *hints = payload.split("\n")
        if sender != self._id:
            for hint in hints:
                self._subscribers.deliver(hint)
