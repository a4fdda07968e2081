"""The life of a task in SQL, on every engine."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from only_post_svc import bulk, checkpoints, elsewhere, health, lookup, queue, shares, webhooks
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Claim, Ending, LeaseLost, NewTask
from only_post_svc.registry import TaskType
from only_post_svc.worker import heartbeat
from shared.database import Transaction, connection
from tests.only_post_svc.store import ERROR, LOST, Store, open_store
from tests.shared.engines import ENGINES


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with open_store(request.param, tmp_path) as store:
        yield store


def test_a_new_task_is_what_was_asked_for(store: Store) -> None:
    task = store.find(store.submit("a", priority=7, max_attempts=2))
    assert (task.type, task.status, task.priority, task.attempt, task.max_attempts) == ("a", "queued", 7, 0, 2)
    assert (task.created_at, task.run_at, task.is_final) == (store.now, store.now, False)


def test_code_all_of_whose_types_run_elsewhere_has_a_lane_for_each(store: Store) -> None:
    types = [TaskType(type, "", {}, 30, 3, is_async=True, elsewhere=True) for type in "ab"]
    store.do(lambda tx: elsewhere.keep_lanes(tx, types))
    lanes = store.do(shares.own_lanes)
    assert [(lane.type, lane.is_kept) for lane in lanes] == [("a", True), ("b", True)]


@pytest.mark.parametrize(
    ("options", "status", "ahead"),
    [
        ({"delay_ms": 5000}, "scheduled", 5000),
        ({"run_at": 1_800_000_005_000}, "scheduled", 5000),
        ({"run_at": 1_800_000_000_000}, "queued", 0),
        ({"run_at": -1}, "queued", 0),
    ],
)
def test_a_task_for_later_is_scheduled(store: Store, options: Any, status: str, ahead: int) -> None:
    task = store.find(store.submit(**options))
    assert (task.status, task.run_at - store.now) == (status, ahead)


@pytest.mark.parametrize("how", ["succeed", "fail", "cancel", "cancel at once", "cancel many"])
def test_the_times_of_a_task_follow_each_other_though_clocks_differ(store: Store, how: str) -> None:
    """Each process supposes what the server's clock says."""
    made_at = store.now
    task_id = store.submit("a", caller="ann")
    store.later(-0.003)
    if how != "cancel at once":
        (run,) = store.claim()
        store.later(-0.002)
    if how == "succeed":
        store.do(lambda tx: queue.succeed(tx, [(run, Ending(result="1"))]))
    elif how == "fail":
        store.finish(run, error=ERROR, can_retry=False)
    elif how == "cancel many":
        store.do(lambda tx: bulk.cancel(tx, bulk.Selection("ann")))
    else:
        store.do(lambda tx: queue.cancel(tx, "ann", task_id))
    task = store.find(task_id, "ann")
    assert task.is_final
    assert (task.started_at, task.finished_at) == (None if how == "cancel at once" else made_at, made_at)


def test_a_task_that_is_replaced_belongs_to_the_trace_of_the_request_that_has_replaced_it(store: Store) -> None:
    task_id = store.submit(unique="u", traceparent="first")
    new = NewTask("a", "{}", 1000, 3, unique="u", replace=True, notify="http://a.example/", traceparent="second")
    store.do(lambda tx: queue.submit_once(tx, "", new))
    assert [(run.id, run.traceparent) for run in store.claim()] == [(task_id, "second")]
    assert store.do(lambda tx: webhooks.find(tx, [task_id]))[task_id].traceparent == "second"


def test_a_task_is_found_by_its_own_caller_only(store: Store) -> None:
    task_id = store.submit(caller="ann")
    assert store.find(task_id, "ann").id == task_id
    assert store.do(lambda tx: lookup.find(tx, "bob", task_id)) is None


def test_a_claim_takes_the_highest_priority_then_the_longest_waiting(store: Store) -> None:
    first, later = store.submit(), store.submit(priority=-1)
    store.later(1)
    second, urgent = store.submit(), store.submit(priority=1)
    assert [run.id for run in store.claim()] == [urgent, first, second, later]


