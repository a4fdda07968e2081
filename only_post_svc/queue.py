"""The life of a task, in SQL.

    scheduled → queued (⇄ held) → running → succeeded | failed | cancelled

shares.py has the claim, gates.py what is held, lookup.py what is only read. Every function is a unit of work over a
transaction. All that a run writes is fenced by its lease: no row back means that the lease was lost, and nothing was
written.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from only_post_svc import checkpoints, failures, webhooks
from only_post_svc.gates import Permits, give_back, keep
from only_post_svc.lookup import MINE, WAITING, TaskRow, find
from shared import departures, ids
from shared.database import Transaction, listed
from shared.strict_json import encode

BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 600.0
ELSEWHERE = "elsewhere"  # how the leases of workers elsewhere begin, and what failures name as the worker
MAX_SWEPT = 500  # rows in one transaction of the upkeep, so that others do not wait long for it


class NewTask(NamedTuple):
    """What a client asked for, checked. Times in milliseconds; `run_at` None means `delay_ms` from now."""

    type: str
    payload: str  # JSON
    timeout_ms: int
    max_attempts: int
    priority: int = 0
    delay_ms: int = 0
    run_at: int | None = None
    is_alone: bool = False  # its run has a child to itself
    key: str | None = None
    unique: str | None = None
    replace: bool = False
    notify: str | None = None  # the URL that is told of the end
    lane: str = ""  # where it waits: '' with most, or its type for one of workers elsewhere
    traceparent: str | None = None
    is_person: bool = False  # who submits it: the bounds of people hold

    @property
    def is_for_later(self) -> bool:
        return self.delay_ms > 0 or self.run_at is not None


class Claim(NamedTuple):
    """A run: the task, and the lease that everything it writes must show."""

    id: str
    type: str
    attempt: int
    max_attempts: int
    timeout_ms: int
    is_alone: bool
    payload: str
    lease: str
    caller: str = ""
    key: str | None = None
    is_person: bool = False
    saved: str | None = None  # JSON: its last checkpoint
    traceparent: str | None = None
    permits: int = 0


@dataclass(frozen=True)
class Ending:
    """How a run ended. `error` is JSON; `retry_after_seconds` None takes the usual backoff; `traceback` is text."""

    result: str | None = None
    error: str | None = None
    can_retry: bool = True
    retry_after_seconds: float | None = None
    progress: str | None = None
    traceback: str | None = None
    has_checkpoint: bool = False  # to be dropped with the task's end


def error(code: str, message: str) -> str:
    """Of a run that ended without its code having raised anything."""
    return encode({"code": code, "type": None, "message": message})


def overran(timeout_ms: int) -> str:
    """The error of a run that took longer than its timeout."""
    return error("timeout", f"stopped after {timeout_ms / 1000:g} seconds")


# A transaction has the time at which it began, and may meet what a later one has written. The times of a task follow
# each other all the same.
NOT_BEFORE = "CASE WHEN {time} - :now BETWEEN 0 AND 1000 THEN {time} ELSE :now END"  # further ahead, a clock was set
STARTED = NOT_BEFORE.format(time="run_at")
FINISHED = NOT_BEFORE.format(time="coalesce(started_at, created_at)")

INSERT = """
INSERT INTO task (id, caller, is_person, type, key, unique_key, is_alone, lane, status, priority, timeout_ms, attempt,
    max_attempts, traceparent, created_at, run_at)
VALUES (:id, :caller, :is_person, :type, :key, :unique, :is_alone, :lane, :status, :priority, :timeout_ms, 0,
    :max_attempts, :traceparent, :created_at, :run_at)
"""

INSERT_PAYLOAD = "INSERT INTO task_payload (task_id, body) VALUES (:id, :payload)"


def submit(tx: Transaction, caller: str, new: NewTask, *, tick: int | None = None) -> TaskRow:
    """`tick` is the time of the schedule's tick that makes it, which has come."""
    now = tx.now
    run_at = tick if tick is not None else _run_at(new, now)
    task = TaskRow(
        id=ids.new(),
        type=new.type,
        status="scheduled" if run_at > now else "queued",
        priority=new.priority,
        attempt=0,
        max_attempts=new.max_attempts,
        created_at=now,
        run_at=run_at,
        started_at=None,
        finished_at=None,
        progress=None,
        error=None,
        key=new.key,
    )
    tx.put(
        INSERT,
        id=task.id,
        caller=caller,
        is_person=int(new.is_person),
        type=task.type,
        key=new.key,
        unique=new.unique,
        is_alone=int(new.is_alone),
        lane=new.lane,
        traceparent=new.traceparent,
        status=task.status,
        priority=task.priority,
        timeout_ms=new.timeout_ms,
        max_attempts=task.max_attempts,
        created_at=now,
        run_at=run_at,
    )
    tx.put(INSERT_PAYLOAD, id=task.id, payload=new.payload)
    if new.notify is None:
        return task
    return task._replace(has_webhook=1, notify=webhooks.keep(tx, task.id, new.notify, new.traceparent).json)


