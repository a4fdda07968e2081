"""Runs of workers elsewhere, in any language: claimed, renewed and finished over HTTP.

They are the same runs as those of the service's own workers: one claim, one lease, one recovery. Their types have lanes
of their own, so that neither kind of worker looks at what only the other can run.
"""

import asyncio
import contextlib
import dataclasses
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from only_post_svc import checkpoints, gates, hints, queue, shares
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import ELSEWHERE, Claim, Ending
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.shares import Candidate, Kind, Lane, up_to
from shared.database import Database, Transaction, listed

POLL_SECONDS = 5.0  # for hints that are lost
MAX_REMEMBERED = 1000  # sets of types, each with the time of a claim that got nothing
PAUSE_SECONDS = 0.02  # between two claims for the same types, where the first got nothing

KEEP_LANE = """
INSERT INTO lane (type, is_paused, is_kept) VALUES (:type, 0, 1) ON CONFLICT (type) DO UPDATE SET is_kept = 1
"""
GIVE_LANE_BACK = "UPDATE lane SET is_kept = 0 WHERE type IN {types} AND is_kept = 1"


def keep_lanes(tx: Transaction, types: Iterable[TaskType]) -> None:
    """Keeps a lane for each type whose code runs elsewhere, and gives back those of the others."""
    own = [type.type for type in types if not type.elsewhere]
    for type in sorted(type.type for type in types if type.elsewhere):
        tx.put(KEEP_LANE, type=type)
    names, values = listed("type", own)
    tx.put(GIVE_LANE_BACK.format(types=names), **values)


CUT_LEASES = """
UPDATE task SET lease_until = started_at + timeout_ms WHERE id IN {ids} AND lease_until > started_at + timeout_ms
"""


class RunElsewhere(NamedTuple):
    """A claimed run. Times in milliseconds."""

    claim: Claim
    deadline: int
    lease_until: int


class Taken(NamedTuple):
    """What a claim has brought, and the caller who was served last."""

    runs: list[RunElsewhere]
    last: str


def kinds_of(types: Iterable[TaskType]) -> dict[str, Kind]:
    """The types whose code runs elsewhere, as claims need them."""
    return {type.type: Kind(False, type.max_running, type.max_running_per_key) for type in types if type.elsewhere}


RUNNING = """
SELECT caller, count(*) FROM task
WHERE status = 'running' AND lease >= :worker AND lease < :worker || '~' AND caller <> '' GROUP BY caller
"""


class PortionsElsewhere:
    """What each caller has running elsewhere, where all workers count as one; `most` None is unbounded."""

    def __init__(self, tx: Transaction, most: int | None) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        if most is not None:
            tx.lock(f"claims of {ELSEWHERE}")  # else two claims at once would both take the caller's last place
            self._taken.update(dict(tx.all(RUNNING, worker=ELSEWHERE)))

    def take(self, caller: str) -> bool:
        """Whether there was room for one more."""
        if self._most is None or not caller:
            return True
        if self._taken[caller] >= self._most:
            return False
        self._taken[caller] += 1
        return True

    def full(self) -> list[str]:
        return [caller for caller, taken in self._taken.items() if self._most is not None and taken >= self._most]


def claim(
    tx: Transaction,
    token: str,
    kinds: Mapping[str, Kind],
    limit: int,
    after: str,
    lease_seconds: int,
    max_running_per_caller: int | None = None,
) -> Taken:
    """Claims tasks of these types alone, by turns of their callers: `after` is the one who was served last."""
    # With those whose code was a `def` of the service's own when they were submitted.
    lanes = [Lane(is_alone, type, limit) for type in kinds for is_alone in (False, True)]
    has_hand, portions = up_to(limit), PortionsElsewhere(tx, max_running_per_caller)

    def fits(one: Candidate) -> bool:
        return portions.take(one.caller) and has_hand(one)

    passed_over = portions.full()
    dealt = shares.claim(tx, token, lanes, kinds, fits, lease_seconds, after=after, passed_over=passed_over)
    if short := [one.id for one in dealt.claims if one.timeout_ms < lease_seconds * 1000]:
        ids, values = listed("id", short)
        tx.put(CUT_LEASES.format(ids=ids), **values)
    until = tx.now + lease_seconds * 1000
    runs = [RunElsewhere(one, tx.now + one.timeout_ms, min(until, tx.now + one.timeout_ms)) for one in dealt.claims]
    return Taken(runs, dealt.last)


