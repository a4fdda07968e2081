"""Hints between the processes of any number of hosts: LISTEN and NOTIFY, on a connection of their own.

NOTIFY takes a lock of the whole database when it commits, so a process sends what it has at most once in a short
window.
"""

import asyncio
import contextlib
import logging
import os
import select
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable

import psycopg

from shared.database.hints import packed
from shared.database.postgres_connections import Connection, Connections
from shared.errors import Unavailable

CHANNEL = "only_post"
# A hint may get lost; how it is committed is nobody else's business, who may get the session next (PgBouncer).
NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
MAX_PAYLOAD_BYTES = 7900  # PostgreSQL takes less than 8000
MAX_WAITING = 10_000  # while there is no connection; the oldest get lost
WINDOW_SECONDS = 0.01
PING_SECONDS = 15.0  # one that does not come back means that the connection is deaf
RECONNECT_SECONDS = 1.0
CLOSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Notifications:
    def __init__(self, connections: Connections) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._callbacks: list[Callable[[str], None]] = []
        self._pending: dict[str, None] = {}
        self._outgoing: deque[str] = deque(maxlen=MAX_WAITING)
        self._id = uuid.uuid4().hex[:12]
        self._heard_at = 0.0
        self._is_closing = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._serve, name="postgres-notifications", daemon=True)

    def subscribe(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)
        self._start()

    def publish(self, hint: str) -> None:
        self._start()
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending[hint] = None

    def _start(self) -> None:
        """Not before it is needed: a service that has no hints needs no connection for them."""
        if not self._thread.ident:
            self._thread.start()

    def close(self) -> None:
        """Sends what there is, if that can be done at once."""
        self._flush()
        self._is_closing.set()
        self._wake()
        if self._thread.ident:
            self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def _flush(self) -> None:
        hints, self._pending = list(self._pending), {}
        self._deliver(hints)
        self._outgoing.extend(hints)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
            os.write(self._wake_writer, b"!")

    def _deliver(self, hints: list[str]) -> None:
        for hint in hints:
            for callback in self._callbacks:
                callback(hint)

    def _serve(self) -> None:
        while not self._is_closing.is_set():
            try:
                with self._connections.connect() as connection:
                    self._listen(connection)
            except (psycopg.Error, Unavailable) as error:
                log.warning("hints.disconnected", extra={"reason": str(error)})
            self._is_closing.wait(RECONNECT_SECONDS)

    def _listen(self, connection: Connection) -> None:
        """Returns when this process stops, and when the connection has gone deaf."""
        if connection.is_direct:
            connection.execute(f"LISTEN {CHANNEL}")
        else:
            log.info("hints.pooled")  # a pooler's session would go on listening for whoever gets it next: polls do
        self._heard_at, sent_at = time.monotonic(), 0.0
        while not self._is_closing.is_set():
            self._wait(connection, sent_at + WINDOW_SECONDS - time.monotonic())
            self._hear(connection)
            if time.monotonic() - sent_at >= WINDOW_SECONDS and self._send(connection):
                sent_at = time.monotonic()
            if connection.is_direct and self._is_deaf(connection):
                return
        self._send(connection)

    def _is_deaf(self, connection: Connection) -> bool:
        """Whether it does not even hear itself. To TCP all may be well."""
        silent_seconds = time.monotonic() - self._heard_at
        if silent_seconds >= 2 * PING_SECONDS:
            log.warning("hints.deaf")
            return True
        if silent_seconds >= PING_SECONDS:
            self._notify(connection, "")
        return False

    def _wait(self, connection: Connection, window_seconds: float) -> None:
        """For something to hear, and once the window is over for something to send."""
        news = select.poll()  # select.select takes no file numbers above 1023
        news.register(connection.fileno(), select.POLLIN)
        if window_seconds > 0:
            news.poll(window_seconds * 1000)
            return
        news.register(self._wake_reader, select.POLLIN)
        news.poll(PING_SECONDS * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 65536)

    def _send(self, connection: Connection) -> bool:
        hints: dict[str, None] = {}
        with contextlib.suppress(IndexError):
            while True:
                hints[self._outgoing.popleft()] = None
        for payload in packed(list(hints), MAX_PAYLOAD_BYTES):
            self._notify(connection, payload)
        return bool(hints)

    def _notify(self, connection: Connection, payload: str) -> None:
        connection.execute(NOTIFY, [CHANNEL, f"{self._id}\n{payload}"])

    def _hear(self, connection: Connection) -> None:
        for notification in connection.notifies(timeout=0):
            self._heard_at = time.monotonic()
            sender, *hints = notification.payload.split("\n")
            if sender != self._id and hints != [""]:
                with contextlib.suppress(RuntimeError):  # the loop was closed without us
                    self._loop.call_soon_threadsafe(self._deliver, hints)