def _run_at(new: NewTask, now: int) -> int:
    return max(now, new.run_at) if new.run_at is not None else now + new.delay_ms  # not before now: it would overtake


IS_SAME = (
    "caller = :caller AND type = :type AND unique_key = :unique AND unique_key IS NOT NULL AND finished_at IS NULL"
)
FIND_SAME = f"SELECT id, attempt, status, key, permits FROM task WHERE {IS_SAME} FOR UPDATE"

REPLACE = """
UPDATE task SET status = :status, run_at = :run_at, priority = :priority, timeout_ms = :timeout_ms,
    max_attempts = :max_attempts, key = :key, traceparent = :traceparent, gate = NULL, permits = 0
WHERE id = :id
"""


def submit_once(tx: Transaction, caller: str, new: NewTask) -> tuple[TaskRow, bool]:
    """The task, and whether there was one already that is the same by `unique` and has not ended."""
    if new.unique is None:
        return submit(tx, caller, new), False
    tx.lock(unique_lock(caller, new))
    found = tx.one(FIND_SAME, caller=caller, type=new.type, unique=new.unique)
    if found is None:
        return submit(tx, caller, new), False
    task_id, attempt, status, key, permits = found
    if new.replace and attempt == 0 and status in WAITING:
        _replace(tx, task_id, new)
        give_back(tx, [Permits(new.type, key, permits)])
    task = find(tx, caller, task_id)
    assert task is not None
    return task, True


def unique_lock(caller: str, new: NewTask) -> str:
    return encode(["unique", caller, new.type, new.unique])


def _replace(tx: Transaction, task_id: str, new: NewTask) -> None:
    run_at = _run_at(new, tx.now)
    tx.put(
        REPLACE,
        id=task_id,
        status="scheduled" if run_at > tx.now else "queued",
        run_at=run_at,
        priority=new.priority,
        timeout_ms=new.timeout_ms,
        max_attempts=new.max_attempts,
        key=new.key,
        traceparent=new.traceparent,
    )
    tx.put("UPDATE task_payload SET body = :payload WHERE task_id = :id", id=task_id, payload=new.payload)
    webhooks.drop(tx, task_id)
    if new.notify is not None:
        webhooks.keep(tx, task_id, new.notify, new.traceparent)


# Locks the task until the transaction ends.
HOLD = f"SELECT unique_key, permits FROM task WHERE {MINE} FOR UPDATE"

# The run that holds the lease loses it here: it is stopped, and can't write any more.
CANCEL = f"""
UPDATE task SET status = 'cancelled', finished_at = {FINISHED}, lease = NULL, lease_until = NULL
WHERE {MINE} AND status IN ('queued', 'scheduled', 'held', 'running')
RETURNING type, key, permits
"""


def cancel(tx: Transaction, caller: str, task_id: str) -> bool:
    """False when there was nothing to cancel."""
    held = tx.one(HOLD, id=task_id, caller=caller)
    if held is not None and held[1]:
        keep(tx, [task_id])
    cancelled = tx.all(CANCEL, id=task_id, caller=caller, now=tx.now)
    if not cancelled:
        return False
    give_back(tx, map(Permits._make, cancelled))
    checkpoints.drop(tx, [task_id])
    return True


# Where its type's tasks wait today: that may have changed since it was submitted.
LANE = "coalesce((SELECT lane.type FROM lane WHERE lane.type = task.type AND is_kept = 1), '')"

RETRY = f"""
UPDATE task SET status = 'queued', attempt = 0, run_at = :now, started_at = NULL, finished_at = NULL,
    progress = NULL, error = NULL, gate = NULL, permits = 0,
    lane = {LANE}
WHERE {MINE} AND status IN ('failed', 'cancelled')
"""