def test_a_claim_of_one_takes_the_highest_priority(store: Store) -> None:
    store.submit()
    urgent = store.submit(priority=1)
    assert [run.id for run in store.claim(a=1)] == [urgent]


def test_priority_goes_before_time_across_types_too(store: Store) -> None:
    low, first = store.submit("a", priority=-1), store.submit("b")
    store.later(1)
    urgent, last = store.submit("b", priority=1), store.submit("a")
    claims = store.claim(a=5, b=5)
    assert [run.id for run in claims] == [urgent, first, last, low]


def test_a_claim_takes_as_many_of_a_type_as_it_may(store: Store) -> None:
    for _ in range(5):
        store.submit("a")
        store.submit("b")
    claims = store.claim(a=2, b=3)
    assert sorted(run.type for run in claims) == ["a", "a", "b", "b", "b"]


def test_types_that_nobody_here_knows_are_left_alone(store: Store) -> None:
    strange = store.submit("strange", priority=100)
    known = store.submit("a")
    assert [run.id for run in store.claim(a=10)] == [known]
    assert store.find(strange).status == "queued"


def test_a_claim_takes_only_what_fits(store: Store) -> None:
    big, small = store.submit("big", priority=1), store.submit("small")
    claims = store.claim(big=0, small=5)
    assert [run.id for run in claims] == [small]
    assert store.find(big).status == "queued"


def test_a_claim_counts_the_attempt_and_gives_a_lease_of_its_own(store: Store) -> None:
    for _ in range(3):
        store.submit(payload='{"n": 1}')
    claims = store.claim()
    assert len({run.lease for run in claims}) == 3
    assert {(run.attempt, run.payload) for run in claims} == {(1, '{"n": 1}')}
    task = store.find(claims[0].id)
    assert (task.status, task.attempt, task.started_at) == ("running", 1, store.now)


def test_what_is_running_scheduled_or_over_is_not_claimed(store: Store) -> None:
    store.submit(delay_ms=1000)
    cancelled = store.submit()
    store.do(lambda tx: queue.cancel(tx, "", cancelled))
    store.submit()
    (run,) = store.claim()
    assert store.claim() == []
    store.finish(run, result="1")
    assert store.claim() == []


def lose(store: Store, run: Claim) -> None:
    """The run's lease is over, and somebody else holds the task."""
    store.later(31)
    assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == [run.id]
    (again,) = store.claim(alone=1)
    assert (again.id, again.attempt) == (run.id, 2)


def row_of(store: Store, task_id: str) -> Any:
    """All of it, with the lease of its holder."""
    return store.do(lambda tx: tx.one("SELECT * FROM task WHERE id = :id", id=task_id))


WRITES: dict[str, Callable[[Transaction, Claim], bool]] = {
    "finish": lambda tx, run: queue.finish(tx, run, Ending(result="1")),
    "fail": lambda tx, run: queue.finish(tx, run, Ending(error=ERROR, can_retry=False)),
    "try again": lambda tx, run: queue.finish(tx, run, Ending(error=ERROR)),
    "renew": lambda tx, run: queue.renew(tx, [run], 30) == [],
    "report": lambda tx, run: queue.report(tx, run, "{}"),
    "release": lambda tx, run: queue.release(tx, run, is_alone=False),
    "lost": lambda tx, run: queue.lost(tx, [run]) == [],
}


@pytest.mark.parametrize("write", WRITES)
def test_who_holds_the_lease_may_write(store: Store, write: str) -> None:
    run = store.run()
    assert store.do(lambda tx: WRITES[write](tx, run)) is True


@pytest.mark.parametrize("write", WRITES)
def test_a_run_that_lost_its_lease_writes_nothing(store: Store, write: str) -> None:
    run = store.run()
    lose(store, run)
    before = row_of(store, run.id)
    store.later(1)
    assert store.do(lambda tx: WRITES[write](tx, run)) is False
    assert row_of(store, run.id) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_cancelled_run_writes_nothing(store: Store, write: str) -> None:
    run = store.run()
    assert store.do(lambda tx: queue.cancel(tx, "", run.id))
    before = store.find(run.id)
    assert store.do(lambda tx: WRITES[write](tx, run)) is False
    assert store.find(run.id) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_run_that_has_ended_does_not_end_twice(store: Store, write: str) -> None:
    run = store.run()
    store.finish(run, result="1")
    before = store.find(run.id)
    store.later(1)
    assert store.do(lambda tx: WRITES[write](tx, run)) is False
    assert store.find(run.id) == before


