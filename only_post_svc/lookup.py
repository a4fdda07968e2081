"""Tasks as they are looked up: one by its id, several, pages and counts.

Statuses are as in the table: what clients see as queued may be scheduled or held.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from only_post_svc import webhooks
from shared.database import Transaction, listed

MAX_LISTED = 500  # ids in one statement
WAITING = ("queued", "scheduled", "held")  # queued, for clients
FINAL = frozenset({"succeeded", "failed", "cancelled"})


class TaskRow(NamedTuple):
    """A row of the table, in the order of COLUMNS. Times in milliseconds since 1970."""

    id: str
    type: str
    status: str
    priority: int
    attempt: int
    max_attempts: int
    created_at: int
    run_at: int
    started_at: int | None
    finished_at: int | None
    progress: str | None  # JSON
    error: str | None  # JSON
    key: str | None = None
    held: str | None = None  # by what, of those that wait
    result: str | None = None  # JSON
    has_webhook: int = 0
    has_failures: int = 0  # 1 when an attempt has failed
    notify: str | None = None  # JSON

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


COLUMNS = """task.id, task.type, task.status, task.priority, task.attempt, task.max_attempts, task.created_at,
    task.run_at, task.started_at, task.finished_at, task.progress, task.error, task.key,
    CASE WHEN task.status NOT IN ('queued', 'held') THEN NULL
        WHEN task.type IN (SELECT type FROM lane WHERE is_paused = 1) THEN 'paused'
        WHEN task.gate = '' THEN 'max_running' WHEN task.gate IS NOT NULL THEN 'max_running_per_key' END"""


# coalesce hides the caller from the planner, which may prefer the caller's index to the primary key.
MINE = "task.id = :id AND coalesce(task.caller, '') = :caller"

WITH_RESULT = f"""
SELECT {COLUMNS}, task_result.body, task.has_webhook,
    coalesce((SELECT 1 FROM task_failure WHERE task_failure.task_id = task.id LIMIT 1), 0)
FROM task LEFT JOIN task_result ON task_result.task_id = task.id
"""
FIND = f"{WITH_RESULT} WHERE {MINE}"
FIND_ENDED = f"{WITH_RESULT} WHERE task.id IN {{ids}} AND task.finished_at IS NOT NULL"


def find(tx: Transaction, caller: str, task_id: str) -> TaskRow | None:
    row = tx.one(FIND, id=task_id, caller=caller)
    if row is None:
        return None
    task = TaskRow(*row)
    return _with_webhooks(tx, [task])[0] if task.has_webhook else task


def _with_webhooks(tx: Transaction, tasks: list[TaskRow]) -> list[TaskRow]:
    found = webhooks.find(tx, [task.id for task in tasks if task.has_webhook])
    return [task._replace(notify=found[task.id].json) if task.id in found else task for task in tasks]


def find_ended(tx: Transaction, task_ids: Sequence[str]) -> list[TaskRow]:
    """Those of them that have ended, of any caller."""
    return _with_webhooks(tx, find_ended_later(tx, task_ids)())


def find_ended_later(tx: Transaction, task_ids: Sequence[str]) -> Callable[[], list[TaskRow]]:
    """Those of them that have ended, of any caller, without `notify`. They come with the commit."""
    if not task_ids:
        return list
    named, values = listed("id", task_ids)
    rows = tx.later(FIND_ENDED.format(ids=named), **values)
    return lambda: [TaskRow(*row) for row in rows()]


def ended(tx: Transaction, task_ids: Sequence[str]) -> list[str]:
    """Those of them that have ended."""
    found: list[str] = []
    for start in range(0, len(task_ids), MAX_LISTED):
        named, values = listed("id", task_ids[start : start + MAX_LISTED])
        sql = f"SELECT id FROM task WHERE id IN {named} AND finished_at IS NOT NULL"
        found += [task_id for (task_id,) in tx.all(sql, **values)]
    return found


# Every filter walks an index that holds little else. Statuses are written out, since only so the planner sees that
# a partial index fits.
CONDITIONS = {
    "scheduled": "AND finished_at IS NULL AND status = 'scheduled'",
    "queued": "AND finished_at IS NULL AND status = 'queued'",
    "held": "AND finished_at IS NULL AND status = 'held'",
    "running": "AND finished_at IS NULL AND status = 'running'",
    "succeeded": "AND status = 'succeeded'",
    "failed": "AND status = 'failed'",
    "cancelled": "AND status = 'cancelled'",
}


def list_newest(
    tx: Transaction,
    caller: str,
    *,
    status: str | None,
    type: str | None,
    before: str | None,
    limit: int,
    key: str | None = None,
) -> list[TaskRow]:
    """Up to `limit` tasks with ids below `before`, newest first, without results."""
    sql = _list_sql(status, type, before, key)
    if status == "queued":
        waiting = (f"SELECT * FROM ({_list_sql(one, type, before, key)}) AS {one}" for one in WAITING)
        sql = f"{' UNION ALL '.join(waiting)} ORDER BY 1 DESC LIMIT :limit"
    return [TaskRow(*row) for row in tx.all(sql, caller=caller, type=type, key=key, before=before, limit=limit)]


def _list_sql(status: str | None, type: str | None, before: str | None, key: str | None) -> str:
    filters = [CONDITIONS[status] if status else ""]
    if key is not None:  # few tasks have the same one
        filters = [f"AND key = :key AND coalesce(status, '') = '{status}'" if status else "AND key = :key"]
        filters += ["AND coalesce(type, '') = :type"] if type is not None else []
    elif type is not None:
        # Of a status, a type is found among the few of the status and not among all of the type.
        filters.append("AND coalesce(type, '') = :type" if status not in (None, "succeeded") else "AND type = :type")
    if before is not None:
        filters.append("AND id < :before")
    return f"SELECT {COLUMNS} FROM task WHERE caller = :caller {' '.join(filters)} ORDER BY id DESC LIMIT :limit"


COUNT_WAITING = """
SELECT (SELECT count(*) FROM task WHERE status = 'queued')
     + (SELECT count(*) FROM task WHERE status = 'scheduled')
     + (SELECT count(*) FROM task WHERE status = 'held')
"""
# In one list: a single status would let a planner with old statistics walk the queued tasks of all callers.
COUNT_WAITING_OF_CALLER = """
SELECT count(*) FROM task
WHERE caller = :caller AND finished_at IS NULL AND status IN ('queued', 'scheduled', 'held')
"""


def count_waiting(tx: Transaction, caller: str | None = None) -> int:
    """Of one caller, or of all."""
    row = tx.one(COUNT_WAITING) if caller is None else tx.one(COUNT_WAITING_OF_CALLER, caller=caller)
    return int(row[0]) if row else 0
