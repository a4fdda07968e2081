"""Schedules, webhooks and runs elsewhere find their rows by an index, however many there are."""

from collections.abc import Iterator
from typing import Any

import pytest

from only_post_svc import elsewhere, schedules, webhooks
from only_post_svc.elsewhere import Held
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Ending, NewTask
from only_post_svc.recurrence import Recurrence
from only_post_svc.schedules import NewSchedule
from only_post_svc.webhooks import Hands, Webhook
from shared.database import Transaction
from tests.only_post_svc.store import ERROR
from tests.only_post_svc.test_plans import ONE, Plan, fill
from tests.plans import ROWS, STATES, Plans, check, plans_of
from tests.transactions import START, At

COUNT = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
FILL_WEBHOOKS = f"""
{COUNT} INSERT INTO webhook (task_id, url, host, status, number, attempts, next_at)
SELECT '{{name}}-' || i, 'http://a/', 'host-' || (i % 20), '{{status}}', 1, 0, {{next_at}} FROM n
"""
FILL_SCHEDULES = f"""
{COUNT} INSERT INTO schedule (caller, name, in_code, every_ms, timezone, task, overlap, created_at, next_run_at,
    skipped)
SELECT 'caller-' || (i % 10), 'name-' || i, 0, 60000, 'UTC',
    '{{{{"type":"a","payload":"{{{{}}}}","timeout_ms":1000,"max_attempts":3}}}}', 1, 0, {START} + i * 100, 0 FROM n
"""
OLD = [FILL_WEBHOOKS.format(count=ROWS, name="sent", status="sent", next_at="NULL")]
NEW = [
    FILL_WEBHOOKS.format(count=ROWS // 10, name="due", status="pending", next_at=f"{START} - i"),
    FILL_WEBHOOKS.format(count=ROWS // 10, name="later", status="pending", next_at=f"{START} + 1000000 + i"),
    FILL_SCHEDULES.format(count=ROWS // 10),
    fill(ROWS // 10, "running", lease="'l' || i", lease_until=f"{START} + 1000 + i"),
    "UPDATE task SET started_at = created_at",
]
HELD = [Held(f"running-{number}", f"l{number}", "{}") for number in range(1, 33)]
DUE = Webhook("due-1", "http://a/", "host-1", "pending", 1, 0, None, START - 1)


def admit(tx: Transaction, caller: str, new: NewTask) -> None:
    """There is room for all."""


def tick(tx: Transaction) -> Any:
    """Twenty that are due."""
    return schedules.tick(At(tx, START + 2000), [], None, admit)


def end_all(tx: Transaction) -> Any:
    failed = [(run, Ending(error=ERROR)) for run in HELD[:2]]
    return elsewhere.finish(tx, failed + [(run, Ending(result="1")) for run in HELD[2:]])


NEW_SCHEDULE = NewSchedule("name-17", Recurrence(every_ms=60_000), NewTask("a", "{}", 1000, 3))
OF_WEBHOOKS = {"webhook_host", "webhook_pkey"}
PLANS = {
    "take": Plan(lambda tx: webhooks.take(tx, "", 32, Hands([], [], 4, 1)), OF_WEBHOOKS, walked=400),
    "next news": Plan(webhooks.seconds_to_next, {"webhook_due", "webhook_host"}),
    "note": Plan(lambda tx: webhooks.note(tx, DUE, None), {"webhook_pkey"}),
    "note failure": Plan(lambda tx: webhooks.note(tx, DUE, "no"), {"webhook_pkey"}),
    "find webhooks": Plan(lambda tx: webhooks.find(tx, ["sent-1", "sent-2"]), {"webhook_pkey"}),
    "tick": Plan(tick, {"schedule_due", "schedule_pkey", "task_pkey", "lane_pkey"}),
    "tick nothing": Plan(lambda tx: schedules.tick(At(tx, START), [], None, admit), {"schedule_due"}),
    "save": Plan(lambda tx: schedules.save(tx, "caller-7", NEW_SCHEDULE), {"schedule_pkey"}),
    "page": Plan(lambda tx: schedules.page(tx, "caller-7", ("name-17", 0), 50), {"schedule_pkey"}),
    "renew elsewhere": Plan(lambda tx: elsewhere.renew(tx, HELD, 30), ONE),
    "finish elsewhere": Plan(end_all, ONE | {"task_checkpoint_pkey"}, walked=32),
}


@pytest.fixture(scope="module", params=STATES)
def plans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    with plans_of(request.param, tmp_path_factory.mktemp("plans"), {"only_post": SCHEMA}, OLD, NEW) as plans:
        yield plans


@pytest.mark.parametrize("name", PLANS)
def test_every_statement_looks_at_few_rows_more_than_it_gives(plans: Plans, name: str) -> None:
    check(plans, PLANS[name].act, START, PLANS[name].indexes, PLANS[name].walked)