def test_a_success_has_its_result(store: Store) -> None:
    run = store.run()
    store.later(2)
    assert store.finish(run, result='{"n":1}', progress='{"fraction":1.0}')
    task = store.find(run.id)
    assert (task.status, task.result, task.error, task.finished_at) == ("succeeded", '{"n":1}', None, store.now)
    assert task.progress == '{"fraction":1.0}'


def three_runs(store: Store) -> list[Claim]:
    for _ in range(3):
        store.submit()
    return store.claim()


def test_runs_that_have_succeeded_are_stored_together(store: Store) -> None:
    runs = three_runs(store)
    store.later(2)
    endings = [Ending(result="1"), Ending(result="[2]", progress='{"fraction":1.0}'), Ending(result='"3"')]
    store.do(lambda tx: queue.succeed(tx, list(zip(runs, endings, strict=True))))
    for run, ending in zip(runs, endings, strict=True):
        task = store.find(run.id)
        assert (task.status, task.result, task.error, task.finished_at) == ("succeeded", ending.result, None, store.now)
        assert task.progress == ending.progress
        assert store.finish(run, result="4") is False


@pytest.mark.parametrize("is_twice", [False, True])
def test_of_runs_that_have_succeeded_none_is_stored_when_one_lost_its_lease(store: Store, is_twice: bool) -> None:
    runs = three_runs(store)
    store.do(lambda tx: queue.cancel(tx, "", runs[1].id))
    if is_twice:  # its successor is among them
        store.do(lambda tx: queue.retry(tx, "", runs[1].id))
        runs += store.claim()
    before = [store.find(run.id) for run in runs]
    with pytest.raises(LeaseLost):
        store.do(lambda tx: queue.succeed(tx, [(run, Ending(result="1", progress="{}")) for run in runs]))
    assert [store.find(run.id) for run in runs] == before


def test_a_failure_waits_for_its_next_attempt(store: Store) -> None:
    run = store.run()
    store.finish(run, error=ERROR, retry_after_seconds=5)
    task = store.find(run.id)
    assert (task.status, task.error, task.run_at, task.attempt) == ("scheduled", ERROR, store.now + 5000, 1)


def test_the_last_attempt_fails_for_good(store: Store) -> None:
    run = store.run(max_attempts=1)
    store.finish(run, error=ERROR)
    task = store.find(run.id)
    assert (task.status, task.error, task.finished_at, task.attempt) == ("failed", ERROR, store.now, 1)


def test_what_must_not_be_retried_fails_at_once(store: Store) -> None:
    run = store.run(max_attempts=3)
    store.finish(run, error=ERROR, can_retry=False)
    assert store.find(run.id).status == "failed"


def test_a_release_costs_no_attempt(store: Store) -> None:
    run = store.run()
    store.do(lambda tx: queue.release(tx, run, is_alone=True))
    task = store.find(run.id)
    assert (task.status, task.attempt, task.started_at) == ("queued", 0, None)
    (again,) = store.claim(alone=1)
    assert (again.attempt, again.is_alone) == (1, 1)


def test_a_lease_that_is_renewed_is_not_recovered(store: Store) -> None:
    run = store.run()
    for _ in range(3):
        store.later(20)
        assert store.do(lambda tx: queue.renew(tx, [run], 30)) == []
        assert not store.do(lambda tx: queue.look(tx, 30).has_expired_leases)
        assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == []
    assert store.find(run.id).status == "running"


def test_a_lease_that_is_over_puts_its_task_back_with_the_attempt_counted(store: Store) -> None:
    run = store.run()
    store.later(30)
    assert store.do(lambda tx: queue.look(tx, 30).has_expired_leases)
    assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == [run.id]
    task = store.find(run.id)
    assert (task.status, task.attempt, task.error) == ("queued", 1, LOST)


def test_a_lost_last_attempt_fails(store: Store) -> None:
    run = store.run(max_attempts=1)
    store.later(31)
    store.do(lambda tx: queue.recover(tx, LOST, 30))
    task = store.find(run.id)
    assert (task.status, task.attempt, task.error, task.finished_at) == ("failed", 1, LOST, store.now)


