"""Every statement of the queue finds its rows by an index that was made for it, however many tasks are over."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from only_post_svc import bulk, gates, health, lookup, queue, shares
from only_post_svc.bulk import Selection
from only_post_svc.gates import Gate, Permits
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Claim, Ending, NewTask
from only_post_svc.shares import Dealt, Kind, Lane
from shared.database import Transaction, Unit
from tests.only_post_svc.store import ERROR, LOST, token
from tests.plans import ROWS, STATES, Plans, check, exporting, make, plans_of
from tests.postgres import execute, new_database
from tests.transactions import START, At

WAITING = ROWS // 10

FILL = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
INSERT INTO task (id, caller, type, status, priority, timeout_ms, attempt, max_attempts, is_alone, created_at, run_at,
    started_at, finished_at, lease, lease_until, key, gate, permits)
SELECT '{status}-' || i, CASE i % 10 WHEN 0 THEN 'other' ELSE '' END,
    CASE i % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' ELSE 'c' END, '{status}', i % 5, 1000, 0, 3, 0,
    {now}, {run_at}, NULL, {finished_at}, {lease}, {lease_until}, {key}, {gate}, {permits} FROM n
"""
GATES = """
INSERT INTO gate (type, key, most, taken, served)
SELECT type, key, 1, 1, '' FROM task WHERE permits = 1 UNION ALL SELECT 'a', 'k', 1, 1, ''
"""
FILL_PAYLOADS = "INSERT INTO task_payload (task_id, body) SELECT id, '{}' FROM task"
FILL_RESULTS = "INSERT INTO task_result (task_id, body) SELECT id, '{}' FROM task WHERE status = 'succeeded'"

FILL_FAILURES = """
INSERT INTO task_failure (task_id, attempt, at, worker, error)
SELECT id, 1, 1, '', '{}' FROM task WHERE status = 'failed'
"""


NULLS = ("finished_at", "lease", "lease_until", "key", "gate")


def fill(count: int, status: str, **columns: Any) -> str:
    """Rows of one status."""
    given = {"run_at": START, "permits": 0, **dict.fromkeys(NULLS, "NULL"), **columns}
    return FILL.format(count=count, status=status, now=START, **given)