# Another one that is the same has been submitted since.
HAS_SUCCESSOR = f"""
SELECT 1 FROM task JOIN task AS other ON other.caller = task.caller AND other.type = task.type
    AND other.unique_key = task.unique_key AND other.unique_key IS NOT NULL AND other.finished_at IS NULL
WHERE {MINE} AND task.finished_at IS NOT NULL AND task.unique_key IS NOT NULL
"""


def has_successor(tx: Transaction, caller: str, task_id: str) -> bool:
    """Whether it can't be tried again because of one that is the same by `unique`."""
    return tx.one(HAS_SUCCESSOR, id=task_id, caller=caller) is not None


def retry(tx: Transaction, caller: str, task_id: str) -> bool:
    """False unless the task had failed or been cancelled, and is the only one of its `unique`."""
    held = tx.one(HOLD, id=task_id, caller=caller)
    if held is None or (held[0] is not None and has_successor(tx, caller, task_id)):
        return False
    failures.forget_old(tx, task_id)
    return tx.run(RETRY, id=task_id, caller=caller, now=tx.now) == 1


RELEASE_CLAIM = """
UPDATE task SET status = 'queued', attempt = attempt - 1, lease = NULL, lease_until = NULL, started_at = NULL
WHERE status = 'running' AND lease >= :token AND lease < :token || 'g'
"""


def release_claim(tx: Transaction, token: str) -> int:
    """Puts back the tasks of a claim whose answer got lost: none of them has run. How many."""
    return tx.run(RELEASE_CLAIM, token=token)


RENEW = "UPDATE task SET lease_until = :until WHERE id IN {ids} AND lease IN {leases} RETURNING lease"

HELD = "SELECT lease FROM task WHERE id IN {ids} AND lease IN {leases}"


def renew(tx: Transaction, runs: Sequence[Claim], lease_seconds: int) -> list[Claim]:
    """The runs whose lease was no longer theirs."""
    return _without(tx, RENEW, runs, until=tx.now + lease_seconds * 1000)


def lost(tx: Transaction, runs: Sequence[Claim]) -> list[Claim]:
    """The runs whose lease is no longer theirs."""
    return _without(tx, HELD, runs)


def _without(tx: Transaction, sql: str, runs: Sequence[Claim], **values: int) -> list[Claim]:
    if not runs:
        return []
    of_runs, named = _of(sql, runs)
    held = {lease for (lease,) in tx.all(of_runs, **named, **values)}
    return [run for run in runs if run.lease not in held]


def _of(sql: str, runs: Sequence[Claim]) -> tuple[str, dict[str, str]]:
    """The statement for these runs, as far as they hold their leases, and its values."""
    task_ids, by_id = listed("id", [run.id for run in runs])
    leases, by_lease = listed("lease", [run.lease for run in runs])
    return sql.format(ids=task_ids, leases=leases), by_id | by_lease


REPORT = "UPDATE task SET progress = :progress WHERE id = :id AND lease = :lease"


def report(tx: Transaction, run: Claim, progress: str) -> bool:
    return tx.run(REPORT, id=run.id, lease=run.lease, progress=progress) == 1


SUCCEED = f"""
UPDATE task SET status = 'succeeded', finished_at = {FINISHED}, error = NULL, lease = NULL, lease_until = NULL
WHERE id IN {{ids}} AND lease IN {{leases}}
"""

INSERT_RESULT = "INSERT INTO task_result (task_id, body) VALUES (:id, :body)"

FAIL = f"""
UPDATE task SET status = 'failed', finished_at = {FINISHED}, error = :error, progress = coalesce(:progress, progress),
    lease = NULL, lease_until = NULL
WHERE id = :id AND lease = :lease RETURNING type, key, permits
"""

AGAIN = """
UPDATE task SET status = 'scheduled', run_at = :run_at, error = :error, lease = NULL, lease_until = NULL
WHERE id = :id AND lease = :lease RETURNING type, key, permits
"""


def finish(tx: Transaction, run: Claim, ending: Ending) -> bool:
    """Ends the run: its task succeeds, waits for another try, or fails. False when the lease was lost."""
    if ending.error is None:
        return _succeed(tx, run, ending)
    if is_last(run, ending):
        return _fail(tx, run, ending)
    wait = backoff_seconds(run.attempt) if ending.retry_after_seconds is None else ending.retry_after_seconds
    run_at = tx.now + int(wait * 1000)
    again = tx.all(AGAIN, id=run.id, lease=run.lease, run_at=run_at, error=ending.error)
    if not again:
        return False
    if again[0][-1]:
        tx.put("UPDATE task SET permits = 0 WHERE id = :id", id=run.id)
    give_back(tx, map(Permits._make, again))
    failures.record(tx, run.id, run.attempt, run.lease, ending.error, ending.traceback)
    return True


