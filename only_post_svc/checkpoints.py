"""Checkpoints: a JSON value that a task's code stores for its next attempt, deleted when the task ends."""

from collections.abc import Sequence

from shared.database import Transaction, listed

# Fenced by the lease, like all writes of a run.
SAVE = """
INSERT INTO task_checkpoint (task_id, body) SELECT id, :body FROM task WHERE id = :id AND lease = :lease
ON CONFLICT (task_id) DO UPDATE SET body = excluded.body
"""


def save(tx: Transaction, task_id: str, lease: str, body: str) -> bool:
    """False when the lease was lost."""
    return tx.run(SAVE, id=task_id, lease=lease, body=body) == 1


def drop(tx: Transaction, task_ids: Sequence[str]) -> None:
    ids, values = listed("id", task_ids)
    tx.put(f"DELETE FROM task_checkpoint WHERE task_id IN {ids}", **values)
