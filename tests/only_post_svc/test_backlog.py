"""How many tasks may wait."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from only_post_svc.backlog import COUNTING_SHARE, PER_PERSON, RECOUNT_SECONDS, Backlog
from shared.errors import Unavailable


class Counted:
    """A database in which so many tasks wait; counting them takes its time."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.counted = 0
        self.clock = 0.0
        self.cost_seconds = 0.01

    async def read(self, unit: Callable[[Any], Any]) -> int:
        self.counted += 1
        self.clock += self.cost_seconds
        return self.waiting


class Submitting:
    """A backlog before that database."""

    def __init__(self, waiting: int, limit: int, per_caller: int | None = None) -> None:
        self.database = Counted(waiting)
        self.backlog = Backlog(limit, per_caller, clock=lambda: self.database.clock)

    async def submit(self, number: int, caller: str = "", *, is_person: bool = False, fails: bool = False) -> None:
        database: Any = self.database
        with await self.backlog.place(database, caller, number, is_person=is_person) as place:
            place.check()
            if fails:
                raise OSError
            place.made = number


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def refused() -> Any:
    return pytest.raises(Unavailable, match="queue_full")


def test_the_limit_itself_is_admitted_and_no_task_more() -> None:
    async def work() -> None:
        full = Submitting(7, 10)
        await full.submit(2)
        await full.submit(1)
        with refused() as caught:
            await full.submit(1)
        assert int(caught.value.headers["Retry-After"]) >= 1

    run(work())


def test_what_would_be_too_many_at_once_is_refused_and_not_counted() -> None:
    async def work() -> None:
        small = Submitting(0, 10)
        with refused():
            await small.submit(11)
        await small.submit(10)

    run(work())


def test_what_was_not_written_is_not_counted() -> None:
    async def work() -> None:
        small = Submitting(0, 10)
        with contextlib.suppress(OSError):
            await small.submit(10, fails=True)
        await small.submit(10)

    run(work())


def test_those_that_are_under_way_together_stay_within_the_limit() -> None:
    async def work() -> None:
        small = Submitting(0, 10)
        ended = await asyncio.gather(*(small.submit(1) for _ in range(20)), return_exceptions=True)
        assert sum(one is None for one in ended) == 10

    run(work())


def test_it_does_not_count_for_every_task() -> None:
    async def work() -> None:
        large = Submitting(0, 1000)
        for _ in range(100):
            await large.submit(1)
        assert large.database.counted == 1

    run(work())


def test_it_counts_again_after_a_while() -> None:
    async def work() -> None:
        shared = Submitting(0, 10)
        await shared.submit(1)
        shared.database.waiting = 10  # other processes submit too
        shared.database.clock += RECOUNT_SECONDS
        with refused():
            await shared.submit(1)

    run(work())


def test_a_full_queue_opens_as_soon_as_it_pays_to_look() -> None:
    async def work() -> None:
        full = Submitting(10, 10)
        with refused():
            await full.submit(1)
        full.database.waiting = 0
        with refused():
            await full.submit(1)  # not looked again yet
        assert full.database.counted == 1
        full.database.clock += COUNTING_SHARE * full.database.cost_seconds
        await full.submit(1)
        assert full.database.counted == 2

    run(work())


def test_one_callers_limit_is_no_other_callers() -> None:
    async def work() -> None:
        busy = Submitting(0, 100, per_caller=10)
        await busy.submit(10, "ann")
        with refused() as caught:
            await busy.submit(1, "ann")
        assert "tasks of yours" in caught.value.detail
        await busy.submit(10, "bob")
        await busy.submit(50, "")  # where no token is asked for, nobody is bound

    run(work())


@pytest.mark.parametrize("is_person", [False, True])
def test_people_are_bound_by_default_and_machines_are_not(is_person: bool) -> None:
    async def work() -> None:
        busy = Submitting(0, 100_000)
        await busy.submit(PER_PERSON, "ann", is_person=is_person)
        with refused() if is_person else contextlib.nullcontext():
            await busy.submit(1, "ann", is_person=is_person)

    run(work())
