"""The life of a task against a model of it, on every engine, through histories that nobody thought of."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from only_post_svc import health, lookup, queue, shares
from only_post_svc.lookup import FINAL, TaskRow
from only_post_svc.queue import Claim, Ending, LeaseLost, NewTask
from only_post_svc.shares import Dealt, Kind, Lane
from shared import idempotency
from shared.database import Transaction
from shared.errors import Problem
from shared.idempotency import KEPT_MS, Answer, IdempotencyKey
from tests.histories import live_through
from tests.only_post_svc.store import ERROR, LOST, Store, open_store, token
from tests.shared.engines import ENGINES
from tests.transactions import START

LEASE_SECONDS = 30
LEASE_MS = LEASE_SECONDS * 1000
STEPS_MS = [1, 1000, LEASE_MS - 1, LEASE_MS, 60_000, KEPT_MS, -1, -LEASE_MS]
CALLERS = st.sampled_from(["ann", "bob"])
TYPES = st.sampled_from(["a", "b"])
STATUSES = st.sampled_from([None, *lookup.CONDITIONS])
ENDINGS = st.builds(
    Ending,
    result=st.sampled_from([None, "{}", "1"]),
    progress=st.sampled_from([None, '{"fraction":1.0}']),
) | st.builds(
    Ending,
    error=st.just(ERROR),
    can_retry=st.booleans(),
    retry_after_seconds=st.sampled_from([None, 0, 0.5, 60]),
    progress=st.sampled_from([None, '{"fraction":0.5}']),
)
OPTIONS = st.fixed_dictionaries(
    {"type": TYPES, "max_attempts": st.integers(1, 3), "priority": st.integers(-1, 1)},
    optional={"delay_ms": st.sampled_from([1, 1000, 60_000]), "run_at": st.sampled_from([0, START, START + 5000])},
)


# Of parts without a whole too.
EVERYTHING = f"""
SELECT {lookup.COLUMNS}, task_result.body, caller, lease, lease_until, is_alone, task_payload.body
FROM task_payload
    FULL JOIN task ON task.id = task_payload.task_id
    FULL JOIN task_result ON task_result.task_id = task_payload.task_id