def test_a_lease_from_before_the_clock_was_set_back_ends_like_a_new_one(store: Store) -> None:
    run = store.run()
    store.later(-365 * 86400)
    assert store.do(lambda tx: queue.look(tx, 30).has_expired_leases)
    assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == []
    store.later(31)
    assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == [run.id]


def test_only_so_many_are_recovered_in_one_transaction(store: Store) -> None:
    new = NewTask("a", "{}", 1000, 3)
    store.do(lambda tx: [queue.submit(tx, "", new) for _ in range(queue.MAX_SWEPT + 7)])
    store.claim(a=queue.MAX_SWEPT + 7)
    store.later(31)
    assert len(store.do(lambda tx: queue.recover(tx, LOST, 30))) == queue.MAX_SWEPT
    assert len(store.do(lambda tx: queue.recover(tx, LOST, 30))) == 7


def test_what_is_due_is_queued(store: Store) -> None:
    soon, late = store.submit(delay_ms=1000), store.submit(delay_ms=5000)
    assert store.do(queue.seconds_to_next_due) == 1.0
    assert store.do(queue.promote) == 0
    store.later(1)
    assert store.do(queue.promote) == 1
    assert (store.find(soon).status, store.find(late).status) == ("queued", "scheduled")
    assert store.do(queue.seconds_to_next_due) == 4.0


def test_only_so_many_are_queued_in_one_transaction(store: Store) -> None:
    new = NewTask("a", "{}", 1000, 3, delay_ms=1000)
    store.do(lambda tx: [queue.submit(tx, "", new) for _ in range(queue.MAX_SWEPT + 7)])
    store.later(1)
    assert [store.do(queue.promote) for _ in range(3)] == [queue.MAX_SWEPT, 7, 0]


def test_an_empty_schedule_has_no_next(store: Store) -> None:
    store.submit()
    assert store.do(queue.seconds_to_next_due) is None


@pytest.mark.parametrize("delay_ms", [0, 5000])
def test_a_waiting_task_is_cancelled_by_its_own_caller_only(store: Store, delay_ms: int) -> None:
    task_id = store.submit(caller="ann", delay_ms=delay_ms)
    assert not store.do(lambda tx: queue.cancel(tx, "bob", task_id))
    assert store.do(lambda tx: queue.cancel(tx, "ann", task_id))
    assert not store.do(lambda tx: queue.cancel(tx, "ann", task_id))
    task = store.find(task_id, "ann")
    assert (task.status, task.finished_at) == ("cancelled", store.now)


@pytest.mark.parametrize("ending", [{"result": "1"}, {"error": ERROR, "can_retry": False}])
def test_what_has_ended_is_not_cancelled(store: Store, ending: Any) -> None:
    run = store.run()
    store.finish(run, **ending)
    before = store.find(run.id)
    assert not store.do(lambda tx: queue.cancel(tx, "", run.id))
    assert store.find(run.id) == before


def test_a_failed_task_starts_afresh(store: Store) -> None:
    run = store.run()
    store.finish(run, error=ERROR, can_retry=False, progress="{}")
    store.later(60)
    assert not store.do(lambda tx: queue.retry(tx, "bob", run.id))
    assert store.do(lambda tx: queue.retry(tx, "", run.id))
    task = store.find(run.id)
    assert (task.status, task.attempt, task.run_at, task.created_at) == ("queued", 0, store.now, store.now - 60_000)
    assert (task.started_at, task.finished_at, task.progress, task.error) == (None, None, None, None)


def test_only_what_failed_or_was_cancelled_is_tried_again(store: Store) -> None:
    queued, run, over = store.submit(), store.run(), store.run()
    store.finish(over, result="1")
    for task_id in (queued, run.id, over.id):
        before = store.find(task_id)
        assert not store.do(lambda tx, task_id=task_id: queue.retry(tx, "", task_id))  # type: ignore[misc]
        assert store.find(task_id) == before


