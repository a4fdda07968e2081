"""What a worker says of itself, so that /health knows that it lives."""

import asyncio
import os
import socket
from collections.abc import Callable

from only_post_svc import workers
from only_post_svc.tallies import Tally
from only_post_svc.workers import Beat
from shared.database import Database
from shared.loops import Loops

BEAT_SECONDS = 5.0


class Heartbeat:
    """`running` gives how many runs the worker has."""

    def __init__(
        self, database: Database, worker_id: str, processes: int, tally: Tally, running: Callable[[], int]
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._processes = processes
        self._tally = tally
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._has_claimed = False
        self._claims_told_at = -2 * BEAT_SECONDS
        self._news = asyncio.Event()

    def start(self, loops: Loops, lease_seconds: float) -> None:
        loops.start(self._beat, at=self._news, every=min(BEAT_SECONDS, lease_seconds / 3))

    def note_claims(self, count: int) -> None:
        """What /health has to know soon is said with the next beat; what it has waited for, at once."""
        if count and not self._has_claimed and self._loop.time() - self._claims_told_at > 2 * BEAT_SECONDS:
            self._news.set()
        self._has_claimed |= count > 0

    async def _beat(self) -> None:
        has_claimed, self._has_claimed = self._has_claimed, False
        if has_claimed:
            self._claims_told_at = self._loop.time()
        about = (self._worker_id, socket.gethostname(), os.getpid(), self._processes, self._running())
        beat = Beat(*about, counts=self._tally.text())
        await self._database.write(lambda tx: workers.beat(tx, beat, has_claimed=has_claimed))
