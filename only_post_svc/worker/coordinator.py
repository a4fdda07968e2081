"""The coordinator: claims tasks, hands them to child processes, and stops those that have to stop.

It never runs user code, so no task can stop its heartbeat. It lives in the web
process, or alone in `python -m only_post_svc worker`.
"""

import asyncio
import contextlib
import logging
import secrets
import time
import uuid
from typing import Any

from only_post_svc import health, hints, queue, shares
from only_post_svc.failures import SECRET_CHARACTERS
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Claim, Ending
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.shares import Dealt
from only_post_svc.waiters import Waiters
from only_post_svc.worker import linux
from only_post_svc.worker.bell import Bell
from only_post_svc.worker.children import Child, end_orphans
from only_post_svc.worker.courier import Courier
from only_post_svc.worker.frames import decode
from only_post_svc.worker.heartbeat import Heartbeat, sign_off
from only_post_svc.worker.runs import Run, Runs, about
from only_post_svc.worker.slots import Slots
from only_post_svc.worker.turns import Turns
from only_post_svc.worker.upkeep import Upkeep
from shared.database import Database, Transaction
from shared.errors import Unavailable
from shared.loops import Loops
from shared.strict_json import encode

LANES_SECONDS = 5.0  # a hint makes it fast; this makes it right when one is lost
UNKNOWN_SECONDS = 60.0
LEASES_SECONDS = 1.0
ORPHANS_SECONDS = 1.0
GRACE_SECONDS = 1.0  # what a run has to clean up once it was asked to stop
SETTLE_SECONDS = 0.1  # after SIGTERM, in which short runs end by themselves
RELEASE_SECONDS = 1.0
UNHEARD_SECONDS = 0.25  # after a claim, the end of a run is a reason for another: hints may not arrive
PROGRESS_SECONDS = 0.5
MAX_RESTART_SECONDS = 10.0

log = logging.getLogger(__name__)


