"""The bounds on tasks that wait, kept by an estimate: to count for every submit would be slow."""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial

from only_post_svc import lookup
from only_post_svc.queue import NewTask
from shared.database import Database, Transaction
from shared.errors import Unavailable

RECOUNT_SECONDS = 1.0
COUNTING_SHARE = 20  # a full queue is counted again after so many times what the last count took
MAX_MISSED = 3  # counts in a row that are not taken
MAX_CALLERS = 10_000  # whose counts are kept
RETRY_SECONDS = 5
PER_PERSON = 10_000  # tasks that wait


class Estimate:
    """How many wait, of one caller or of all: what was counted last, and what has been let in since."""

    def __init__(self, caller: str | None, limit: int, clock: Callable[[], float]) -> None:
        self._caller = caller
        self._limit = limit
        self._clock = clock
        self._count = 0
        self._under_way = 0  # reserved, not yet written or given up
        self._counted_at = -RECOUNT_SECONDS
        self._cost_seconds = 0.0
        self._made = 0  # tasks that were stored, since this process started
        self._missed = 0  # counts in a row that were not taken
        self._counting = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        return not self._under_way and self._clock() - self._counted_at >= RECOUNT_SECONDS

    async def renew(self, database: Database, number: int) -> None:
        """Counts, before `number` more are let in, unless another request just has."""
        async with self._counting:
            if self.is_outdated(number):
                started = self._clock()
                made, counted = self._made, await database.read(partial(lookup.count_waiting, caller=self._caller))
                self._take(counted, self._made - made)
                self._cost_seconds = self._clock() - started

    def _take(self, counted: int, meanwhile: int) -> None:
        """Takes a count. Where tasks were stored meanwhile, it is not known whether the count has them: it is left out,
        unless that happens over and over, and then they are added to it."""
        if meanwhile and self._missed < MAX_MISSED:
            self._missed += 1
            return
        self._missed = 0
        self._count = counted + meanwhile
        self._counted_at = self._clock()

    def is_outdated(self, number: int) -> bool:
        age = self._clock() - self._counted_at
        return age >= RECOUNT_SECONDS or (self.is_full(number) and age >= COUNTING_SHARE * self._cost_seconds)

    @property
    def room(self) -> int:
        return max(0, self._limit - self._count - self._under_way)

    def is_full(self, number: int) -> bool:
        return number > self.room

    def refusal(self) -> Unavailable:
        whose = "tasks" if self._caller is None else "tasks of yours"
        detail = f"{self._count + self._under_way} {whose} are waiting; the limit is {self._limit}"
        return Unavailable("queue_full", detail, RETRY_SECONDS)

    def reserve(self, number: int) -> None:
        self._under_way += number

    def settle(self, number: int, made: int) -> None:
        """Ends the reservation of `number` tasks, of which `made` were stored."""
        self._under_way -= number
        self._count += made
        self._made += made


class Place:
    """Room for so many tasks, reserved until the context ends, or a refusal, which `check` raises: not before it is
    known that the request is no repetition, whose answer is the first one. `made` is set to how many tasks were
    stored."""

    def __init__(self, room: int, estimates: Iterable[Estimate] = (), refusal: Unavailable | None = None) -> None:
        self.room = room
        self._estimates = estimates
        self._refusal = refusal
        self.made = 0

    def __enter__(self) -> "Place":
        for estimate in self._estimates:
            estimate.reserve(self.room)
        return self

    def __exit__(self, *error: object) -> None:
        for estimate in self._estimates:
            estimate.settle(self.room, self.made)

    def check(self) -> None:
        """Raises 503 `queue_full`."""
        if self._refusal is not None:
            raise self._refusal


class Backlog:
    """Admits tasks up to a limit of all callers, and one of each (`per_caller` None: of people alone). It is exact
    where one process submits; of several, each may miss what the others add in a second. Tasks are counted outside the
    transactions that submit, which may be rolled back or run twice."""

    def __init__(self, limit: int, per_caller: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_caller = per_caller
        self._clock = clock
        self._of_all = Estimate(None, limit, clock)
        self._of_callers: dict[str, Estimate] = {}

    async def place(
        self, database: Database, caller: str, number: int, *, is_person: bool, least: int | None = None
    ) -> Place:
        """Room for `number` tasks; with `least`, for fewer where there is no room for all, but for no fewer than
        `least`."""
        estimates = [self._of_all, *self._of(caller, is_person=is_person)]
        for estimate in estimates:
            if estimate.is_outdated(number):
                await estimate.renew(database, number)
        least = number if least is None else least
        full = next((estimate for estimate in reversed(estimates) if estimate.is_full(least)), None)
        if full is not None:
            return Place(0, refusal=full.refusal())
        return Place(min(number, *(estimate.room for estimate in estimates)), estimates)

    def _of(self, caller: str, *, is_person: bool) -> list[Estimate]:
        limit = _limit_of(caller, self._per_caller, is_person=is_person)
        if limit is None:
            return []
        if len(self._of_callers) >= MAX_CALLERS:
            self._of_callers = {name: one for name, one in self._of_callers.items() if not one.is_idle}
        if caller not in self._of_callers:
            self._of_callers[caller] = Estimate(caller, limit, self._clock)
        return [self._of_callers[caller]]


def _limit_of(caller: str, per_caller: int | None, *, is_person: bool) -> int | None:
    """The caller's own limit, None where there is none."""
    return (per_caller or (PER_PERSON if is_person else None)) if caller else None


class Count:
    """The limits of Backlog for tasks of schedules, counted inside the transaction that makes them: they are few."""

    def __init__(self, limit: int, per_caller: int | None = None) -> None:
        self._limit = limit
        self._per_caller = per_caller
        self._counts: dict[str | None, int] = {}  # None: of all

    def admit(self, tx: Transaction, caller: str, new: NewTask) -> None:
        """Raises 503 `queue_full`."""
        limits: dict[str | None, int] = {None: self._limit}
        of_caller = _limit_of(caller, self._per_caller, is_person=new.is_person)
        if of_caller is not None:
            limits[caller] = of_caller
        for whose, limit in limits.items():
            if whose not in self._counts:
                self._counts[whose] = lookup.count_waiting(tx, whose)
            if self._counts[whose] >= limit:
                raise Unavailable("queue_full", f"the limit is {limit} tasks that wait", RETRY_SECONDS)
        for whose in limits:
            self._counts[whose] += 1