def is_last(run: Claim, ending: Ending) -> bool:
    """Whether a failure ends the task too."""
    return not ending.can_retry or run.attempt >= run.max_attempts


def _fail(tx: Transaction, run: Claim, ending: Ending) -> bool:
    values = {"now": tx.now, "error": ending.error, "progress": ending.progress}
    failed = tx.all(FAIL, id=run.id, lease=run.lease, **values)
    if not failed:
        return False
    give_back(tx, map(Permits._make, failed))
    failures.record(tx, run.id, run.attempt, run.lease, ending.error or "null", ending.traceback)
    checkpoints.drop(tx, [run.id])
    return True


class LeaseLost(Exception):
    """Not all of the runs have theirs. Nothing may be committed."""


def succeed(tx: Transaction, ended: Sequence[tuple[Claim, Ending]]) -> None:
    """Ends runs that have all succeeded, in two statements instead of two for each. Raises LeaseLost."""
    of_runs, named = _of(SUCCEED, [run for run, _ in ended])
    _report_last(tx, ended)
    tx.expect(len(ended), LeaseLost(), of_runs, now=tx.now, **named)
    _settle(tx, ended)


def _succeed(tx: Transaction, run: Claim, ending: Ending) -> bool:
    of_run, named = _of(SUCCEED, [run])
    _report_last(tx, [(run, ending)])
    is_held = tx.run(of_run, now=tx.now, **named) == 1
    if is_held:
        _settle(tx, [(run, ending)])
    return is_held


def _report_last(tx: Transaction, ended: Sequence[tuple[Claim, Ending]]) -> None:
    for run, ending in ended:
        if ending.progress is not None:
            tx.put(REPORT, id=run.id, lease=run.lease, progress=ending.progress)


def _settle(tx: Transaction, ended: Sequence[tuple[Claim, Ending]]) -> None:
    """What is left to do for runs that have succeeded."""
    give_back(tx, (Permits(run.type, run.key, run.permits) for run, _ in ended))
    if saved := [run.id for run, ending in ended if ending.has_checkpoint]:
        checkpoints.drop(tx, saved)
    for run, ending in ended:
        if ending.result is not None:
            tx.put(INSERT_RESULT, id=run.id, body=ending.result)


RELEASE = """
UPDATE task SET status = 'queued', attempt = attempt - 1, is_alone = :is_alone, lease = NULL, lease_until = NULL,
    started_at = NULL
WHERE id = :id AND lease = :lease
"""


def release(tx: Transaction, run: Claim, *, is_alone: bool) -> bool:
    """Puts the task back as if it had not been claimed; `is_alone`: to run with no other in its child."""
    return tx.run(RELEASE, id=run.id, lease=run.lease, is_alone=int(is_alone)) == 1


def backoff_seconds(attempt: int) -> float:
    """Doubles with every attempt, with jitter of half, so that runs that failed together are not retried together."""
    return min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)


# Materialized, or PostgreSQL may look for the due ones again for every row, and queue more than so many.
PROMOTE = f"""
UPDATE task SET status = 'queued', lane = {LANE} WHERE id IN (
    WITH due AS MATERIALIZED (
        SELECT id FROM task WHERE status = 'scheduled' AND run_at <= :now ORDER BY run_at LIMIT :most
        FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM due
)
"""

# Of tasks and of schedules, each by its index.
NEXT_DUE = """
SELECT min(due) FROM (
    SELECT * FROM (SELECT run_at AS due FROM task WHERE status = 'scheduled' ORDER BY run_at LIMIT 1) AS of_tasks
    UNION ALL
    SELECT * FROM (SELECT next_run_at FROM schedule ORDER BY next_run_at LIMIT 1) AS of_schedules
) AS dues
"""


def promote(tx: Transaction) -> int:
    """Queues what is due: how many, MAX_SWEPT at most."""
    return tx.run(PROMOTE, now=tx.now, most=MAX_SWEPT)


def seconds_to_next_due(tx: Transaction) -> float | None:
    ((due,),) = tx.all(NEXT_DUE)
    return None if due is None else (due - tx.now) / 1000


class Look(NamedTuple):
    """What there is to do for a worker, at the database's time `now` in milliseconds."""

    now: int
    has_queued: bool
    seconds_to_next_due: float | None
    has_expired_leases: bool
    has_webhooks: bool