def test_only_what_ended_long_ago_is_deleted_with_all_that_it_left(store: Store) -> None:
    old, failed, waiting = store.run(), store.run(), store.submit()
    store.finish(old, result="1")
    store.finish(failed, error=ERROR)  # waits for its next attempt
    store.later(100)
    young = store.run()
    store.finish(young, result="2")
    assert store.do(lambda tx: queue.prune(tx, 100)) == 0
    store.later(1)
    assert store.do(lambda tx: queue.prune(tx, 100)) == 1
    assert store.do(lambda tx: lookup.find(tx, "", old.id)) is None
    assert {store.find(one).status for one in (failed.id, waiting, young.id)} == {"scheduled", "queued", "succeeded"}
    for table in ("task_payload", "task_result"):
        assert store.do(lambda tx, table=table: tx.one(f"SELECT 1 FROM {table} WHERE task_id = :id", id=old.id)) is None  # type: ignore[misc]


def test_waiting_tasks_are_counted(store: Store) -> None:
    store.submit()
    store.submit()
    store.submit(delay_ms=1000)
    store.run()
    assert store.do(lookup.count_waiting) == 3


def test_the_condition_says_how_it_all_goes(store: Store) -> None:
    store.run()
    store.submit()
    store.later(9)
    store.submit()
    store.submit(delay_ms=1)
    condition = store.do(health.condition)
    assert (condition.queued, condition.scheduled, condition.running) == (2, 1, 1)
    assert condition.now - (condition.oldest_queued_at or 0) == 9000


def beat(store: Store, worker: str, *, has_claimed: bool) -> None:
    says = heartbeat.Beat(worker, host="h", pid=1, processes=2, running=0, counts="[]")
    store.do(lambda tx: heartbeat.beat(tx, says, has_claimed=has_claimed))


def test_a_worker_remembers_its_last_claim_until_it_signs_off(store: Store) -> None:
    beat(store, "w", has_claimed=True)
    claimed_at = store.now
    store.later(5)
    beat(store, "w", has_claimed=False)
    (row,) = store.do(health.condition).workers
    assert (row["claimed_at"], row["seen_at"], row["started_at"]) == (claimed_at, store.now, claimed_at)
    store.do(lambda tx: heartbeat.sign_off(tx, "w"))
    assert store.do(health.condition).workers == []


def test_a_worker_that_is_silent_is_forgotten(store: Store) -> None:
    beat(store, "silent", has_claimed=False)
    store.later(heartbeat.WORKER_LIFE_SECONDS + 1)
    beat(store, "alive", has_claimed=False)
    assert [row["id"] for row in store.do(health.condition).workers] == ["alive"]


def test_nothing_is_left_of_the_tasks_of_a_caller_who_is_gone(store: Store) -> None:
    run, running = store.run(caller="ann"), store.run(caller="ann")
    store.finish(run, error=ERROR, can_retry=False)
    store.do(lambda tx: checkpoints.save(tx, running.id, running.lease, "1"))
    while store.do(lambda tx: queue.forget(tx, "ann")):
        pass
    tables = ("task", "task_payload", "task_result", "task_failure", "task_checkpoint")
    left = {table: store.do(partial(Transaction.all, sql=f"SELECT * FROM {table}")) for table in tables}
    assert not any(left.values()), left


def test_a_cancel_by_filter_leaves_alone_what_has_begun_to_run_meanwhile(tmp_path: Path) -> None:
    """On SQLite one writes at a time."""

    async def work(url: str) -> tuple[list[str], str]:
        database = await connection.connect(url, {"only_post": SCHEMA})
        task = await database.write(lambda tx: queue.submit(tx, "", NewTask("a", "{}", 1000, 3)))
        with psycopg.connect(url) as other:
            other.execute("UPDATE task SET status = 'running', lease = 'l', lease_until = 1 WHERE id = %s", [task.id])
            asyncio.get_running_loop().call_later(0.2, other.commit)
            cancelled = await database.write(lambda tx: bulk.cancel(tx, bulk.Selection("", status="queued")))
        found = await database.read(lambda tx: lookup.find(tx, "", task.id))
        await database.close()
        assert found is not None
        return cancelled, found.status

    with ENGINES["postgres"](tmp_path) as engine:
        assert asyncio.run(work(engine.url)) == ([], "running")