"""


@dataclass
class Model:
    """What is known of a task."""

    caller: str
    task: TaskRow
    lease: str | None = None
    lease_until: int | None = None
    is_alone: bool = False

    def change(self, **values: Any) -> None:
        self.task = self.task._replace(**values)

    def let_go(self, **values: Any) -> None:
        """No run has it any longer."""
        self.change(**values)
        self.lease = self.lease_until = None

    @property
    def order(self) -> tuple[int, int, str]:
        return -self.task.priority, self.task.run_at, self.task.id


@dataclass
class Kept:
    """What an idempotency key gave."""

    fingerprint: str
    body: str
    expires_at: int


@dataclass
class Tasks:
    models: dict[str, Model] = field(default_factory=dict)
    keys: dict[tuple[str, str], Kept] = field(default_factory=dict)

    def of(self, status: str) -> list[Model]:
        return [model for model in self.models.values() if model.task.status == status]

    def in_turn(self, types: set[str], served: str) -> list[Model]:
        """What waits, in the order of claims: one of each caller behind the one served last, and so on."""
        waiting = sorted((model for model in self.of("queued") if model.task.type in types), key=lambda one: one.order)
        turns: Counter[str] = Counter()
        dealt = []
        for model in waiting:
            dealt.append((turns[model.caller], model.caller <= served, model.caller, model))
            turns[model.caller] += 1
        return [model for *_, model in sorted(dealt, key=lambda one: one[:3])]

    def held(self, run: Claim) -> Model | None:
        model = self.models.get(run.id)
        return model if model is not None and model.lease == run.lease else None


class LifeOfATask(RuleBasedStateMachine):
    ids = Bundle("ids")
    runs = Bundle("runs")  # also those that have ended, or have lost their lease
    tokens = Bundle("tokens")
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.now = START
        self.store.do(empty)
        self.tasks = Tasks()
        self.served = self.last = ""  # as the model has it, and as the claims say

    @property
    def now(self) -> int:
        return self.store.now

    def end_of(self, model: Model) -> int:
        started = model.task.started_at
        return self.not_before(model.task.created_at if started is None else started)

    def not_before(self, time: int) -> int:
        """Now, or that time where the clock is a little behind it."""
        return time if 0 <= time - self.now <= 1000 else self.now

    def _new(self, caller: str, options: dict[str, Any]) -> Callable[[Transaction], TaskRow]:
        new = NewTask(payload="{}", timeout_ms=1000, **options)
        return lambda tx: queue.submit(tx, caller, new)

    def _submitted(self, caller: str, task: TaskRow, options: dict[str, Any]) -> str:
        run_at = self.now + options.get("delay_ms", 0)
        if "run_at" in options:
            run_at = max(self.now, options["run_at"])
        status = "scheduled" if run_at > self.now else "queued"
        named = (options["type"], status, options["priority"], 0, options["max_attempts"], self.now, run_at)
        assert task == TaskRow(task.id, *named, None, None, None, None)
        self.tasks.models[task.id] = Model(caller, task)
        return task.id

    @initialize(target=ids, most=st.integers(1, 3))
    def start_with_some(self, most: int) -> Any:
        options = {"type": "a", "max_attempts": most, "priority": 0}
        return multiple(*(self.submit("ann", options) for _ in range(3)))

    @rule(target=ids, caller=CALLERS, options=OPTIONS)
    def submit(self, caller: str, options: dict[str, Any]) -> str:
        return self._submitted(caller, self.store.do(self._new(caller, options)), options)

    @rule(target=ids, caller=CALLERS, key=st.sampled_from(["k", "l"]), options=OPTIONS)
    def submit_with_a_key(self, caller: str, key: str, options: dict[str, Any]) -> Any:
        wanted = IdempotencyKey(caller, key, json.dumps(options, sort_keys=True))
        new = self._new(caller, options)
        made: list[TaskRow] = []

        def unit(tx: Transaction) -> Answer:
            made.clear()
            return idempotency.once(tx, wanted, lambda: made.append(new(tx)) or Answer(202, made[0].id))  # type: ignore[func-returns-value]

        kept = self.tasks.keys.get((caller, key))
        if kept is None or kept.expires_at <= self.now:
            assert self.store.do(unit) == Answer(202, made[0].id)
            self.tasks.keys[caller, key] = Kept(wanted.fingerprint, made[0].id, self.now + KEPT_MS)
            return self._submitted(caller, made[0], options)
        if kept.fingerprint == wanted.fingerprint:
            assert self.store.do(unit) == Answer(202, kept.body, is_replay=True)
        else:
            with pytest.raises(Problem, match="idempotency_key_reused"):
                self.store.do(unit)
        assert not made
        return multiple()

    @rule(target=runs, types=st.sets(TYPES, min_size=1), hands=st.integers(1, 4))
    def claim(self, types: set[str], hands: int) -> Any:
        return multiple(*self._claim(token(), types, hands))

    @rule(target=tokens, hands=st.integers(1, 2))
    def claim_whose_answer_gets_lost(self, hands: int) -> str:
        begin = token()
        self._claim(begin, {"a"}, hands)
        return begin

    def _claim(self, begin: str, types: set[str], hands: int) -> list[Claim]:
        chosen = self.tasks.in_turn(types, self.served)[:hands]
        for model in chosen:
            model.change(
                status="running",
                attempt=model.task.attempt + 1,
                started_at=self.not_before(model.task.run_at),
                progress=None,
            )
            model.lease, model.lease_until = begin + model.task.id, self.now + LEASE_MS
            self.served = model.caller
        claims = self._take(begin, types, hands)
        assert claims == [
            Claim(
                task.id,
                task.type,
                task.attempt,
                task.max_attempts,
                1000,
                model.is_alone,
                "{}",
                model.lease or "",
                model.caller,
            )
            for model in chosen
            for task in [model.task]
        ]
        return claims

    def _take(self, begin: str, types: set[str], hands: int) -> list[Claim]:
        """As a worker does: claim by claim, while there may be more."""
        kinds = dict.fromkeys(types, Kind())
        claims: list[Claim] = []
        while True:
            own = [lane.type for lane in self.store.do(shares.own_lanes) if lane.type in types]
            free = hands - len(claims)
            lanes = [Lane(is_alone, name, free) for name in ("", *own) for is_alone in (False, True)]
            unit = partial(self._claim_some, begin=begin, lanes=lanes, kinds=kinds, free=free)
            dealt = self.store.do(unit)
            claims += dealt.claims
            self.last = dealt.last
            if len(claims) == hands or not (dealt.has_moved_some or (dealt.claims and dealt.has_more)):
                return claims

    def _claim_some(
        self, tx: Transaction, *, begin: str, lanes: list[Lane], kinds: dict[str, Kind], free: int
    ) -> Dealt:
        return shares.claim(tx, begin, lanes, kinds, shares.up_to(free), LEASE_SECONDS, after=self.last)

    @rule(begin=tokens)
    def release_a_claim(self, begin: str) -> None:
        taken = [model for model in self.tasks.of("running") if (model.lease or "").startswith(begin)]
        assert self.store.do(lambda tx: queue.release_claim(tx, begin)) == len(taken)
        for model in taken:
            model.let_go(status="queued", attempt=model.task.attempt - 1, started_at=None)

    @rule(some=st.lists(runs, max_size=3, unique=True))
    def renew(self, some: list[Claim]) -> None:
        lost = [run for run in some if self.tasks.held(run) is None]
        assert self.store.do(lambda tx: queue.lost(tx, some)) == lost
        assert self.store.do(lambda tx: queue.renew(tx, some, LEASE_SECONDS)) == lost
        for model in filter(None, map(self.tasks.held, some)):
            model.lease_until = self.now + LEASE_MS

    @rule(run=runs)
    def report(self, run: Claim) -> None:
        model = self.tasks.held(run)
        progress = f'{{"at":{self.now}}}'
        assert self.store.do(lambda tx: queue.report(tx, run, progress)) == (model is not None)
        if model is not None:
            model.change(progress=progress)

    @rule(run=runs, ending=ENDINGS)
    def finish(self, run: Claim, ending: Ending) -> None:
        model = self.tasks.held(run)
        assert self.store.do(lambda tx: queue.finish(tx, run, ending)) == (model is not None)
        if model is None:
            return
        if ending.error is not None:
            model.change(has_failures=1)
        task = model.task
        if ending.error is not None and ending.can_retry and task.attempt < task.max_attempts:
            model.let_go(status="scheduled", error=ending.error, run_at=self._next_try(run, ending))
            return
        status = "succeeded" if ending.error is None else "failed"
        progress = ending.progress or task.progress
        model.let_go(
            status=status, finished_at=self.end_of(model), error=ending.error, progress=progress, result=ending.result
        )

    @rule(some=st.lists(runs, min_size=2, max_size=3, unique=True))
    def succeed(self, some: list[Claim]) -> None:
        models = [self.tasks.held(run) for run in some]
        ended = [(run, Ending(result=str(run.attempt))) for run in some]
        if None in models:
            with pytest.raises(LeaseLost):
                self.store.do(lambda tx: queue.succeed(tx, ended))
            return
        self.store.do(lambda tx: queue.succeed(tx, ended))
        for model, (_, ending) in zip(models, ended, strict=True):
            assert model is not None
            model.let_go(status="succeeded", finished_at=self.end_of(model), error=None, result=ending.result)

    def _next_try(self, run: Claim, ending: Ending) -> int:
        if ending.retry_after_seconds is not None:
            return self.now + int(ending.retry_after_seconds * 1000)
        found = self.store.find(run.id, self.tasks.models[run.id].caller).run_at
        usual = 1000 * 2 ** (run.attempt - 1)
        assert usual / 2 <= found - self.now <= usual * 1.5
        return found

    @rule(run=runs, is_alone=st.booleans())
    def release(self, run: Claim, is_alone: bool) -> None:
        model = self.tasks.held(run)
        assert self.store.do(lambda tx: queue.release(tx, run, is_alone=is_alone)) == (model is not None)
        if model is not None:
            model.let_go(status="queued", attempt=model.task.attempt - 1, started_at=None)
            model.is_alone = is_alone

    @rule(task_id=ids, caller=CALLERS)
    def cancel(self, task_id: str, caller: str) -> None:
        model = self._mine(task_id, caller)
        can = model is not None and model.task.status not in FINAL
        assert self.store.do(lambda tx: queue.cancel(tx, caller, task_id)) == can
        if model is not None and can:
            model.let_go(status="cancelled", finished_at=self.end_of(model))

    @rule(task_id=ids, caller=CALLERS)
    def retry(self, task_id: str, caller: str) -> None:
        model = self._mine(task_id, caller)
        can = model is not None and model.task.status in ("failed", "cancelled")
        assert self.store.do(lambda tx: queue.retry(tx, caller, task_id)) == can
        if model is not None and can:
            nothing = dict.fromkeys(("started_at", "finished_at", "progress", "error"))
            model.change(status="queued", attempt=0, run_at=self.now, **nothing)

    @rule(run=runs, ending=ENDINGS)
    def finish_and_retry(self, run: Claim, ending: Ending) -> None:
        self.finish(run, ending)
        if model := self.tasks.models.get(run.id):
            self.retry(run.id, model.caller)

    def _mine(self, task_id: str, caller: str) -> Model | None:
        model = self.tasks.models.get(task_id)
        return model if model is not None and model.caller == caller else None

    @rule()
    def promote(self) -> None:
        due = [model for model in self.tasks.of("scheduled") if model.task.run_at <= self.now]
        assert self.store.do(queue.promote) == len(due)
        for model in due:
            model.change(status="queued")

    @rule(pause=st.sampled_from([0, LEASE_MS - 1, LEASE_MS]))
    def recover(self, pause: int) -> None:
        self.store.now += pause
        running = self.tasks.of("running")
        ends = [model.lease_until or 0 for model in running]
        is_any = any(end <= self.now or end > self.now + LEASE_MS for end in ends)
        assert self.store.do(lambda tx: queue.look(tx, LEASE_SECONDS).has_expired_leases) == is_any
        expired = [model for model in running if (model.lease_until or 0) <= self.now]
        recovered = self.store.do(lambda tx: queue.recover(tx, LOST, LEASE_SECONDS))
        assert sorted(recovered) == sorted(model.task.id for model in expired)
        for model in running:
            model.lease_until = min(model.lease_until or 0, self.now + LEASE_MS)
        for model in expired:
            model.change(has_failures=1)
            if model.task.attempt >= model.task.max_attempts:
                model.let_go(status="failed", finished_at=self.end_of(model), error=LOST)
            else:
                model.let_go(status="queued", error=LOST)

    @rule(seconds=st.sampled_from([0, 60, 86400]))
    def prune(self, seconds: int) -> None:
        before = self.now - seconds * 1000
        old = [id for id, model in self.tasks.models.items() if (model.task.finished_at or before) < before]
        assert self.store.do(lambda tx: queue.prune(tx, seconds)) == len(old)
        for task_id in old:
            del self.tasks.models[task_id]
        over = [key for key, kept in self.tasks.keys.items() if kept.expires_at <= self.now]
        assert self.store.do(idempotency.prune) == len(over)
        for key in over:
            del self.tasks.keys[key]

    @rule(milliseconds=st.sampled_from(STEPS_MS))
    def time_goes_on(self, milliseconds: int) -> None:
        self.store.now += milliseconds

    @rule(task_id=ids, caller=CALLERS)
    def find(self, task_id: str, caller: str) -> None:
        model = self._mine(task_id, caller)
        assert self.store.do(lambda tx: lookup.find(tx, caller, task_id)) == (model and model.task)

    @rule()
    def count(self) -> None:
        condition = self.store.do(health.condition)
        counts = [len(self.tasks.of(status)) for status in ("queued", "scheduled", "running")]
        assert [condition.queued, condition.scheduled, condition.running] == counts
        assert self.store.do(lookup.count_waiting) == counts[0] + counts[1]
        due = [model.task.run_at for model in self.tasks.of("scheduled")]
        assert self.store.do(queue.seconds_to_next_due) == ((min(due) - self.now) / 1000 if due else None)

    @rule(
        caller=CALLERS,
        status=STATUSES,
        type=TYPES | st.none(),
        number=st.integers(1, 3),
    )
    def list_some(self, caller: str, status: str | None, type: str | None, number: int) -> None:
        wanted = {None: {*lookup.CONDITIONS}, "queued": {"queued", "scheduled"}}.get(status, {status or ""})
        found = sorted(
            (
                model.task._replace(result=None, has_failures=0)
                for model in self.tasks.models.values()
                if model.caller == caller and model.task.status in wanted and type in (None, model.task.type)
            ),
            reverse=True,
        )
        before = None
        for index in range(0, len(found) + 1, number):
            page = self.store.do(
                lambda tx, before=before: lookup.list_newest(  # type: ignore[misc]
                    tx, caller, status=status, type=type, before=before, limit=number
                )
            )
            assert page == found[index : index + number]
            before = page[-1].id if page else None

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        models = self.tasks.models
        rows = self.store.do(lambda tx: tx.all(EVERYTHING))
        expected = [
            (*m.task[: TaskRow._fields.index("has_webhook")], m.caller, m.lease, m.lease_until, int(m.is_alone), "{}")
            for m in models.values()
        ]
        assert sorted(rows) == sorted(expected)

    @invariant()
    def no_task_has_more_attempts_than_it_may(self) -> None:
        assert all(0 <= model.task.attempt <= model.task.max_attempts for model in self.tasks.models.values())


def empty(tx: Transaction) -> None:
    for table in ("task", "task_payload", "task_result", "idempotency_key"):
        tx.run(f"DELETE FROM {table}")


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with open_store(request.param, tmp_path) as store:
        yield store


def test_whatever_happens_to_a_task_is_what_the_model_says(store: Store) -> None:
    LifeOfATask.store = store
    live_through(LifeOfATask)