LOOK = f"""
SELECT (SELECT 1 FROM task WHERE status = 'queued' LIMIT 1), ({NEXT_DUE}),
    (SELECT lease_until FROM task WHERE status = 'running' ORDER BY lease_until LIMIT 1),
    (SELECT lease_until FROM task WHERE status = 'running' ORDER BY lease_until DESC LIMIT 1),
    (SELECT 1 FROM webhook WHERE status = 'pending' LIMIT 1)
"""


def look(tx: Transaction, lease_seconds: int) -> Look:
    queued, due, first, last, webhook = tx.all(LOOK)[0]
    has_expired = first is not None and (first <= tx.now or last > tx.now + lease_seconds * 1000)
    return Look(tx.now, queued is not None, due and (due - tx.now) / 1000, has_expired, webhook is not None)


EXPIRED = """
SELECT id, type, attempt, max_attempts, timeout_ms, is_alone, '', lease, lease_until >= started_at + timeout_ms
FROM task
WHERE status = 'running' AND lease_until <= :now ORDER BY lease_until LIMIT :most FOR UPDATE SKIP LOCKED
"""

# A clock that was set back leaves leases that end in a year: none may end later than one that starts now.
CLAMP = "UPDATE task SET lease_until = :until WHERE status = 'running' AND lease_until > :until"

REQUEUE_LOST = """
UPDATE task SET status = 'queued', error = :error, lease = NULL, lease_until = NULL WHERE id = :id AND lease = :lease
"""


def recover(tx: Transaction, lost: str, lease_seconds: int) -> list[str]:
    """Takes back the runs whose lease is over: queued again, or failed with the error `lost` when
    that was their last attempt. The leases of runs elsewhere end with their time at the latest: these have timed out.
    The ids."""
    tx.run(CLAMP, until=tx.now + lease_seconds * 1000)
    expired = [(Claim(*row), is_late) for *row, is_late in tx.all(EXPIRED, now=tx.now, most=MAX_SWEPT)]
    for run, is_late in expired:
        if is_late and run.lease.startswith(ELSEWHERE):
            finish(tx, run, Ending(error=overran(run.timeout_ms)))
        elif run.attempt >= run.max_attempts:
            _fail(tx, run, Ending(error=lost))
        else:
            tx.put(REQUEUE_LOST, id=run.id, lease=run.lease, error=lost)
            failures.record(tx, run.id, run.attempt, run.lease, lost, None)
    return [run.id for run, _ in expired]


OLD = """
SELECT id FROM task WHERE finished_at IS NOT NULL AND finished_at < :before ORDER BY finished_at LIMIT :most
FOR UPDATE SKIP LOCKED
"""


def prune(tx: Transaction, result_ttl_seconds: int) -> int:
    """Deletes tasks that ended longer ago than that: how many, MAX_SWEPT at most, 0 when there were none."""
    old = [task_id for (task_id,) in tx.all(OLD, before=tx.now - result_ttl_seconds * 1000, most=MAX_SWEPT)]
    return _delete(tx, old)


def forget(tx: Transaction, caller: str) -> bool:
    """Deletes some tasks of a caller who is gone, running ones too: whether there were any."""
    found = tx.all("SELECT id FROM task WHERE caller = :caller LIMIT :most", caller=caller, most=MAX_SWEPT)
    return _delete(tx, [task_id for (task_id,) in found]) > 0


# coalesce keeps the planner to the primary key: the partial indexes on these columns hold many other rows.
PERMITS = "SELECT type, key, permits FROM task WHERE coalesce(permits, 0) > 0 AND coalesce(finished_at, 0) = 0"


def _delete(tx: Transaction, task_ids: Sequence[str]) -> int:
    """As many as there is time for."""
    deleted = 0
    for some in departures.in_time(task_ids):
        named, values = listed("id", some)
        keep(tx, some)
        permits = tx.all(f"{PERMITS} AND id IN {named}", **values)
        tx.put(f"DELETE FROM task_payload WHERE task_id IN {named}", **values)
        tx.put(f"DELETE FROM task_result WHERE task_id IN {named}", **values)
        failures.delete(tx, list(some))
        checkpoints.drop(tx, some)
        tx.put(f"DELETE FROM task WHERE id IN {named}", **values)
        give_back(tx, map(Permits._make, permits))
        deleted += len(some)
    return deleted
