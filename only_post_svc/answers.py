"""The shapes of what is answered, for the OpenAPI document. Handlers write JSON; the tests hold it against these."""

from dataclasses import dataclass
from typing import Any, Literal

from only_post_svc.models import Status
from shared.openapi import DatabaseHealth, Id, Time


@dataclass(frozen=True)
class TaskError:
    """What went wrong with a task's last run. `type` is the exception's class, null where there was none."""

    code: Literal["task_error", "timeout", "worker_lost", "result_too_large", "invalid_result"]
    type: str | None
    message: str


@dataclass(frozen=True)
class Progress:
    """How far a run says it is, 0 to 1."""

    fraction: float
    message: str


@dataclass(frozen=True)
class ListedTask:
    """A task without its result. A retry that waits is `queued`, its `run_at` ahead and the last `error` shown."""

    task_id: Id
    type: str
    status: Status
    error: TaskError | None
    progress: Progress | None
    attempt: int
    max_attempts: int
    priority: int
    created_at: Time
    run_at: Time
    started_at: Time | None
    finished_at: Time | None


@dataclass(frozen=True)
class Task(ListedTask):
    """A task. `succeeded`, `failed` and `cancelled` are final, and a final task never changes."""

    result: Any


@dataclass(frozen=True)
class Batch:
    """The tasks of a batch, in its order."""

    items: list[Task]


@dataclass(frozen=True)
class TaskPage:
    """Some tasks, newest first. `next_cursor` is null on the last page."""

    items: list[ListedTask]
    next_cursor: str | None


@dataclass(frozen=True)
class TaskType:
    """What can be submitted. `payload_schema` is JSON Schema 2020-12; `timeout` in seconds."""

    type: str
    description: str
    payload_schema: dict[str, Any]
    timeout: float
    max_attempts: int


@dataclass(frozen=True)
class TaskTypes:
    items: list[TaskType]


@dataclass(frozen=True)
class QueueHealth:
    queued: int
    scheduled: int
    running: int
    oldest_queued_seconds: float | None


@dataclass(frozen=True)
class WorkerHealth:
    id: str
    host: str
    pid: int
    processes: int
    running: int
    started_at: Time
    seen_at: Time
    claimed_at: Time | None


@dataclass(frozen=True)
class Health:
    """Whether the service makes progress. `degraded`: the database does not answer, or tasks wait and nobody
    takes them."""

    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseHealth
    queue: QueueHealth | None
    workers: list[WorkerHealth]
