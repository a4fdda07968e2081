"""The runs that a worker has, and what it writes of them: leases, progress, endings."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from only_post_svc import checkpoints, gates, hints, lookup, queue
from only_post_svc.lookup import TaskRow
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Claim, Ending
from only_post_svc.waiters import Waiters
from only_post_svc.worker.children import Child
from shared.database import Database, Transaction, Unit, Unstorable
from shared.errors import Unavailable
from shared.loops import AGAIN_SECONDS

# An end that any database takes, in the place of one that is refused for good. Without it the task would run again.
UNSTORABLE = Ending(error=queue.error("invalid_result", "the database can't store what it has left"), can_retry=False)

MAX_TOGETHER = 100  # runs that end in one statement

log = logging.getLogger(__name__)


def about(claim: Claim) -> dict[str, Any]:
    """What every log line of a run carries."""
    trace = {} if claim.traceparent is None else {"traceparent": claim.traceparent}
    return {"task_id": claim.id, "type": claim.type, "attempt": claim.attempt, **trace}


def log_failure(claim: Claim, error: str, traceback: str | None) -> None:
    failed = json.loads(error)
    level = logging.INFO if failed.get("type") == "Retry" else logging.ERROR  # which is a plan, and no fault
    of_run = about(claim) | ({"key": claim.key} if claim.key is not None else {})
    extra = {**of_run, "code": failed.get("code"), "error": failed.get("message"), "traceback": traceback or ""}
    log.log(level, "run.failed", extra=extra)


@dataclass(eq=False)
class Run:
    """A claimed task on its way through a child."""

    claim: Claim
    child: Child | None = None
    stopping: str = ""  # why it was asked to stop: timeout, cancelled, lost, shutdown
    progress: str | None = None
    is_reported: bool = True
    checkpoint: str | None = None  # the latest, as long as it is not stored
    has_checkpoint: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def save(self, tx: Transaction) -> None:
        """Stores its latest checkpoint, if that is not done."""
        if self.checkpoint is not None:
            checkpoints.save(tx, self.claim.id, self.claim.lease, self.checkpoint)

    def leave(self) -> None:
        """Its code has ended, one way or another."""
        for timer in self.timers:
            timer.cancel()
        self.child = None


def _finish(tx: Transaction, run: Run, ending: Ending) -> bool:
    run.save(tx)
    return queue.finish(tx, run.claim, ending)


def _release(tx: Transaction, run: Run, *, is_alone: bool) -> bool:
    run.save(tx)
    return queue.release(tx, run.claim, is_alone=is_alone)


class Runs:
    """By lease: a run may still be stopping while its task runs again. `left` is called with the claim of each run that
    is over, and `due` is set when its task may have been scheduled for another try."""

    def __init__(
        self,
        database: Database,
        waiters: Waiters,
        lease_seconds: int,
        counts: TaskCounts,
        left: Callable[[Claim], None],
        due: asyncio.Event,
    ) -> None:
        self._database = database
        self._waiters = waiters
        self._lease_seconds = lease_seconds
        self._counts = counts
        self._left = left
        self._due = due
        self._by_lease: dict[str, Run] = {}
        self._succeeded: list[tuple[Run, Ending]] = []
        self._writing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_lease)

    def __getitem__(self, lease: str) -> Run:
        return self._by_lease[lease]

    def get(self, lease: str) -> Run | None:
        return self._by_lease.get(lease)

    def add(self, claim: Claim) -> Run:
        run = self._by_lease[claim.lease] = Run(claim)
        return run

    def all(self) -> list[Run]:
        return list(self._by_lease.values())

    def of_task(self, task_id: str) -> list[Run]:
        return [run for run in self._by_lease.values() if run.claim.id == task_id]

    def claims(self) -> list[Claim]:
        return [run.claim for run in self._by_lease.values()]

    async def lost(self) -> list[Run]:
        """Those that go on, but that a client cancelled or others took for lost."""
        claims = [run.claim for run in self._by_lease.values() if run.child]
        return self._known(await self._database.read(lambda tx: queue.lost(tx, claims))) if claims else []

    async def renew(self) -> list[Run]:
        """Of all runs whose leases were to be renewed."""
        claims = self.claims()
        if not claims:
            return []
        return self._known(await self._database.write(lambda tx: queue.renew(tx, claims, self._lease_seconds)))

    def _known(self, claims: list[Claim]) -> list[Run]:
        return [self._by_lease[claim.lease] for claim in claims if claim.lease in self._by_lease]

    async def store_progress(self) -> None:
        runs = [run for run in self._by_lease.values() if not run.is_reported]
        if not runs:
            return
        try:
            await self._report(runs)
        except Unstorable:  # one of them is; it alone is left out
            for run in runs:
                with contextlib.suppress(Unstorable):
                    await self._report([run])

    async def _report(self, runs: list[Run]) -> None:
        latest = [(run.claim, run.progress or "null") for run in runs]
        for run in runs:
            run.is_reported = True
        try:
            await self._database.write(lambda tx: [queue.report(tx, claim, progress) for claim, progress in latest])
        except Unavailable:  # it is still to be said
            for run in runs:
                run.is_reported = False
            raise

    def save(self, run: Run, value: str) -> None:
        """Stores its checkpoint at once: a kill of this process loses it no more."""
        is_under_way = run.checkpoint is not None
        run.checkpoint, run.has_checkpoint = value, True
        if not is_under_way:
            self._in_background(self._save(run))

    async def _save(self, run: Run) -> None:
        while (value := run.checkpoint) is not None:
            with contextlib.suppress(Unstorable):
                await self._insist(lambda tx: checkpoints.save(tx, run.claim.id, run.claim.lease, value))
            if run.checkpoint == value:
                run.checkpoint = None

    def end(self, run: Run, ending: Ending) -> None:
        """Stores how it ended, unless it was cancelled or lost meanwhile. A run that made way for a deploy, and did not
        get to its end, is released."""
        run.leave()
        if run.has_checkpoint or run.claim.saved is not None:
            ending = replace(ending, has_checkpoint=True)
        if run.stopping == "shutdown" and ending.error is not None:
            self._in_background(self._release(run, is_alone=run.claim.is_alone))
            return
        if run.stopping == "timeout":
            error = queue.overran(run.claim.timeout_ms)
            ending = replace(ending, result=None, error=error, can_retry=True, retry_after_seconds=None)
        if ending.error is not None and run.stopping in ("", "timeout"):
            log_failure(run.claim, ending.error, ending.traceback)
        if ending.error is not None or run.stopping:
            self._in_background(self._store(run, ending))
            return
        self._succeeded.append((run, ending))
        if len(self._succeeded) == 1:
            self._in_background(self._store_succeeded())

    def give_back(self, run: Run, *, is_alone: bool) -> None:
        """Its task is queued again at no cost, `is_alone` to share its child with no other."""
        run.leave()
        self._in_background(self._release(run, is_alone=is_alone))

    async def settled(self) -> None:
        """Once all have ended, and all that is."""
        while self._by_lease or self._writing:
            await asyncio.sleep(0.02)

    async def _store_succeeded(self) -> None:
        """All that have ended when its unit begins; each by itself when that fails, as one of them may be why."""
        take = cache(self._take_succeeded)  # for the unit, which may run twice, and for what is to be done behind it

        def unit(tx: Transaction) -> Callable[[], list[TaskRow]]:
            ended = [(run.claim, ending) for run, ending in take()]
            for start in range(0, len(ended), MAX_TOGETHER):
                queue.succeed(tx, ended[start : start + MAX_TOGETHER])
            awaited = self._waiters.awaited(run.claim.id for run, _ in take())
            return lookup.find_ended_later(tx, awaited)

        try:
            stored = await self._database.write(unit, seconds=None)
        except Exception:  # what is still wrong with one of them is met again, and told, by `_store`
            for run, ending in take():
                self._in_background(self._store(run, ending))
        else:
            self._waiters.tell(task for task in stored() if not task.has_webhook)
            for run, ending in take():
                self._note_end(run, ending, held=True)

    def _take_succeeded(self) -> list[tuple[Run, Ending]]:
        taken, self._succeeded = self._succeeded, []
        return taken

    async def _store(self, run: Run, ending: Ending) -> None:
        held = False
        try:
            if run.stopping in ("", "timeout", "shutdown"):
                held = await self._insist(lambda tx: _finish(tx, run, ending))
        except Unstorable:
            await self._store(run, UNSTORABLE)
        except Exception:  # its lease ends, and the task's attempts with it
            log.exception("run.not_stored", extra={"task_id": run.claim.id})
            self._drop(run, held=False)
        else:
            self._note_end(run, ending, held=held)

    def _drop(self, run: Run, *, held: bool) -> None:
        """A run that has not `held` its lease to the end may have been cancelled: then its permits are still out."""
        del self._by_lease[run.claim.lease]
        self._left(run.claim)
        if run.claim.permits and not held:
            self._in_background(self._leave(run))

    async def _leave(self, run: Run) -> None:
        await self._insist(lambda tx: gates.leave(tx, [run.claim.lease]))

    def _note_end(self, run: Run, ending: Ending, *, held: bool) -> None:
        self._drop(run, held=held)
        if ending.error is not None:  # without its lease too: a commit whose answer got lost may have ended it
            self._due.set()
        if held:
            self._counts.ended(run.claim, ending)
            self._database.publish(hints.ended(run.claim.id))
        else:
            self._counts.gave_up(run.claim, "cancelled" if run.stopping == "cancelled" else "lost")
            log.info("run.discarded", extra={"task_id": run.claim.id, "reason": run.stopping or "lease lost"})

    async def _release(self, run: Run, *, is_alone: bool) -> None:
        held = False
        try:
            held = await self._insist(lambda tx: _release(tx, run, is_alone=is_alone))
            self._counts.gave_up(run.claim, "released" if held else "lost")
        finally:
            self._drop(run, held=held)
        self._database.publish(hints.QUEUED)

    async def _insist(self, unit: Unit[bool]) -> bool:
        """Writes as soon as the database lets it; a lease that is over by then refuses it."""
        while True:
            try:
                return await self._database.write(unit, seconds=None)
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