class Worker:
    def __init__(
        self, database: Database, settings: Settings, types: dict[str, TaskType], processes: int, waiters: Waiters
    ) -> None:
        """`waiters` are told of the ends of their tasks, and need not look."""
        self.id = uuid.uuid4().hex[:12]
        self._database = database
        self._settings = settings
        self._types = frozenset(types)
        self._processes = processes
        self._loop = asyncio.get_running_loop()
        self._children: set[Child] = set()
        self._keep: Child | None = None
        self._claiming = asyncio.Lock()
        self._turns = Turns(settings, types, processes)
        self._queued, self._due, self._lanes = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._bell = Bell(self._queued)
        self.counts = TaskCounts()
        self._runs = Runs(database, waiters, settings.lease_seconds, self.counts, self._run_left, self._due)
        self._courier = Courier(database, settings)
        self._upkeep = Upkeep(
            database,
            settings,
            self._runs.claims,
            self._queued,
            self._due,
            self.counts,
            types.values(),
            self._courier.note_pending,
        )
        marks = encode([one.mark for one in self._upkeep.declared])
        self._heartbeat = Heartbeat(database, self.id, processes, self.counts, lambda: len(self._runs), marks)
        self._loops = Loops(self._upkeep.clock.distrust)
        self._may_leave_some = True  # of what is queued
        self._is_expecting = False  # a task that is about to be stored here
        self._is_bounded = False  # some callers had as much as they may, at the last claim
        self._claimed_at = 0.0
        self._unanswered = ""  # the token of a claim that is under way, or whose answer got lost
        self._is_stopping = False
        self._stopped: asyncio.Task[None] | None = None
        self._restart_seconds = 0.1

    def start(self) -> None:
        linux.adopt_orphans()  # of children that have died
        self._database.subscribe(hints.SCHEDULED, lambda about: self._due.set())
        if self._processes:  # a web process that runs no tasks leaves the rest to the workers
            self._database.subscribe(hints.QUEUED, self._take_queued)
            self._database.subscribe(hints.LANES, lambda about: self._lanes.set())
            self._database.subscribe(hints.CANCELLED, self._take_cancelled)
            self._courier.start(self._loops)
        for _ in range(self._processes):
            self._spawn()
        self._loops.start(self._claim, at=self._queued)
        self._loops.start(self._learn_lanes, at=self._lanes, every=LANES_SECONDS)
        self._loops.start(self._name_unknown_types, every=UNKNOWN_SECONDS)
        self._loops.start(self._check_leases, every=LEASES_SECONDS)
        self._loops.start(self._end_orphans, every=ORPHANS_SECONDS)
        self._loops.start(self._renew, every=self._settings.lease_seconds / 3)
        self._loops.start(self._runs.store_progress, every=PROGRESS_SECONDS)
        self._heartbeat.start(self._loops, self._settings.lease_seconds)
        self._upkeep.start(self._loops)
        log.info("worker.started", extra={"worker": self.id, "processes": self._processes})

    def note_claims(self, count: int) -> None:
        """Of workers elsewhere, through this process: /health knows by it that tasks are taken."""
        self._heartbeat.note_claims(count)

    def expect_task(self) -> None:
        """One is about to be stored here. A worker that has a hand free claims it in the same transaction."""
        if not self._may_leave_some:
            self._is_expecting = True
            self._bell.ring()

    def stop(self) -> None:
        """Claims nothing more, gives the running tasks a moment, then releases them. Returns at once."""
        if self._stopped is None:
            self._is_stopping = True
            self._stopped = self._loop.create_task(self._stop())

    async def stopped(self) -> None:
        self.stop()
        assert self._stopped is not None
        await self._stopped

    async def _stop(self) -> None:
        async with self._claiming:  # a claim on its way is part of it
            await self._settle(SETTLE_SECONDS)
        for run in self._runs.all():
            self._interrupt(run, "shutdown")
        await self._settle(self._settings.drain_seconds)
        self._loops.stop()
        self._courier.stop()
        for child in self._children:
            child.kill()  # before the release: nothing of a run may go on when another takes over
        released = self._runs.all()
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._database.write(lambda tx: _release_all(tx, self.id, released, self._unanswered))
            self._database.publish(hints.QUEUED)
        except (Unavailable, TimeoutError):
            log.warning("worker.not_released", extra={"runs": len(released)})  # their leases run out
        log.info("worker.stopped", extra={"worker": self.id, "released": len(released)})

    async def _settle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._runs.settled()

    def _take_queued(self, but_for: str) -> None:
        if but_for != self.id:
            self._bell.ring()

    def _take_cancelled(self, task_id: str) -> None:
        for run in self._runs.of_task(task_id):
            self._interrupt(run, "cancelled")

    async def _claim(self) -> None:
        while not self._is_stopping:
            slots = self._slots()
            free = slots.shared + slots.exclusive
            self._may_leave_some = True
            if free == 0:
                return
            async with self._claiming:
                dealt, left = await self._take()
                self._turns.served = dealt.last
                slots = self._slots()
                for claim in dealt.claims:
                    self._start(claim, slots)
            self._may_leave_some = dealt.has_left
            self._claimed_at = self._loop.time()
            self._bell.note(was_in_vain=dealt.was_in_vain)
            self._drain(left.lacks_exclusive)
            self._heartbeat.note_claims(len(dealt.claims) or int(dealt.is_bounded))
            if dealt.has_moved_some:
                self._database.publish(hints.LANES)
            elif not dealt.claims or not dealt.has_more:
                return

    async def _name_unknown_types(self) -> None:
        """Of tasks that wait for code which is not here."""
        unknown = await self._database.query(lambda tx: health.unknown_types(tx, self._types))
        for type, count in unknown.items():
            log.warning("task.type_unknown", extra={"type": type, "queued": count})

    async def _learn_lanes(self) -> None:
        if self._turns.learn(await self._database.read(shares.own_lanes)):
            self._queued.set()

    async def _take(self) -> tuple[Dealt, Slots]:
        """What was claimed, and the slots that were left then. A claim whose answer got lost may have
        been committed all the same: it is undone before the next."""
        if unanswered := self._unanswered:
            await self._database.write(lambda tx: queue.release_claim(tx, unanswered), seconds=None)
        self._unanswered = token = self.id + secrets.token_hex(SECRET_CHARACTERS // 2)
        is_last, self._is_expecting = self._is_expecting, False
        taken = await self._database.write(lambda tx: self._claim_unit(tx, token), seconds=None, is_last=is_last)
        self._unanswered = ""
        return taken

    def _claim_unit(self, tx: Transaction, token: str) -> tuple[Dealt, Slots]:
        self._queued.clear()  # this claim sees all that is stored by now; what is stored later has a hint of its own
        slots = self._slots()
        has_hands = slots.shared > 0  # without any it does not look for `async def` tasks
        dealt = self._turns.claim(tx, token, slots, self._runs.claims())
        if has_hands:
            tx.republish(hints.QUEUED, hints.queued_but_for(self.id))
        self._is_bounded = dealt.is_bounded  # at once, since the run that bounds it may leave with the same commit
        return dealt, slots

    def _slots(self) -> Slots:
        return Slots(list(self._children), self._settings.task_concurrency, self._keep)

    def _drain(self, is_needed: bool) -> None:
        """While an exclusive run waits for an idle child, one child takes no more shared ones."""
        shared = [child for child in self._children if not child.is_idle and not child.is_exclusive]
        if not is_needed or not shared:
            self._keep = None
        elif self._keep not in shared:
            self._keep = min(shared, key=lambda child: len(child.run_ids))

    def _start(self, claim: Claim, slots: Slots) -> None:
        run = self._runs.add(claim)
        is_exclusive = bool(claim.is_alone)
        run.child = slots.take(is_exclusive=is_exclusive)
        if run.child is None or self._is_stopping:  # a child died, or SIGTERM came, since the claim
            self._runs.give_back(run, is_alone=claim.is_alone)
            return
        seconds = claim.timeout_ms / 1000
        run.child.start(_told(claim), claim.payload.encode(), about(claim), is_exclusive=is_exclusive)
        run.timers.append(self._loop.call_later(seconds, self._interrupt, run, "timeout"))

    def _interrupt(self, run: Run, reason: str) -> None:
        """Asks its code to stop; kills the child when it has not after the grace."""
        if run.stopping or run.child is None:
            return
        run.stopping = reason
        run.child.holding = ""
        run.child.interrupt(run.claim.lease)
        if reason != "shutdown":  # then all have until the end of that
            run.timers.append(self._loop.call_later(GRACE_SECONDS, self._kill, run))

    def _kill(self, run: Run) -> None:
        child = run.child
        if child is None or run.claim.lease not in child.run_ids:
            return
        if child.holding not in ("", run.claim.lease):
            run.stopping = ""  # it could not hear: another run has the event loop
        child.kill()

    def _spawn(self) -> None:
        if self._is_stopping:
            return
        try:
            self._children.add(Child(self._settings, self))
        except (OSError, RuntimeError) as error:  # no descriptor, process or thread to be had just now
            log.warning("child.not_started", extra={"reason": str(error)})
            self._spawn_later()

    def _spawn_later(self) -> None:
        self._loop.call_later(self._restart_seconds, self._spawn)
        self._restart_seconds = min(MAX_RESTART_SECONDS, self._restart_seconds * 2)

    def child_ready(self, child: Child) -> None:
        self._restart_seconds = 0.1
        self._queued.set()

    def child_exited(self, child: Child, reason: str) -> None:
        self._children.discard(child)
        if self._is_stopping:
            return
        for run_id in child.run_ids:
            run = self._runs[run_id]
            if child.holding not in ("", run_id):
                run.stopping = ""  # it was late because another run had the event loop
            self._lose(run, reason, is_only=len(child.run_ids) == 1)
        if child.run_ids or not child.is_retired:
            log.warning("child.exited", extra={"pid": child.pid, "reason": reason, "runs": len(child.run_ids)})
        if child.is_ready:
            self._spawn()
        else:
            self._spawn_later()

    def _lose(self, run: Run, reason: str, *, is_only: bool) -> None:
        """The child is gone. Who shared it with others may be innocent: it runs again, alone, at no cost."""
        if run.stopping or is_only:
            error = queue.error("worker_lost", f"the process that ran it {reason}")
            self._runs.end(run, Ending(error=error, progress=run.progress))
        else:
            self._runs.give_back(run, is_alone=True)

    def run_progressed(self, run_id: str, progress: dict[str, Any]) -> None:
        if run := self._runs.get(run_id):
            run.progress = encode(progress)
            run.is_reported = False

    def run_saved(self, run_id: str, value: str) -> None:
        self._runs.save(self._runs[run_id], value)

    def run_ended(self, child: Child, message: dict[str, Any], result: bytes) -> None:
        self._runs.end(self._runs[message["end"]], _ending(message, result))
        if self._may_leave_some or self._loop.time() - self._claimed_at > UNHEARD_SECONDS:
            self._queued.set()

    def _run_left(self, claim: Claim) -> None:
        """Its gates and its caller have room for another."""
        if claim.permits or self._is_bounded:
            self._queued.set()

    async def _check_leases(self) -> None:
        """Finds what no hint has told."""
        self._interrupt_all(await self._runs.lost())

    async def _end_orphans(self) -> None:
        end_orphans()

    async def _renew(self) -> None:
        self._interrupt_all(await self._runs.renew())

    def _interrupt_all(self, lost: list[Run]) -> None:
        for run in lost:
            self._interrupt(run, "lost")


def _told(claim: Claim) -> dict[str, Any]:
    """What a child is told of a run."""
    return {
        "run": claim.lease,
        **about(claim),
        "caller": claim.caller,
        "key": claim.key,
        "traceparent": claim.traceparent,
        "saved": claim.saved,
        "deadline": time.time() + claim.timeout_ms / 1000,
    }


def _ending(message: dict[str, Any], result: bytes) -> Ending:
    """What a child says of a run; where the result is no JSON, the code of a task has said it."""
    progress = encode(message["progress"]) if message.get("progress") else None
    if message.get("error") is None:
        try:
            decode(result)  # for its check alone
            return Ending(result=result.decode(), progress=progress)
        except ValueError as error:
            invalid = queue.error("invalid_result", f"the result is not JSON: {error}")
            return Ending(error=invalid, can_retry=False, progress=progress)
    return Ending(
        error=encode(message["error"]),
        can_retry=message.get("can_retry", True),
        retry_after_seconds=message.get("retry_after"),
        progress=progress,
        traceback=message.get("traceback"),
    )


def _release_all(tx: Transaction, worker_id: str, runs: list[Run], unanswered: str) -> None:
    for run in runs:
        run.save(tx)
        queue.release(tx, run.claim, is_alone=run.claim.is_alone)
    if unanswered:
        queue.release_claim(tx, unanswered)
    sign_off(tx, worker_id)
