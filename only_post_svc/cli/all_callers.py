"""Tasks of all callers, for the operator. Changes are the queue's own, in the name of the task's caller."""

from collections.abc import Callable
from typing import NamedTuple

from only_post_svc import lookup
from only_post_svc.lookup import COLUMNS, CONDITIONS, TaskRow
from shared.cli.terminal import Failure
from shared.database import Transaction


class Overseen(NamedTuple):
    """A task and its caller, '' where no token was sent. `payload` is JSON."""

    caller: str
    task: TaskRow
    payload: str = ""


# Sorting all tasks of one status may take long, which no client has to wait for: commands read by `query`.
LIST = f"SELECT task.caller, {COLUMNS} FROM task {{where}} ORDER BY task.id DESC LIMIT :limit"

QUEUED = "finished_at IS NULL AND status IN ('queued', 'scheduled', 'held')"


def list_newest(
    tx: Transaction, limit: int, *, status: str | None = None, type: str | None = None, caller: str | None = None
) -> list[Overseen]:
    """Up to `limit` tasks, newest first, without payloads and results. Waiting ones are 'queued' whether due or not."""
    conditions = []
    if status is not None:
        conditions.append(QUEUED if status == "queued" else CONDITIONS[status].removeprefix("AND "))
    if type is not None:
        conditions.append("type = :type")
    if caller is not None:
        conditions.append("caller = :caller")
    sql = LIST.format(where=f"WHERE {' AND '.join(conditions)}" if conditions else "")
    return [Overseen(row[0], TaskRow(*row[1:])) for row in tx.all(sql, type=type, caller=caller, limit=limit)]


OWNER = """
SELECT task.caller, task_payload.body FROM task JOIN task_payload ON task_payload.task_id = task.id WHERE task.id = :id
"""


BEGINS = "SELECT id FROM task WHERE id >= :prefix AND id < :prefix || 'g' ORDER BY id LIMIT 2"


def id_of(tx: Transaction, prefix: str) -> str:
    """The one id that begins so; `prefix` itself where there is none. Raises Failure where there are several."""
    found = tx.all(BEGINS, prefix=prefix)
    if len(found) > 1:
        raise Failure(f"{prefix} is the beginning of more than one task's id")
    return str(found[0][0]) if found else prefix


def find(tx: Transaction, task_id: str) -> Overseen | None:
    task_id = id_of(tx, task_id)
    row = tx.one(OWNER, id=task_id)
    task = lookup.find(tx, row[0], task_id) if row else None
    return Overseen(row[0], task, row[1]) if row and task else None


def apply(
    tx: Transaction, task_id: str, change: Callable[[Transaction, str, str], bool]
) -> tuple[bool, Overseen | None]:
    """Whether it was changed (by `queue.cancel`, say), and the task after that."""
    found = find(tx, task_id)
    is_changed = found is not None and change(tx, found.caller, found.task.id)
    return is_changed, find(tx, task_id)


COUNT_ENDED = "SELECT count(*) FROM task WHERE finished_at IS NOT NULL AND finished_at < :before"


def count_ended(tx: Transaction, older_than_seconds: int) -> int:
    """How many tasks ended longer ago than that."""
    row = tx.one(COUNT_ENDED, before=tx.now - older_than_seconds * 1000)
    return int(row[0]) if row else 0
