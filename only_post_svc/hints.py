"""The hints that processes of one database send each other. One may get lost: its receivers poll as well."""

# Topics. The first four are hints as they stand; ENDED and CANCELLED are followed by the id of a task.
QUEUED = "queued"  # a task can be claimed
SCHEDULED = "scheduled"  # a task has a new time to run at
LANES = "lanes"  # a type's tasks wait apart from others, or are paused, or no longer
NOTIFY = "notify"  # there is a task whose end has to be told to a webhook
ENDED = "ended"
CANCELLED = "cancelled"


def queued_but_for(worker_id: str) -> str:
    """A task can be claimed. The worker named ignores it: its claim was in the same transaction."""
    return f"{QUEUED} {worker_id}"


def ended(task_id: str) -> str:
    """The task is final, or may be."""
    return f"{ENDED} {task_id}"


def cancelled(task_id: str) -> str:
    """The task is final, and a worker that still runs its code has to stop it."""
    return f"{CANCELLED} {task_id}"