OLD = [
    fill(ROWS, "succeeded", finished_at=f"{START} - i"),
    fill(ROWS // 100, "failed", finished_at=f"{START} - i"),
    fill(ROWS // 100, "cancelled", finished_at=f"{START} - i"),
    FILL_PAYLOADS,
    FILL_RESULTS,
    FILL_FAILURES,
]
NEW = [
    fill(WAITING, "queued"),
    fill(WAITING, "held", key="'k'", gate="'k'"),
    fill(WAITING, "permitted", permits="1", key="'r' || i"),
    "UPDATE task SET status = 'running', lease = id, lease_until = run_at + 1000000 WHERE status = 'permitted'",
    GATES,
    fill(WAITING, "scheduled", run_at=f"{START} + 1000 + i"),
    fill(WAITING, "running", lease="'l' || i", lease_until=f"{START} + 1000 + i"),
    f"{FILL_PAYLOADS} WHERE finished_at IS NULL",
]


def page(status: str | None, type: str | None, before: str | None, caller: str = "") -> Unit[Any]:
    return lambda tx: lookup.list_newest(tx, caller, status=status, type=type, before=before, limit=51)


def later(act: Callable[[Transaction], Any]) -> Unit[Any]:
    """When a hundred are due, and as many leases are over."""
    return lambda tx: act(At(tx, tx.now + 1100))


RUN = Claim("running-1", "a", 1, 3, 1000, False, "{}", "l1")
RUNS = [RUN._replace(id=f"running-{number}", lease=f"l{number}") for number in range(1, 33)]
KINDS = {"a": Kind(), "b": Kind()}
LANES = [Lane(False, shares.ALL, 32), Lane(True, shares.ALL, 2), Lane(False, "c", 32)]
NEW_TASK = NewTask("a", "{}", 1000, 3)


def claim_some(tx: Transaction) -> Dealt:
    return shares.claim(tx, token(), LANES, KINDS, shares.up_to(32), 30, after="m")


class Plan(NamedTuple):
    act: Unit[Any]
    indexes: set[str]
    walked: int = 0


ONE = {"task_pkey"}
FOUND = {"task_pkey", "task_result_pkey", "task_failure_of"}
GATE = {"gate_pkey", "task_held"}
PLANS = {
    "succeed together": Plan(lambda tx: queue.succeed(tx, [(run, Ending(result="1")) for run in RUNS]), ONE),
    "submit": Plan(lambda tx: queue.submit(tx, "", NEW_TASK), set()),
    "claim": Plan(
        claim_some,
        {"task_claim", "task_pkey", "task_payload_pkey", "lane_pkey", "task_checkpoint_pkey"},
        shares.MAX_APART,
    ),
    "own lanes": Plan(shares.own_lanes, {"lane_pkey"}),
    "release a claim": Plan(lambda tx: queue.release_claim(tx, "l17"), {"task_lease"}, WAITING),
    "promote": Plan(later(queue.promote), {"task_due", "task_pkey"}),
    "promote nothing": Plan(queue.promote, {"task_due", "task_pkey"}),
    "next due": Plan(queue.seconds_to_next_due, {"task_due", "schedule_due"}),
    "look": Plan(
        lambda tx: queue.look(tx, 30), {"task_claim", "task_due", "task_lease", "schedule_due", "webhook_due"}
    ),
    "recover": Plan(later(lambda tx: queue.recover(tx, LOST, 30)), {"task_lease", "task_pkey"}),
    "recover nothing": Plan(lambda tx: queue.recover(tx, LOST, 30), {"task_lease"}),
    "prune": Plan(
        lambda tx: queue.prune(tx, -1),
        {
            "task_finished",
            "task_pkey",
            "task_payload_pkey",
            "task_result_pkey",
            "task_failure_of",
            "task_checkpoint_pkey",
        },
        walked=queue.MAX_SWEPT,  # of each its failures are looked for
    ),
    "prune nothing": Plan(lambda tx: queue.prune(tx, 86400), {"task_finished"}),
    "count": Plan(lookup.count_waiting, {"task_claim", "task_due", "task_held"}, 3 * WAITING),
    "count of a caller": Plan(lambda tx: lookup.count_waiting(tx, "other"), {"task_list_unfinished"}, 3 * WAITING),
    "condition": Plan(
        health.condition,
        {"task_claim", "task_due", "task_lease", "task_held", "task_apart", "lane_pkey"},
        WAITING,
    ),
    "find": Plan(lambda tx: lookup.find(tx, "", "queued-1"), FOUND),
    "ended": Plan(lambda tx: lookup.ended(tx, [f"succeeded-{number}" for number in range(1, 33)]), ONE),
    "find ended": Plan(
        lambda tx: lookup.find_ended(tx, [f"succeeded-{number}" for number in range(1, 21)]),
        FOUND,
        walked=20,  # of each its failures are looked for
    ),
    "cancel": Plan(lambda tx: queue.cancel(tx, "", "queued-1"), ONE | {"task_checkpoint_pkey"}),
    "retry": Plan(lambda tx: queue.retry(tx, "", "failed-1"), {"task_pkey", "lane_pkey", "task_failure_of"}),
    "renew": Plan(lambda tx: queue.renew(tx, RUNS, 30), ONE),
    "lost": Plan(lambda tx: queue.lost(tx, RUNS), ONE),
    "report": Plan(lambda tx: queue.report(tx, RUN, "{}"), ONE),
    "succeed": Plan(lambda tx: queue.finish(tx, RUN, Ending(result="1")), ONE),
    "fail": Plan(
        lambda tx: queue.finish(tx, RUN, Ending(error=ERROR, can_retry=False)), ONE | {"task_checkpoint_pkey"}
    ),
    "try again": Plan(lambda tx: queue.finish(tx, RUN, Ending(error=ERROR)), ONE),
    "release": Plan(lambda tx: queue.release(tx, RUN, is_alone=True), ONE),
    "find the same": Plan(lambda tx: tx.one(queue.FIND_SAME, caller="", type="a", unique="u"), {"task_unique"}),
    "look for a successor": Plan(lambda tx: queue.has_successor(tx, "", "failed-1"), {"task_pkey", "task_unique"}),
    "give permits back": Plan(
        lambda tx: gates.give_back(tx, [Permits("a", "k", 1)]), {"gate_pkey", "task_held", "task_pkey"}
    ),
    "mend gates": Plan(
        lambda tx: gates.mend(tx, Gate("")),
        {"gate_pkey", "task_permit", "task_held", "task_pkey", "task_list_by_key"},
        walked=WAITING,  # the tasks of one key, in the upkeep alone
    ),
    "cancel some": Plan(
        lambda tx: bulk.cancel(tx, Selection("", "a", "queued")),
        {"task_list_unfinished", "task_checkpoint_pkey", *ONE, *GATE},
        walked=queue.MAX_SWEPT,  # of each its checkpoint is looked for
    ),
    "retry some": Plan(
        lambda tx: bulk.retry(tx, Selection("", "a"), ""),
        {"task_list_failed", "task_list_cancelled", "task_pkey", "lane_pkey", "task_unique", "task_failure_of"},
    ),
    "pause": Plan(lambda tx: shares.pause(tx, "a"), {"lane_pkey"}),
    "lost lanes": Plan(shares.lost_lanes, {"task_apart", "lane_pkey"}),
    "drop empty lanes": Plan(shares.drop_empty_lanes, {"lane_pkey", "task_apart"}),
}
KEYED = {"task_list_by_key"}
LISTS: dict[tuple[str | None, str | None], set[str]] = {
    (None, None): {"task_list", "task_pkey"},  # of whom most are, both serve
    (None, "a"): {"task_list_by_type"},
    ("queued", None): {"task_list_unfinished"},
    ("queued", "a"): {"task_list_unfinished"},
    ("running", None): {"task_list_unfinished"},
    ("running", "a"): {"task_list_unfinished"},
    ("failed", None): {"task_list_failed"},
    ("failed", "a"): {"task_list_failed"},
    ("cancelled", None): {"task_list_cancelled"},
    ("cancelled", "a"): {"task_list_cancelled"},
    ("succeeded", None): {"task_list", "task_pkey"},  # as most are
    ("succeeded", "a"): {"task_list_by_type"},
}


TASK = ("task_pkey", "task_payload_pkey", "task_result_pkey", "task_checkpoint_pkey", "webhook_pkey")
PLANS |= {
    "export tasks": Plan(
        exporting("exported_task", "payload, result, checkpoint, notify_url", "other", "failed-10"),
        {"task_list", *TASK},
    ),
    # The tasks that have not failed are walked over.
    "export failures": Plan(
        exporting("exported_failure", "failed_at", "other", "failed-10"),
        {"task_list", "task_pkey", "task_failure_of"},
        ROWS,
    ),
    "export schedules": Plan(exporting("exported_schedule", "task", "other", "nightly"), {"schedule_pkey"}),
}
PLANS |= {
    # Those of a type are every third there.
    f"list {status}, {type}, {before}": Plan(page(status, type, before), indexes, 153 if type else 0)
    for (status, type), indexes in LISTS.items()
    for before in (None, "x")
}


PLANS |= {
    f"list of a key {status}, {type}": Plan(
        partial(lookup.list_newest, caller="", status=status, type=type, before=None, limit=51, key="r1"), KEYED
    )
    for status in (None, "queued", "running")
    for type in (None, "a")
}


# Who has nothing there finds that out at once.
PLANS |= {
    f"list nothing {status}": Plan(page(status, None, None, caller="nobody"), indexes)
    for (status, type), indexes in LISTS.items()
    if type is None
}


@pytest.fixture(scope="module", params=STATES)
def plans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    directory = tmp_path_factory.mktemp("plans")
    with plans_of(request.param, directory, {"only_post": SCHEMA}, OLD, NEW) as plans:
        yield plans


@pytest.mark.parametrize("name", PLANS)
def test_every_statement_looks_at_few_rows_more_than_it_gives(plans: Plans, name: str) -> None:
    # `held` is read from the few types that are paused.
    is_query = name.startswith("list ")
    check(plans, PLANS[name].act, START, PLANS[name].indexes | {"lane_pkey"}, PLANS[name].walked, is_query=is_query)


def test_the_table_of_tasks_is_made_for_a_queue() -> None:
    with new_database() as url:
        asyncio.run(make(url, {"only_post": SCHEMA}))
        (settings,) = execute(url, "SELECT reloptions FROM pg_class WHERE relname = 'task'")[0]
    names = {setting.split("=")[0] for setting in settings}
    assert "fillfactor=70" in settings
    assert {"autovacuum_vacuum_scale_factor", "autovacuum_analyze_scale_factor"} <= names
