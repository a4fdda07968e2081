"""Bounds, keys, uniqueness and pauses through histories that nobody thought of: no bound is ever passed, no permit gets
lost, and no task is held for ever."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from only_post_svc import bulk, gates, lookup, queue, shares
from only_post_svc.bulk import Selection
from only_post_svc.gates import Gate
from only_post_svc.queue import Claim, NewTask
from only_post_svc.shares import Dealt, Kind, Lane
from shared.database import Transaction
from tests.histories import live_through
from tests.only_post_svc.store import ERROR, LOST, Store, open_store, token
from tests.only_post_svc.test_histories import empty
from tests.shared.engines import ENGINES
from tests.transactions import START

LEASE_SECONDS = 30
KINDS = {"free": Kind(), "keyed": Kind(False, None, 1), "few": Kind(False, 2, None), "both": Kind(False, 2, 1)}
TYPES = st.sampled_from(sorted(KINDS))
CALLERS = st.sampled_from(["ann", "bob", "cy"])
KEYS = st.sampled_from([None, "k", "l"])
UNIQUES = st.sampled_from([None, None, "u"])

BOUNDED = """
SELECT type, key, permits FROM task WHERE permits > 0 AND finished_at IS NULL
UNION ALL SELECT type, key, permits FROM stopping
"""
RUNNING = "SELECT type, key FROM task WHERE status = 'running' UNION ALL SELECT type, key FROM stopping"
HELD = "SELECT type, gate FROM task WHERE status = 'held'"
SAME = "SELECT caller, type, unique_key FROM task WHERE unique_key IS NOT NULL AND finished_at IS NULL"


class Seen(NamedTuple):
    running: list[Any]
    bounded: list[Any]
    held: list[Gate]
    unfinished_uniques: list[Any]
    mended: list[Any]
    taken: dict[Gate, int]


def look(tx: Transaction) -> Seen:
    """In one transaction: there is one after every step."""
    taken = {Gate(type, key): count for type, key, count in tx.all("SELECT type, key, taken FROM gate")}
    running, bounded, held, uniques = (tx.all(sql) for sql in (RUNNING, BOUNDED, HELD, SAME))
    return Seen(running, bounded, [Gate(*row) for row in held], uniques, gates.mend(tx, Gate(""))[0], taken)


def most_of(gate: Gate) -> int:
    kind = KINDS[gate.type]
    return (kind.max_running_per_key if gate.key else kind.max_running) or 0


def no_bound_is_passed(seen: Seen) -> None:
    assert {gate: taken for gate, taken in seen.taken.items() if taken > most_of(gate)} == {}
    of_types = Counter(type for type, _ in seen.running)
    of_keys = Counter((type, key) for type, key in seen.running if key)
    assert all(count <= (KINDS[type].max_running or count) for type, count in of_types.items()), seen
    assert all(count <= (KINDS[type].max_running_per_key or count) for (type, _), count in of_keys.items()), seen


def every_permit_is_counted(seen: Seen) -> None:
    assert seen.mended == []
    given = Counter(gate for row in seen.bounded for gate in gates.Permits(*row).gates())
    assert seen.taken == dict(given)


def nothing_is_held_at_an_open_gate(seen: Seen) -> None:
    assert {gate for gate in seen.held if seen.taken[gate] != most_of(gate)} == set()


class Bounds(RuleBasedStateMachine):
    ids = Bundle("ids")
    runs = Bundle("runs")
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.now = START
        self.store.do(empty)
        self.store.do(lambda tx: [tx.run(f"DELETE FROM {table}") for table in ("lane", "gate", "stopping")])
        self.served = ""
        self.claimed = 0

    @initialize(target=runs, hands=st.integers(1, 6), key=KEYS)
    def begin(self, hands: int, key: str | None) -> Any:
        """More tasks than may run: Hypothesis leaves rules out of a history, and most lack one of the two it takes."""
        for type in KINDS:
            self.submit("ann", 4, type=type, key=key, unique=None, replace=False, delay_ms=0)
        return multiple(*self._claim(hands, set(KINDS)))

    @rule(
        target=ids,
        caller=CALLERS,
        type=TYPES,
        key=KEYS,
        unique=UNIQUES,
        replace=st.booleans(),
        delay_ms=st.sampled_from([0, 0, 0, 1000]),
        count=st.integers(1, 4),
    )
    def submit(self, caller: str, count: int, **options: Any) -> Any:
        new = NewTask(payload="{}", timeout_ms=1000, max_attempts=2, **options)
        tasks = self.store.do(lambda tx: [queue.submit_once(tx, caller, new)[0] for _ in range(count)])
        return multiple(*((caller, task.id) for task in tasks))

    @rule(target=runs, hands=st.integers(1, 6), types=st.sets(TYPES, min_size=3))
    def claim(self, hands: int, types: set[str]) -> Any:
        return multiple(*self._claim(hands, types))

    def _claim(self, hands: int, types: set[str]) -> list[Claim]:
        claims: list[Claim] = []
        while len(claims) < hands:
            free = hands - len(claims)
            dealt = self.store.do(lambda tx, free=free: self._claim_some(tx, free, types))  # type: ignore[misc]
            claims += dealt.claims
            self.served = dealt.last
            if not (dealt.has_moved_some or dealt.has_more):
                break
        return claims

    def _claim_some(self, tx: Transaction, free: int, types: set[str]) -> Dealt:
        paused = shares.paused(tx)
        kinds = {type: kind for type, kind in KINDS.items() if type in types and type not in paused}
        own = [lane.type for lane in shares.own_lanes(tx) if lane.type in kinds]
        lanes = [Lane(is_alone, name, free) for name in ("", *own) for is_alone in (False, True)]
        return shares.claim(tx, token(), lanes, kinds, shares.up_to(free), LEASE_SECONDS, after=self.served)

    @rule(run=runs)
    def succeed(self, run: Claim) -> None:
        self.store.finish(run, result="1")

    @rule(run=runs, can_retry=st.booleans())
    def fail(self, run: Claim, can_retry: bool) -> None:
        self.store.finish(run, error=ERROR, can_retry=can_retry, retry_after_seconds=1)

    @rule(run=runs, is_alone=st.booleans())
    def release(self, run: Claim, is_alone: bool) -> None:
        self.store.do(lambda tx: queue.release(tx, run, is_alone=is_alone))

    @rule(run=runs)
    def stop(self, run: Claim) -> None:
        """Of a run that was cancelled, the code has ended."""
        self.store.do(lambda tx: gates.leave(tx, [run.lease]))

    @rule(one=ids)
    def cancel(self, one: tuple[str, str]) -> None:
        self.store.do(lambda tx: queue.cancel(tx, *one))

    @rule(one=ids)
    def retry(self, one: tuple[str, str]) -> None:
        self.store.do(lambda tx: queue.retry(tx, *one))

    @rule(caller=CALLERS, type=TYPES, key=KEYS, status=st.sampled_from([None, "queued", "running"]))
    def cancel_some(self, caller: str, type: str, key: str | None, status: str | None) -> None:
        self.store.do(lambda tx: bulk.cancel(tx, Selection(caller, type, status, key)))

    @rule(caller=CALLERS)
    def retry_some(self, caller: str) -> None:
        self.store.do(lambda tx: bulk.retry(tx, Selection(caller), ""))

    @rule(type=TYPES, is_paused=st.sampled_from([False, False, False, True]))
    def pause_or_resume(self, type: str, is_paused: bool) -> None:
        self.store.do(lambda tx: (shares.pause if is_paused else shares.resume)(tx, type))

    @rule(seconds=st.sampled_from([1, 31]))
    def time_goes_on(self, seconds: int) -> None:
        self.store.later(seconds)
        self.store.do(queue.promote)
        self._take_back()
        self.store.do(shares.drop_empty_lanes)

    def _take_back(self) -> None:
        """What dead workers have left."""
        self.store.do(lambda tx: queue.recover(tx, LOST, LEASE_SECONDS))
        overdue = self.store.do(lambda tx: gates.overdue(tx, LEASE_SECONDS))
        if overdue:
            self.store.do(lambda tx: gates.leave(tx, overdue))

    @invariant()
    def all_holds(self) -> None:
        seen = self.store.do(look)
        no_bound_is_passed(seen)
        every_permit_is_counted(seen)
        nothing_is_held_at_an_open_gate(seen)
        assert len(seen.unfinished_uniques) == len(set(seen.unfinished_uniques))

    def teardown(self) -> None:
        """Once nothing hinders them, all tasks end."""
        for type in KINDS:
            self.store.do(lambda tx, type=type: shares.resume(tx, type))  # type: ignore[misc]
        self.store.later(60)
        while self.store.do(lookup.count_waiting) or self.store.do(lambda tx: tx.all(RUNNING)):
            self.store.do(queue.promote)
            for run in self._claim(10, set(KINDS)):
                self.store.finish(run, result="1")
            self.store.later(31)
            self._take_back()
            self.claimed += 1
            assert self.claimed < 200
        assert self.store.do(look).taken == {}
        assert self.store.do(shares.drop_empty_lanes) is None
        assert self.store.do(shares.own_lanes) == []


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with open_store(request.param, tmp_path) as store:
        yield store


def test_bounds_hold_whatever_happens(store: Store) -> None:
    Bounds.store = store
    live_through(Bounds)
