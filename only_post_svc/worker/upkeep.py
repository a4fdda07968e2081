"""What every worker does for all workers: queues tasks that are due, makes the tasks of schedules, takes back the runs
of dead workers, deletes what is old."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from only_post_svc import elsewhere, gates, hints, queue, schedules, shares
from only_post_svc.backlog import Count
from only_post_svc.gates import Gate
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Claim, NewTask
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.worker.clock_watch import ClockWatch
from shared import departures, idempotency
from shared.auth import MAX_LIFETIME_SECONDS
from shared.database import Database, Transaction, Unit
from shared.errors import Unavailable
from shared.loops import Loops
from shared.pruning import MAX_PRUNED

LOOK_SECONDS = 5.0  # hints make it fast; this makes it right when one is lost. A lost run waits as long at most
PRUNE_SECONDS = 30.0
SWEEP_SECONDS = 5.0
VACUUM_SECONDS = 10.0
MEND_SECONDS = 10.0
DECLARE_SECONDS = 30.0
BUSY_SECONDS = 0.1  # until another worker has done what is due
SERVICE = "only_post"  # the name of its tables
LOST = queue.error("worker_lost", "its worker stopped renewing the lease")

log = logging.getLogger(__name__)

T = TypeVar("T")


class Upkeep:
    """`mine` gives the runs of this worker and `types` are those of its code; `note_webhooks` takes whether any is
    still to be told; `queued` is set when there may be something to claim, `due` when something may be due."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        mine: Callable[[], list[Claim]],
        queued: asyncio.Event,
        due: asyncio.Event,
        counts: TaskCounts,
        types: Collection[TaskType],
        note_webhooks: Callable[[bool], None],
    ) -> None:
        self._database = database
        self._lease_seconds = settings.lease_seconds
        self._result_ttl = settings.result_ttl
        self._mine = mine
        self._queued = queued
        self._due = due
        self._counts = counts
        self.declared = schedules.declared(types)
        self._types = types
        self._note_webhooks = note_webhooks
        self._is_declared: bool | None = None  # whether any schedule stands in code; None before the first look
        self._limits = settings.max_queued, settings.max_queued_per_caller
        self._declared_lanes = asyncio.Event()
        self._mended = Gate("")
        self._has_set_bounds = False
        self.clock = ClockWatch(settings.lease_seconds)

    def start(self, loops: Loops) -> None:
        loops.start(self._declare, every=DECLARE_SECONDS)
        loops.start(self._promote, at=self._due)
        loops.start(self._look, every=min(LOOK_SECONDS, self._lease_seconds / 3))
        loops.start(self._prune, every=PRUNE_SECONDS)
        loops.start(self._sweep, every=SWEEP_SECONDS)
        loops.start(self._vacuum, every=VACUUM_SECONDS)
        loops.start(self._mend_gates, every=MEND_SECONDS)
        loops.start(self._settle_lanes, at=self._declared_lanes, every=PRUNE_SECONDS)

    async def _promote(self) -> None:
        while True:
            self._due.clear()  # what is heard from here on may be too late for the look
            seconds = await self._database.read(queue.seconds_to_next_due)
            if seconds is None or seconds > LOOK_SECONDS:
                return
            if seconds > 0:
                await self._until_due(seconds)
                continue
            queued, ticked = await self._queue(self._queue_due)
            self._counts.submitted(ticked)
            if queued or ticked:
                self._database.publish(hints.QUEUED)
            else:
                await asyncio.sleep(BUSY_SECONDS)

    async def _until_due(self, seconds: float) -> None:
        """Or until something may be due sooner."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._due.wait()

    async def _queue(self, unit: Unit[T]) -> T:
        """The value of a unit that queues tasks. Workers look for them also where only the answer to its commit may
        have got lost."""
        try:
            return await self._database.write(unit, is_long=True)
        except Unavailable:
            self._database.publish(hints.QUEUED)
            raise

    def _queue_due(self, tx: Transaction) -> tuple[int, list[NewTask]]:
        """How many tasks were queued; where none was due, the tasks that schedules have made."""
        if queued := queue.promote(tx):
            return queued, []
        return 0, schedules.tick(tx, self.declared, self.clock.steady_since, Count(*self._limits).admit)

    async def _declare(self) -> None:
        """At the start, and repeatedly as long as any worker's code has schedules."""
        if self._is_declared is False:
            return
        is_start = self._is_declared is None

        def unit(tx: Transaction) -> bool:
            if is_start:
                schedules.clamp(tx)
                elsewhere.keep_lanes(tx, self._types)
            return schedules.declare(tx, self.declared, is_start=is_start)

        self._is_declared = await self._database.write(unit)
        if is_start:
            self._declared_lanes.set()
        if is_start and self._is_declared:
            self._due.set()

    async def _look(self) -> None:
        """Finds what no hint has told."""
        seen = await self._database.read(lambda tx: queue.look(tx, self._lease_seconds))
        self._note_webhooks(seen.has_webhooks)
        if seen.has_queued:
            self._queued.set()
        if seen.seconds_to_next_due is not None and seen.seconds_to_next_due <= LOOK_SECONDS:
            self._due.set()
        if self.clock.has_jumped(seen.now):
            await self._database.write(schedules.clamp)
        elif seen.has_expired_leases:
            await self._recover()

    async def _recover(self) -> None:
        """Takes back what a dead worker held. After a jump of the clock, or while nothing could be written,
        no worker counts as dead yet: wait for renewals."""
        mine = self._mine()

        def unit(tx: Transaction) -> list[str]:
            queue.renew(tx, mine, self._lease_seconds)  # this worker was held up, but is not dead
            return queue.recover(tx, LOST, self._lease_seconds)

        recovered = await self._queue(unit)
        self._counts.took_back(len(recovered))
        self._due.set()  # those that have timed out wait for another try
        for task_id in recovered:
            self._database.publish(hints.ended(task_id))
        if recovered:
            log.warning("worker.recovered", extra={"tasks": len(recovered)})
            self._database.publish(hints.QUEUED)

    async def _vacuum(self) -> None:
        """Every task is a row that changes three times, and claims look past what it was."""
        await self._database.vacuum("task")

    async def _mend_gates(self) -> None:
        """Some gates at a time. The first time it takes over the bounds that the code has now."""
        if overdue := await self._database.read(lambda tx: gates.overdue(tx, self._lease_seconds)):
            await self._database.write(lambda tx: gates.leave(tx, overdue))
        wrong, last = await self._database.write(self._mend_some, is_long=True)
        self._has_set_bounds = True
        self._mended = last or Gate("")
        for gate in wrong:
            log.warning("gate.mended", extra={"type": gate.type, "key": gate.key})

    def _mend_some(self, tx: Transaction) -> tuple[list[Gate], Gate | None]:
        if not self._has_set_bounds:
            gates.set_bounds(tx, {one.type: (one.max_running, one.max_running_per_key) for one in self._types})
        return gates.mend(tx, self._mended)

    async def _settle_lanes(self) -> None:
        """Has all tasks wait where those look who can run them, also after a type has got its code elsewhere, or no
        longer."""
        if lost := await self._database.read(shares.lost_lanes):
            await self._database.write(lambda tx: shares.open_lanes(tx, lost))
            self._database.publish(hints.LANES)
        lanes = await self._database.read(shares.own_lanes)
        if lanes:
            await self._database.write(shares.drop_empty_lanes)
        while any(lane.is_kept for lane in lanes) and await self._database.query(shares.is_any_outside):
            if not await self._database.write(shares.move_in, is_long=True):
                break  # others have them just now
            self._database.publish(hints.QUEUED)

    async def _prune(self) -> None:
        if self.clock.is_distrusted:
            return
        while await self._database.write(self._prune_tasks, is_long=True):
            await asyncio.sleep(0)
        while await self._database.write(idempotency.prune, is_long=True) >= MAX_PRUNED:
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Deletes what deleted callers have left."""
        await departures.sweep_all(self._database, SERVICE, _forget, MAX_LIFETIME_SECONDS * 1000)

    def _prune_tasks(self, tx: Transaction) -> int:
        return queue.prune(tx, self._result_ttl)


def _forget(tx: Transaction, caller: str) -> bool:
    return schedules.forget(tx, caller) or queue.forget(tx, caller) or idempotency.forget(tx, caller)
