"""What a worker says of itself, so that /health knows that it lives."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from only_post_svc.metrics import TaskCounts
from shared.database import Database, Transaction
from shared.loops import Loops

BEAT_SECONDS = 5.0

BEAT = """
INSERT INTO worker (id, host, pid, processes, running, started_at, seen_at, claimed_at, counts, schedules)
VALUES (:id, :host, :pid, :processes, :running, :now, :now, :claimed_at, :counts, :schedules)
ON CONFLICT (id) DO UPDATE SET running = excluded.running, processes = excluded.processes,
    seen_at = excluded.seen_at, claimed_at = coalesce(excluded.claimed_at, worker.claimed_at),
    counts = excluded.counts
"""

WORKER_LIFE_SECONDS = 60  # without a beat


class Beat(NamedTuple):
    """What a worker says of itself; `counts` as TaskCounts.text has them, `schedules` the marks of those that its code
    declares, in JSON."""

    id: str
    host: str
    pid: int
    processes: int
    running: int
    counts: str
    schedules: str = "[]"


def beat(tx: Transaction, worker: Beat, *, has_claimed: bool) -> None:
    """Says that a worker lives, and whether it has claimed anything since it last said so."""
    tx.put(BEAT, **worker._asdict(), now=tx.now, claimed_at=tx.now if has_claimed else None)
    tx.put("DELETE FROM worker WHERE seen_at < :before", before=tx.now - WORKER_LIFE_SECONDS * 1000)


def sign_off(tx: Transaction, worker_id: str) -> None:
    tx.put("DELETE FROM worker WHERE id = :id", id=worker_id)


class Heartbeat:
    """`running` gives how many runs the worker has."""

    def __init__(
        self,
        database: Database,
        worker_id: str,
        processes: int,
        counts: TaskCounts,
        running: Callable[[], int],
        schedules: str = "[]",
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._processes = processes
        self._counts = counts
        self._running = running
        self._schedules = schedules
        self._loop = asyncio.get_running_loop()
        self._has_claimed = False
        self._claims_told_at = -2 * BEAT_SECONDS
        self._news = asyncio.Event()

    def start(self, loops: Loops, lease_seconds: float) -> None:
        loops.start(self._beat, at=self._news, every=min(BEAT_SECONDS, lease_seconds / 3))

    def note_claims(self, count: int) -> None:
        """Claims are reported by the next beat; the first after a pause at once, as /health may take the queue for
        stalled."""
        if count and not self._has_claimed and self._loop.time() - self._claims_told_at > 2 * BEAT_SECONDS:
            self._news.set()
        self._has_claimed |= count > 0

    async def _beat(self) -> None:
        has_claimed, self._has_claimed = self._has_claimed, False
        about = (self._worker_id, socket.gethostname(), os.getpid(), self._processes, self._running())
        latest = Beat(*about, counts=self._counts.text(), schedules=self._schedules)
        try:
            await self._database.write(lambda tx: beat(tx, latest, has_claimed=has_claimed))
        except BaseException:
            self._has_claimed |= has_claimed  # the next beat reports it
            raise
        if has_claimed:
            self._claims_told_at = self._loop.time()