class Held(NamedTuple):
    """A run as its worker knows it. `progress` and `checkpoint` are JSON."""

    task_id: str
    lease: str
    progress: str | None = None
    checkpoint: str | None = None

    @property
    def id_and_lease(self) -> tuple[str, str]:
        return self.task_id, self.lease


class Lease(NamedTuple):
    """`until` in milliseconds, None where the lease is gone."""

    task_id: str
    until: int | None


# A run ends at its deadline: no lease goes beyond it, so an overdue run is taken back like a lost one.
RENEW = """
UPDATE task SET lease_until = CASE WHEN started_at + timeout_ms < :until THEN started_at + timeout_ms ELSE :until END
WHERE id IN {ids} AND lease IN {leases} AND started_at + timeout_ms > :now
RETURNING id, lease, lease_until
"""


def renew(tx: Transaction, runs: Sequence[Held], lease_seconds: int) -> list[Lease]:
    ids, by_id = listed("id", [run.task_id for run in runs])
    leases, by_lease = listed("lease", [run.lease for run in runs])
    until = tx.now + lease_seconds * 1000
    sql = RENEW.format(ids=ids, leases=leases)
    rows = tx.all(sql, until=until, now=tx.now, **by_id, **by_lease)
    renewed = {(task_id, lease): lease_until for task_id, lease, lease_until in rows}
    for run in runs:
        if run.progress is not None and run.id_and_lease in renewed:
            tx.put(queue.REPORT, id=run.task_id, lease=run.lease, progress=run.progress)
        if run.checkpoint is not None and run.id_and_lease in renewed:
            checkpoints.save(tx, run.task_id, run.lease, run.checkpoint)
    return [Lease(run.task_id, renewed.get(run.id_and_lease)) for run in runs]


OF_RUNS = """
SELECT id, type, attempt, max_attempts, timeout_ms, is_alone, '', lease, caller, key, is_person,
    (SELECT body FROM task_checkpoint WHERE task_id = task.id), traceparent, permits
FROM task
WHERE id IN {ids} AND lease IN {leases} ORDER BY id FOR UPDATE
"""


def finish(tx: Transaction, endings: Sequence[tuple[Held, Ending]]) -> list[tuple[Claim, Ending]]:
    """Ends the runs that hold their leases, and gives those; nothing is written of the others."""
    ids, by_id = listed("id", [run.task_id for run, _ in endings])
    leases, by_lease = listed("lease", [run.lease for run, _ in endings])
    rows = tx.all(OF_RUNS.format(ids=ids, leases=leases), **by_id, **by_lease)
    claims = {(claim.id, claim.lease): claim for claim in (Claim(*row) for row in rows)}
    if lost := [run.lease for run, _ in endings if run.id_and_lease not in claims]:
        gates.leave(tx, lost)
    ended = [
        _end(tx, claims.pop(run.id_and_lease), run, ending) for run, ending in endings if run.id_and_lease in claims
    ]
    succeeded = [(claim, ending) for claim, ending in ended if ending.error is None]
    if succeeded:
        queue.succeed(tx, succeeded)
    for claim, ending in ended:
        if ending.error is not None:
            queue.finish(tx, claim, ending)
    return ended


def _end(tx: Transaction, claim: Claim, run: Held, ending: Ending) -> tuple[Claim, Ending]:
    """Stores its latest checkpoint, for the next attempt."""
    if run.checkpoint is not None:
        checkpoints.save(tx, run.task_id, run.lease, run.checkpoint)
    has_checkpoint = claim.saved is not None or run.checkpoint is not None
    return claim, dataclasses.replace(ending, has_checkpoint=has_checkpoint)


IsGone = Callable[[], Awaitable[bool]]
LogFailure = Callable[[Claim, str, str | None], None]


