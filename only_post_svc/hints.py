"""The hints that processes of one database send each other. One may get lost: its receivers poll as well."""

QUEUED = "queued"  # a task can be claimed
SCHEDULED = "scheduled"  # a task has a new time to run at
LANES = "lanes"  # a type's tasks wait apart from others, or are paused, or no longer
NOTIFY = "notify"  # there is a task whose end has to be told to a webhook


def ended(task_id: str) -> str:
    """The task is final, or may be."""
    return f"ended {task_id}"


def cancelled(task_id: str) -> str:
    """The task is final, and a worker that still runs its code has to stop it."""
    return f"cancelled {task_id}"


def parse(hint: str) -> tuple[str, str]:
    """The kind of a hint, and the task that it is about ('' where it is about none)."""
    kind, _, task_id = hint.partition(" ")
    return kind, task_id
