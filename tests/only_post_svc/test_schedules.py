"""Schedules: one task a tick, whatever the clock and the workers do."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from only_post_svc import lookup, queue, schedules
from only_post_svc.backlog import Count
from only_post_svc.main import SCHEMA
from only_post_svc.queue import NewTask
from only_post_svc.recurrence import Recurrence
from only_post_svc.registry import TaskType
from only_post_svc.schedules import MAX_PER_CALLER, NewSchedule, ScheduleRow
from only_post_svc.worker import heartbeat
from only_post_svc.worker.heartbeat import Beat
from shared.database import Transaction
from shared.errors import Conflict, Unavailable
from tests.only_post_svc.store import Store
from tests.shared.engines import ENGINES
from tests.transactions import START, opened

DAY = 86_400_000
TASK = NewTask(type="a", payload='{"n": 1.0}', timeout_ms=1000, max_attempts=3, priority=5)


def admit(tx: Transaction, caller: str, new: NewTask) -> None:
    """There is room for all."""


def refuse(tx: Transaction, caller: str, new: NewTask) -> None:
    raise Unavailable("queue_full", "")


class Ticking(Store):
    """`since` is from when on the worker has been watching: by default it is new each time."""

    def save(self, name: str = "s", caller: str = "", overlap: bool = False, **recurrence: Any) -> ScheduleRow:
        new = NewSchedule(name, Recurrence(**(recurrence or {"every_ms": 1000})), TASK, overlap=overlap)
        return self.do(lambda tx: schedules.save(tx, caller, new))[0]

    def tick(self, declared: list[NewSchedule] = [], since: int | None = None, admits: Any = admit) -> list[int]:  # noqa: B006
        """The times of the ticks that made tasks."""
        made = self.do(lambda tx: schedules.tick(tx, declared, since, admits))
        runs = self.do(lambda tx: tx.all("SELECT run_at FROM task ORDER BY id DESC LIMIT :n", n=len(made)))
        return sorted(run_at - START for (run_at,) in runs)

    def one(self, name: str = "s", caller: str = "", in_code: int = 0) -> ScheduleRow:
        found = self.do(lambda tx: schedules.find(tx, caller, name, in_code=in_code))
        assert found is not None
        return found

    def in_code(self) -> list[str]:
        rows = self.do(lambda tx: schedules.page(tx, "", ("", 0), 100))
        return [row.name for row in rows if row.in_code]

    def declare(self, mine: list[NewSchedule], *, is_start: bool = True) -> bool:
        return self.do(lambda tx: schedules.declare(tx, mine, is_start=is_start))

    def beat(self, worker_id: str, declared: list[NewSchedule]) -> None:
        marks = json.dumps([one.mark for one in declared])
        self.do(lambda tx: heartbeat.beat(tx, Beat(worker_id, "host", 1, 1, 0, "[]", marks), has_claimed=False))


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ticking]:
    with opened(Ticking, request.param, tmp_path, {"only_post": SCHEMA}) as store:
        yield store


def test_a_tick_makes_one_task_at_its_time(store: Ticking) -> None:
    store.save()
    assert store.tick() == []
    store.later(1.2)
    assert store.tick() == [1000]
    assert store.tick() == []
    (run,) = store.claim()
    assert (run.payload, run.timeout_ms, run.max_attempts) == ('{"n": 1.0}', 1000, 3)
    task = store.find(run.id)
    assert (task.run_at, task.created_at, task.priority) == (START + 1000, store.now, 5)
    assert (store.one().last_task_id, store.one().next_run_at) == (run.id, START + 2000)


def test_it_is_the_caller_who_owns_what_a_tick_makes(store: Ticking) -> None:
    store.save(caller="ann")
    store.later(1)
    store.tick()
    last = store.one(caller="ann").last_task_id or ""
    assert store.find(last, "ann").id == last
    assert store.do(lambda tx: lookup.find(tx, "", last)) is None


def test_a_night_that_was_slept_through_is_made_up_for_by_one(store: Ticking) -> None:
    store.save(every_ms=60_000)
    store.save("early", cron="* * * * *", timezone="Europe/Zurich")
    store.later(8 * 3600 + 30)
    assert len(store.tick()) == 2
    assert store.tick() == []
    assert store.one().next_run_at == START + 8 * 3_600_000 + 60_000


def test_ticks_that_are_only_late_are_made_each(store: Ticking) -> None:
    store.save(overlap=True)
    store.later(3.5)
    assert store.tick(since=START) == [1000, 2000, 3000]
    assert store.tick(since=START) == []


def test_without_overlap_a_tick_waits_for_the_task_before(store: Ticking) -> None:
    store.save()
    store.later(1)
    store.tick()
    (run,) = store.claim()
    store.later(2)
    assert store.tick(since=START) == []
    assert (store.one().skipped, store.one().last_task_id) == (2, run.id)
    store.finish(run, result="1")
    store.later(1)
    assert store.tick() == [4000]


def test_with_overlap_it_does_not(store: Ticking) -> None:
    store.save(overlap=True)
    for second in (1000, 2000):
        store.later(1)
        assert store.tick() == [second]
    assert store.one().skipped == 0


def test_a_full_queue_skips_the_tick(store: Ticking) -> None:
    store.save()
    store.later(1)
    assert store.tick(admits=refuse) == []
    assert (store.one().skipped, store.one().next_run_at) == (1, START + 2000)


def test_the_bound_of_what_waits_is_each_callers_own(store: Ticking) -> None:
    store.save(caller="ann", overlap=True)
    store.save(caller="bob", overlap=True)
    store.do(lambda tx: queue.submit(tx, "ann", TASK))
    store.later(1)
    assert store.tick(admits=Count(10, per_caller=1).admit) == [1000]
    assert [store.one(caller=caller).skipped for caller in ("ann", "bob")] == [1, 0]


def test_the_tasks_of_a_persons_schedule_are_a_persons(store: Ticking) -> None:
    person = NewSchedule("s", Recurrence(every_ms=1000), TASK._replace(is_person=True))
    store.do(lambda tx: schedules.save(tx, "ann", person))
    store.save(caller="machine")
    store.later(1)
    store.tick()
    owners: dict[str, int] = dict(store.do(lambda tx: tx.all("SELECT caller, is_person FROM task")))
    assert owners == {"ann": 1, "machine": 0}


def test_a_clock_that_is_set_back_repeats_no_tick(store: Ticking) -> None:
    store.save(overlap=True, cron="* * * * *")
    store.save("interval", every_ms=1000, overlap=True)
    store.later(60)
    assert len(store.tick()) == 2
    store.later(-3600)
    store.do(schedules.clamp)
    assert store.tick() == []
    store.later(1)
    assert store.tick() == [60_000 - 3_600_000 + 1000]  # the interval goes on, the expression waits
    store.later(3600 + 59)
    assert [at for at in store.tick() if at % 60_000 == 0] == [120_000]


def test_to_say_it_again_keeps_the_next_tick(store: Ticking) -> None:
    first = store.save()
    store.later(0.7)
    assert store.save().next_run_at == first.next_run_at
    assert store.save(every_ms=5000).next_run_at == store.now + 5000
    assert store.one().created_at == first.created_at


def test_a_schedule_that_was_taken_back_ticks_no_more(store: Ticking) -> None:
    store.save()
    assert store.do(lambda tx: schedules.remove(tx, "other", "s")) is None
    assert store.do(lambda tx: schedules.remove(tx, "", "s")) is not None
    store.later(2)
    assert store.tick() == []


def test_the_number_of_a_callers_schedules_is_bounded(store: Ticking) -> None:
    def fill(tx: Transaction, start: int) -> None:
        for number in range(start, start + 100):
            schedules.save(tx, "ann", NewSchedule(f"s{number}", Recurrence(every_ms=1000), TASK))

    for start in range(0, MAX_PER_CALLER, 100):
        store.do(partial(fill, start=start))
    store.save("s7", caller="ann")
    store.save(caller="bob")
    with pytest.raises(Conflict):
        store.save("one.more", caller="ann")


def test_the_next_due_is_the_next_of_tasks_and_schedules(store: Ticking) -> None:
    assert store.do(queue.seconds_to_next_due) is None
    store.save(every_ms=3000)
    assert store.do(queue.seconds_to_next_due) == 3.0
    store.submit(delay_ms=2000)
    assert store.do(queue.seconds_to_next_due) == 2.0
    assert store.do(lambda tx: queue.look(tx, 30).seconds_to_next_due) == 2.0


def in_code(name: str, **options: Any) -> NewSchedule:
    given = {"cron": None, "every": 1.0, **options}
    (declared,) = schedules.declared([TaskType(name, "", {}, 30, 3, is_async=False, **given)])
    return declared


def test_a_schedule_in_code_ticks_for_no_caller(store: Ticking) -> None:
    one = in_code("tidy")
    assert store.declare([one])
    assert store.declare([one], is_start=False)
    store.later(1)
    assert store.tick([one]) == [1000]
    (run,) = store.claim(tidy=1)
    assert (run.payload, run.timeout_ms) == ("{}", 30_000)


def test_it_goes_when_the_code_no_longer_says_so(store: Ticking) -> None:
    store.save()
    store.declare([in_code("tidy"), in_code("stays")])
    store.declare([in_code("stays")])
    assert store.in_code() == ["stays"]
    assert not store.declare([])
    assert (store.in_code(), store.one().name) == ([], "s")


def test_of_two_versions_each_keeps_alive_what_it_declares(store: Ticking) -> None:
    old, new = [in_code("dropped"), in_code("changed")], [in_code("changed", every=5.0), in_code("added")]
    store.declare(old)
    store.beat("old", old)
    assert store.declare(new)
    store.beat("new", new)
    assert store.in_code() == ["added", "changed", "dropped"]
    assert store.one("changed", in_code=1).every_ms == 5000

    store.declare(old)  # the old one is started again, and takes itself for the newest
    assert store.one("changed", in_code=1).every_ms == 1000
    assert store.in_code() == ["added", "changed", "dropped"]

    store.do(lambda tx: heartbeat.sign_off(tx, "old"))
    store.declare(new, is_start=False)
    assert store.in_code() == ["added", "changed"]
    assert store.one("changed", in_code=1).every_ms == 5000


def test_what_no_living_worker_declares_makes_no_task(store: Ticking) -> None:
    old = [in_code("dropped")]
    store.declare(old)
    store.beat("old", old)
    store.later(1)
    assert store.tick([]) == [1000]  # the other worker is alive: its tick can be made by any
    store.later(70)
    assert store.tick([]) == []
    assert store.in_code() == []


def test_a_night_of_all_workers_leaves_the_schedules_of_the_code(store: Ticking) -> None:
    mine = [in_code("tidy", every=None, cron="0 3 * * *", timezone="Europe/Zurich")]
    store.declare(mine)
    before = store.one("tidy", in_code=1)
    store.later(3 * DAY / 1000)
    assert store.declare(mine)
    assert store.one("tidy", in_code=1) == before
    assert store.tick(mine) == [before.next_run_at - START]


def test_a_change_of_the_code_starts_the_interval_anew_and_keeps_the_last_task(store: Ticking) -> None:
    store.declare([in_code("tidy")])
    store.later(1)
    store.tick([in_code("tidy")])
    store.declare([in_code("tidy", every=10.0)])
    row = store.one("tidy", in_code=1)
    assert (row.every_ms, row.next_run_at) == (10_000, store.now + 10_000)
    assert row.last_task_id is not None


def test_a_schedule_of_another_version_keeps_what_this_one_knows(store: Ticking) -> None:
    store.save()
    stored = json.loads(store.one().task) | {"yet_to_come": 1}
    store.do(lambda tx: tx.run("UPDATE schedule SET task = :task", task=json.dumps(stored)))
    store.later(1)
    assert store.tick() == [1000]


def test_an_operator_runs_one_beside_its_ticks(store: Ticking) -> None:
    row = store.save()
    task = store.do(lambda tx: schedules.run_now(tx, row))
    assert (task.run_at, store.one()) == (store.now, row)


def test_a_claim_serves_what_a_tick_made(store: Ticking) -> None:
    store.save()
    store.later(1)
    store.tick()
    claims = store.claim(a=1)
    assert len(claims) == 1
