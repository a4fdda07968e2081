"""The attempts that failed: each is kept until its task is pruned."""

from collections.abc import Sequence
from typing import NamedTuple

from shared.database import Transaction, listed

MAX_KEPT = 50  # attempts of one task, which can be retried for ever
ID_CHARACTERS = 36
SECRET_CHARACTERS = 16


class FailureRow(NamedTuple):
    """`at` in milliseconds since 1970, `error` as JSON, `worker` the id that /health has."""

    attempt: int
    at: int
    worker: str
    error: str
    traceback: str | None


INSERT = """
INSERT INTO task_failure (task_id, attempt, at, worker, error, traceback)
VALUES (:task_id, :attempt, :at, :worker, :error, :traceback)
"""

FIND = "SELECT attempt, at, worker, error, traceback FROM task_failure WHERE task_id = :task_id ORDER BY at, attempt"

FORGET = """
DELETE FROM task_failure WHERE task_id = :task_id
    AND at < (SELECT at FROM task_failure WHERE task_id = :task_id ORDER BY at DESC LIMIT 1 OFFSET :most)
"""


def worker_of(lease: str) -> str:
    """A lease is the worker's id, a secret, and the task's id."""
    return lease[: -ID_CHARACTERS - SECRET_CHARACTERS]


def record(tx: Transaction, task_id: str, attempt: int, lease: str, error: str, traceback: str | None) -> None:
    failure = FailureRow(attempt, tx.now, worker_of(lease), error, traceback)
    tx.put(INSERT, task_id=task_id, **failure._asdict())


def of(tx: Transaction, task_id: str) -> list[FailureRow]:
    """Oldest first."""
    return [FailureRow(*row) for row in tx.all(FIND, task_id=task_id)]


def forget_old(tx: Transaction, task_id: str) -> None:
    """All but the latest MAX_KEPT."""
    tx.put(FORGET, task_id=task_id, most=MAX_KEPT)


def delete(tx: Transaction, task_ids: Sequence[str]) -> None:
    ids, values = listed("id", task_ids)
    tx.put(f"DELETE FROM task_failure WHERE task_id IN {ids}", **values)
