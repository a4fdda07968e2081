"""How many of a type, and of a key, may run at once, on every engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from only_post_svc import bulk, elsewhere, gates, hints, queue, shares
from only_post_svc.bulk import Selection
from only_post_svc.elsewhere import Held
from only_post_svc.gates import Gate
from only_post_svc.queue import Claim, Ending
from only_post_svc.shares import Kind, Lane
from shared.database import Transaction
from tests.only_post_svc.store import ERROR, LOST, Store, open_store, token
from tests.shared.engines import ENGINES

START_GATE = Gate("")


class Bounded(Store):
    """Tasks of the type `a`, of which so many may run."""

    max_running: int | None = None
    max_running_per_key: int | None = 1

    def take(self, hands: int = 10) -> list[Claim]:
        """As a worker does, claim by claim."""
        claims: list[Claim] = []
        while True:
            free = hands - len(claims)
            dealt = self.do(lambda tx, free=free: self._take(tx, free))  # type: ignore[misc]
            claims += dealt.claims
            if len(claims) == hands or not (dealt.has_more or dealt.has_moved_some):
                return claims

    def _take(self, tx: Transaction, free: int) -> shares.Dealt:
        kinds = {"a": Kind(False, self.max_running, self.max_running_per_key), "b": Kind()}
        return shares.claim(tx, token(), [Lane(False, "", free)], kinds, shares.up_to(free), 30)

    def held(self, task_id: str, caller: str = "") -> str | None:
        return self.find(task_id, caller).held

    def gates(self) -> dict[tuple[str, str], int]:
        rows = self.do(lambda tx: tx.all("SELECT type, key, taken FROM gate"))
        return {(type, key): taken for type, key, taken in rows}


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bounded]:
    with open_store(request.param, tmp_path, Bounded) as store:
        yield store


def test_one_of_a_key_runs_and_the_next_is_let_in_by_its_end(store: Bounded) -> None:
    first, second, other = store.submit(key="k"), store.submit(key="k"), store.submit(key="l")
    runs = store.take()
    assert [run.id for run in runs] == [first, other]
    assert (store.held(second), store.find(second).status) == ("max_running_per_key", "held")
    store.finish(runs[0], result="1")
    assert store.held(second) is None
    assert [run.id for run in store.take()] == [second]


def test_a_task_that_is_let_in_is_told_of_whatever_let_it_in(store: Bounded) -> None:
    for caller in "abc":
        store.submit(key="k", caller=caller)
    (run,) = store.take()
    heard = store.hear(hints.QUEUED)
    store.finish(run, result="1")
    assert len(heard) == 1
    (run,) = store.take()
    gone = run.caller
    store.do(lambda tx: queue.release(tx, run, is_alone=False))
    assert store.do(lambda tx: queue.forget(tx, gone))
    assert len(heard) == 2
    (run,) = store.take()
    store.finish(run, result="1")
    assert len(heard) == 2  # there is none left to let in


def test_tasks_without_a_key_have_no_bound_of_a_key(store: Bounded) -> None:
    ids = [store.submit() for _ in range(3)]
    assert [run.id for run in store.take()] == ids
    assert store.gates() == {}


def test_so_many_of_a_type_run_whatever_their_keys(store: Bounded) -> None:
    store.max_running, store.max_running_per_key = 2, None
    ids = [store.submit(key=str(number)) for number in range(4)]
    free = store.submit("b")
    runs = store.take()
    assert [run.id for run in runs] == [*ids[:2], free]
    assert [store.held(task_id) for task_id in ids[2:]] == ["max_running"] * 2
    store.finish(runs[0], result="1")
    assert [run.id for run in store.take()] == [ids[2]]


def test_a_key_that_is_busy_takes_none_of_its_types_permits(store: Bounded) -> None:
    store.max_running = 2
    busy = [store.submit(key="k") for _ in range(3)]
    others = [store.submit(key=str(number)) for number in range(2)]
    runs = store.take()
    assert [run.id for run in runs] == [busy[0], others[0]]
    assert [store.held(one) for one in (busy[1], busy[2], others[1])] == [*["max_running_per_key"] * 2, "max_running"]
    store.finish(runs[0], result="1")
    assert [run.id for run in store.take()] == [others[1]]
    store.finish(runs[1], result="1")
    assert [run.id for run in store.take()] == [busy[1]]


ENDS: dict[str, Callable[[Bounded, Claim], bool]] = {
    "success": lambda store, run: store.finish(run, result="1"),
    "failure": lambda store, run: store.finish(run, error=ERROR, can_retry=False),
    "retry": lambda store, run: store.finish(run, error=ERROR, retry_after_seconds=60),
    "several": lambda store, run: store.do(lambda tx: queue.succeed(tx, [(run, Ending(result="1"))])) is None,
}


@pytest.mark.parametrize("end", ENDS)
def test_each_way_to_end_gives_its_permits_on(store: Bounded, end: str) -> None:
    store.max_running = 1
    first, second = store.submit(key="k"), store.submit(key="k")
    (run,) = store.take()
    assert ENDS[end](store, run)
    assert [run.id for run in store.take()] == [second]
    assert store.gates() == {("a", "k"): 1, ("a", ""): 1}
    assert run.id == first


CANCELS: dict[str, Callable[[Bounded, Claim, str], object]] = {
    "one": lambda store, run, status: store.do(lambda tx: queue.cancel(tx, run.caller, run.id)),
    "by filter": lambda store, run, status: store.do(lambda tx: bulk.cancel(tx, Selection(run.caller, status=status))),
    "with its caller": lambda store, run, status: store.do(lambda tx: queue.forget(tx, run.caller)),
}


def one_of_two(store: Bounded) -> tuple[Claim, str]:
    """A run, and the task of another caller that waits for its permit."""
    ids = {store.submit(key="k", caller=caller) for caller in ("ann", "bob")}
    (run,) = store.take()
    return run, (ids - {run.id}).pop()


@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("stopped", ["told", "its worker has died", "its worker has died, and the clock was set back"])
def test_a_cancelled_run_keeps_its_permits_until_it_has_stopped(store: Bounded, cancel: str, stopped: str) -> None:
    store.max_running = 1
    run, other = one_of_two(store)
    CANCELS[cancel](store, run, "running")
    assert store.take() == []
    assert store.gates() == {("a", "k"): 1, ("a", ""): 1}
    assert store.do(lambda tx: gates.mend(tx, START_GATE))[0] == []
    if stopped == "told":
        assert store.do(lambda tx: gates.overdue(tx, 30)) == []
    else:
        store.later(31 if stopped == "its worker has died" else -60)
        assert store.do(lambda tx: gates.overdue(tx, 30)) == [run.lease]
    assert store.do(lambda tx: gates.leave(tx, [run.lease]))
    assert [run.id for run in store.take()] == [other]
    assert not store.do(lambda tx: gates.leave(tx, [run.lease]))
    assert store.gates() == {("a", "k"): 1, ("a", ""): 1}


def test_a_task_that_is_tried_again_waits_for_its_cancelled_run(store: Bounded) -> None:
    task = store.submit(key="k")
    (run,) = store.take()
    store.do(lambda tx: queue.cancel(tx, "", task))
    assert store.do(lambda tx: queue.retry(tx, "", task))
    assert store.take() == []
    store.do(lambda tx: gates.leave(tx, [run.lease]))
    assert [run.id for run in store.take()] == [task]


def test_a_cancelled_run_that_reports_from_elsewhere_has_stopped(store: Bounded) -> None:
    first, second = store.submit(key="k"), store.submit(key="k")
    (run,) = store.take()
    store.do(lambda tx: queue.cancel(tx, "", first))
    assert store.do(lambda tx: elsewhere.finish(tx, [(Held(first, run.lease), Ending(result="1"))])) == []
    assert [run.id for run in store.take()] == [second]


@pytest.mark.parametrize("cancel", CANCELS)
def test_a_task_that_waits_gives_its_permits_on_at_once(store: Bounded, cancel: str) -> None:
    run, other = one_of_two(store)
    store.do(lambda tx: queue.release(tx, run, is_alone=False))
    CANCELS[cancel](store, run, "queued")
    assert [run.id for run in store.take()] == [other]


def test_a_lost_run_keeps_its_permits_until_it_fails(store: Bounded) -> None:
    store.submit(key="k", max_attempts=2)
    second = store.submit(key="k")
    for attempt in (1, 2):
        (run,) = store.take()
        assert run.attempt == attempt
        store.later(31)
        store.do(lambda tx: queue.recover(tx, LOST, 30))
    assert [run.id for run in store.take()] == [second]


def test_a_release_keeps_its_permits(store: Bounded) -> None:
    first = store.submit(key="k")
    store.submit(key="k")
    (run,) = store.take()
    store.do(lambda tx: queue.release(tx, run, is_alone=False))
    assert [run.id for run in store.take()] == [first]


def test_the_last_end_leaves_no_gate_behind(store: Bounded) -> None:
    store.max_running = 1
    store.submit(key="k")
    (run,) = store.take()
    store.finish(run, result="1")
    assert store.gates() == {}


def test_a_held_task_that_is_cancelled_is_never_let_in(store: Bounded) -> None:
    store.submit(key="k")
    second, third = store.submit(key="k"), store.submit(key="k")
    (run,) = store.take()
    assert store.do(lambda tx: queue.cancel(tx, "", second))
    store.finish(run, result="1")
    assert [run.id for run in store.take()] == [third]


def test_held_tasks_are_let_in_by_turns_of_their_callers_then_by_priority(store: Bounded) -> None:
    low, high = store.submit(key="k", caller="ann"), store.submit(key="k", caller="ann", priority=1)
    other = store.submit(key="k", caller="bob")
    order = []
    while runs := store.take():
        order += [run.id for run in runs]
        store.finish(runs[0], result="1")
    assert order == [high, other, low]


def test_a_bound_that_was_raised_lets_in_more(store: Bounded) -> None:
    ids = [store.submit(key="k") for _ in range(3)]
    store.take()
    store.max_running_per_key = 3
    store.do(lambda tx: gates.set_bounds(tx, {"a": (None, 3)}))
    assert store.do(lambda tx: gates.mend(tx, START_GATE)) == ([], None)
    assert [run.id for run in store.take()] == ids[1:]


def test_a_bound_that_was_lowered_lets_in_none_until_enough_have_ended(store: Bounded) -> None:
    store.max_running_per_key = 2
    ids = [store.submit(key="k") for _ in range(4)]
    runs = store.take()
    store.max_running_per_key = 1
    store.do(lambda tx: gates.set_bounds(tx, {"a": (None, 1)}))
    store.finish(runs[0], result="1")
    assert store.take() == []
    store.finish(runs[1], result="1")
    assert [run.id for run in store.take()] == [ids[2]]


def test_a_bound_that_is_gone_lets_all_in(store: Bounded) -> None:
    ids = [store.submit(key="k") for _ in range(3)]
    store.take()
    store.max_running_per_key = None
    store.do(lambda tx: gates.set_bounds(tx, {"a": (None, None)}))
    store.do(lambda tx: gates.mend(tx, START_GATE))
    assert [run.id for run in store.take()] == ids[1:]


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_wrong_count_is_found_and_mended(store: Bounded, wrong: int) -> None:
    first, second = store.submit(key="k"), store.submit(key="k")
    (run,) = store.take()
    store.do(lambda tx: tx.run("UPDATE gate SET taken = :wrong", wrong=wrong))
    assert store.do(lambda tx: gates.mend(tx, START_GATE))[0] == [Gate("a", "k")]
    assert store.gates() == {("a", "k"): 1}
    assert store.take() == []
    store.finish(run, result="1")
    assert [run.id for run in store.take()] == [second]
    assert run.id == first


def test_many_that_are_held_leave_the_claims_index_in_few_claims(store: Bounded) -> None:
    for _ in range(150):
        store.submit(key="k")
    other = store.submit(key="l")
    assert len(store.take(2)) == 2
    assert store.find(other).status == "running"
    assert store.do(lambda tx: tx.all("SELECT count(*) FROM task WHERE status = 'held'")) == [(149,)]


def test_a_task_that_takes_anothers_place_gives_its_permits_back(store: Bounded) -> None:
    first, second = store.submit(key="k"), store.submit(key="k", unique="u")
    (run,) = store.take()
    store.finish(run, result="1")  # lets in the second
    new = queue.NewTask("a", '{"n":2}', 1000, 3, key="l", unique="u", replace=True)
    task, is_existing = store.do(lambda tx: queue.submit_once(tx, "", new))
    assert (task.id, task.key, is_existing) == (second, "l", True)
    assert store.gates() == {}
    (run,) = store.take()
    assert (run.id, run.payload, run.key) == (second, '{"n":2}', "l")
    assert first != second
