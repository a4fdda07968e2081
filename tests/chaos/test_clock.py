"""The machine's clock jumps: no run that lives is given up, and none that is dead is kept for ever."""

import sqlite3
from collections.abc import Iterator

import pytest

from only_post_svc import lookup, queue
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Claim, NewTask
from only_post_svc.worker.clock_watch import JUMP_SECONDS as CLOCK_JUMP_SECONDS
from only_post_svc.worker.clock_watch import ClockWatch
from shared.database import sqlite_transaction
from shared.database.connection import SHARED_SCHEMA
from tests.only_post_svc.store import claim
from tests.processes import eventually

START = 1_800_000_000_000
LEASE_SECONDS = 30
SECOND = 1000
YEAR = 365 * 86400 * SECOND
LOST = '{"code": "worker_lost", "type": null, "message": "lost"}'
QUIET_SECONDS = 0.3  # a lease of the watch that a test can wait for


class Transaction(sqlite_transaction.Transaction):
    """One whose clock the test sets."""

    clock = START

    @property
    def now(self) -> int:
        return self.clock


@pytest.fixture
def tx() -> Iterator[Transaction]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for schema in (SHARED_SCHEMA, SCHEMA):
        for file in sorted(file for file in schema.glob("*.sql") if not file.match("*.postgresql.sql")):
            connection.executescript(file.read_text())
    yield Transaction(connection)
    connection.close()


@pytest.fixture
def run(tx: Transaction) -> Claim:
    """A run that has just been claimed."""
    queue.submit(tx, "", NewTask(type="echo", payload="{}", timeout_ms=SECOND, max_attempts=3))
    (run,) = claim(tx, "a", {"echo": 1}, LEASE_SECONDS).claims
    return run


def recover(tx: Transaction) -> list[str]:
    """As the worker does: only when there seems to be something."""
    return queue.recover(tx, LOST, LEASE_SECONDS) if queue.look(tx, LEASE_SECONDS).has_expired_leases else []


def test_a_clock_set_back_keeps_a_dead_run_for_one_more_lease_at_most(tx: Transaction, run: Claim) -> None:
    tx.clock = START - YEAR
    assert recover(tx) == []
    tx.clock += LEASE_SECONDS * SECOND - 1
    assert recover(tx) == []
    tx.clock += 1
    assert recover(tx) == [run.id]


def test_a_clock_set_back_takes_nothing_from_a_run_that_is_renewed(tx: Transaction, run: Claim) -> None:
    tx.clock = START - YEAR
    for _ in range(20):
        assert queue.renew(tx, [run], LEASE_SECONDS) == []
        assert recover(tx) == []
        tx.clock += LEASE_SECONDS * SECOND // 3
    assert queue.lost(tx, [run]) == []


def test_a_clock_set_forward_takes_nothing_once_the_leases_were_renewed(tx: Transaction, run: Claim) -> None:
    tx.clock = START + YEAR
    assert queue.look(tx, LEASE_SECONDS).has_expired_leases
    assert queue.renew(tx, [run], LEASE_SECONDS) == []
    assert not queue.look(tx, LEASE_SECONDS).has_expired_leases
    assert recover(tx) == []
    assert queue.lost(tx, [run]) == []


def test_a_run_that_was_given_up_can_write_nothing_whatever_the_clock_says(tx: Transaction, run: Claim) -> None:
    tx.clock = START + YEAR
    assert recover(tx) == [run.id]
    tx.clock = START
    assert queue.renew(tx, [run], LEASE_SECONDS) == [run]
    assert not queue.report(tx, run, "{}")
    assert not queue.finish(tx, run, queue.Ending(result="1"))
    assert not queue.release(tx, run, is_alone=False)
    task = lookup.find(tx, "", run.id)
    assert task is not None
    assert (task.status, task.attempt, task.result, task.progress) == ("queued", 1, None, None)


@pytest.mark.parametrize("jump_seconds", [3600, -3600, CLOCK_JUMP_SECONDS + 1])
def test_a_jump_is_noticed_and_lets_a_lease_go_by(jump_seconds: float) -> None:
    watch = ClockWatch(QUIET_SECONDS)
    jump = int(jump_seconds * SECOND)
    assert not watch.has_jumped(START)
    assert not watch.has_jumped(START)
    assert watch.has_jumped(START + jump)
    assert watch.has_jumped(START + jump)
    eventually(lambda: not watch.has_jumped(START + jump), seconds=10)


def test_a_clock_that_is_corrected_a_little_is_no_jump() -> None:
    watch = ClockWatch(LEASE_SECONDS)
    assert not any(watch.has_jumped(START + second * SECOND) for second in range(0, 30, 4))


def test_a_database_that_could_not_be_written_lets_a_lease_go_by_too() -> None:
    watch = ClockWatch(QUIET_SECONDS)
    assert not watch.has_jumped(START)
    watch.distrust()
    assert watch.has_jumped(START)
    eventually(lambda: not watch.has_jumped(START), seconds=10)