class Claimants:
    """Requests that wait for tasks: of those for the same types one tries at a time, the oldest."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        types: Iterable[TaskType],
        counts: TaskCounts,
        log_failure: LogFailure,
    ) -> None:
        self._database = database
        self._kinds = kinds_of(types)
        self._counts = counts
        self._lease_seconds = settings.lease_seconds
        self._max_running_per_caller = settings.max_running_per_caller
        self._log_failure = log_failure
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[str, ...], deque[asyncio.Future[None]]] = {}
        self._tried_at: dict[tuple[str, ...], float] = {}
        self._served = ""
        self._is_stopping = False
        for topic in (hints.QUEUED, hints.LANES) if self._kinds else ():
            database.subscribe(topic, self._wake)

    def stop(self) -> None:
        """Answers all that wait, and holds no more requests from now on."""
        self._is_stopping = True
        for waiting in self._waiting.values():
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)

    async def claim(self, types: Iterable[str], limit: int, seconds: float, is_gone: IsGone) -> list[RunElsewhere]:
        """Up to `limit`; none when there are none for that long, or this process stops. A client that `is_gone` gets
        none: they would be lost with the answer."""
        wanted = tuple(sorted(set(types)))
        deadline = self._loop.time() + seconds
        while True:
            with self._turn(wanted) as turn:  # before the look, so that no hint between the two is missed
                runs = await self._take(wanted, limit)
                if runs or self._is_stopping or (left := deadline - self._loop.time()) <= 0:
                    break
                await self._until_hint(turn, wanted, min(left, POLL_SECONDS))
            if self._is_stopping or await is_gone():
                break
        if runs or turn.done():  # there may be more, or a hint that this request has taken and does not follow
            self._wake_first(wanted)
        return runs

    async def _until_hint(self, turn: asyncio.Future[None], wanted: tuple[str, ...], seconds: float) -> None:
        """Waits for it, and for the pause behind the last claim; for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await turn
            await asyncio.sleep(self._tried_at.get(wanted, 0) + PAUSE_SECONDS - self._loop.time())

    @contextlib.contextmanager
    def _turn(self, wanted: tuple[str, ...]) -> Iterator[asyncio.Future[None]]:
        """Done by a hint that is this request's to follow."""
        turn: asyncio.Future[None] = self._loop.create_future()
        waiting = self._waiting.setdefault(wanted, deque())
        waiting.append(turn)
        try:
            yield turn
        finally:
            waiting.remove(turn)
            if not waiting and self._waiting.get(wanted) is waiting:
                del self._waiting[wanted]

    async def _take(self, types: tuple[str, ...], limit: int) -> list[RunElsewhere]:
        self._tried_at[types] = self._loop.time()
        token, after = f"{ELSEWHERE}{secrets.token_hex(8)}", self._served
        kinds = {type: self._kinds[type] for type in types}
        bounds = self._lease_seconds, self._max_running_per_caller
        taken = await self._database.write(lambda tx: claim(tx, token, kinds, limit, after, *bounds))
        self._served = taken.last
        if taken.runs:
            self._tried_at.pop(types, None)
        if len(self._tried_at) > MAX_REMEMBERED:
            self._tried_at.clear()
        return taken.runs

    def _wake(self, about: str) -> None:
        for types in self._waiting:
            self._wake_first(types)

    def _wake_first(self, types: tuple[str, ...]) -> None:
        if turn := next((turn for turn in self._waiting.get(types, ()) if not turn.done()), None):
            turn.set_result(None)

    async def renew(self, runs: Sequence[Held]) -> list[Lease]:
        return await self._database.write(lambda tx: renew(tx, runs, self._lease_seconds))

    async def finish(self, endings: Sequence[tuple[Held, Ending]]) -> set[tuple[str, str]]:
        """The ids and leases of those that have ended."""
        ended = await self._database.write(lambda tx: finish(tx, endings))
        for claim, ending in ended:
            self._counts.ended(claim, ending)
            self._database.publish(hints.ended(claim.id))
            if self._max_running_per_caller is not None:
                self._database.publish(hints.QUEUED)  # its caller has room for another
            if ending.error is not None:
                self._log_failure(claim, ending.error, None)
        if any(ending.error is not None for _, ending in ended):
            self._database.publish(hints.SCHEDULED)
        return {(claim.id, claim.lease) for claim, _ in ended}
