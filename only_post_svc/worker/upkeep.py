"""What every worker does for all of them: queues what is due, takes back what a dead one held, deletes what is old."""

import asyncio
import logging
from collections.abc import Callable

from only_post_svc import hints, queue
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Claim
from only_post_svc.settings import Settings
from only_post_svc.worker.clock_watch import ClockWatch
from shared import idempotency
from shared.database import Database, Transaction
from shared.loops import Loops

LOOK_SECONDS = 5.0  # hints make it fast; this makes it right when one is lost. A lost run waits as long at most
PRUNE_SECONDS = 30.0
LOST = queue.error("worker_lost", "its worker stopped renewing the lease")

log = logging.getLogger(__name__)


class Upkeep:
    """`mine` gives the runs of this worker; `queued` is set when there may be something to claim, `due` when something
    may be due."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        mine: Callable[[], list[Claim]],
        queued: asyncio.Event,
        due: asyncio.Event,
        counts: TaskCounts,
    ) -> None:
        self._database = database
        self._lease_seconds = settings.lease_seconds
        self._result_ttl = settings.result_ttl
        self._mine = mine
        self._queued = queued
        self._due = due
        self._counts = counts
        self.clock = ClockWatch(settings.lease_seconds)

    def start(self, loops: Loops) -> None:
        loops.start(self._promote, at=self._due)
        loops.start(self._look, every=min(LOOK_SECONDS, self._lease_seconds / 3))
        loops.start(self._prune, every=PRUNE_SECONDS)

    async def _promote(self) -> None:
        while True:
            seconds = await self._database.read(queue.seconds_to_next_due)
            if seconds is None or seconds > LOOK_SECONDS:
                return
            if seconds > 0:
                await asyncio.sleep(seconds)
            if await self._database.write(queue.promote, is_long=True):
                self._database.publish(hints.QUEUED)

    async def _look(self) -> None:
        """Finds what no hint has told."""
        seen = await self._database.read(lambda tx: queue.look(tx, self._lease_seconds))
        if seen.has_queued:
            self._queued.set()
        if seen.seconds_to_next_due is not None and seen.seconds_to_next_due <= LOOK_SECONDS:
            self._due.set()
        if not self.clock.has_jumped(seen.now) and seen.has_expired_leases:
            await self._recover()

    async def _recover(self) -> None:
        """Takes back what a dead worker held. After a jump of the clock, or while nothing could be written,
        nobody is dead yet: wait for renewals."""
        mine = self._mine()

        def unit(tx: Transaction) -> list[str]:
            queue.renew(tx, mine, self._lease_seconds)  # whatever has held it up, this worker is not dead
            return queue.recover(tx, LOST, self._lease_seconds)

        recovered = await self._database.write(unit, is_long=True)
        self._counts.took_back(len(recovered))
        for task_id in recovered:
            self._database.publish(hints.ended(task_id))
        if recovered:
            log.warning("worker.recovered", extra={"tasks": len(recovered)})
            self._database.publish(hints.QUEUED)

    async def _prune(self) -> None:
        if self.clock.is_distrusted:
            return
        while await self._database.write(self._prune_tasks, is_long=True) >= queue.MAX_SWEPT:
            await asyncio.sleep(0)
        while await self._database.write(idempotency.prune, is_long=True) >= idempotency.MAX_PRUNED:
            await asyncio.sleep(0)

    def _prune_tasks(self, tx: Transaction) -> int:
        return queue.prune(tx, self._result_ttl)
