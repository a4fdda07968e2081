"""The shapes on the wire."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from only_post_svc.queue import NewTask, TaskRow
from only_post_svc.registry import MAX_ATTEMPTS, TaskType
from shared import times
from shared.bodies import Shape
from shared.errors import Invalid
from shared.openapi import DatabaseHealth, Id, Time
from shared.pages import DEFAULT_LIMIT, MAX_LIMIT
from shared.schemas import Check, Fault, Format, Limits, validator
from shared.strict_json import encode

MAX_WAIT_SECONDS = 25  # Heroku's router gives up at 30
MAX_DELAY_SECONDS = 30 * 86400
MAX_BATCH = 1000

Wait = Annotated[float, Limits(minimum=0, maximum=MAX_WAIT_SECONDS)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class TaskRequest:
    """One task of a batch. Seconds; `timeout` and `max_attempts` are the type's own when left out."""

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    delay: Annotated[float, Limits(minimum=0, maximum=MAX_DELAY_SECONDS)] = 0
    run_at: Annotated[str, Format("date-time")] | None = None
    priority: Annotated[int, Limits(minimum=-100, maximum=100)] = 0
    timeout: Annotated[float, Limits(exclusiveMinimum=0)] | None = None
    max_attempts: Annotated[int, Limits(minimum=1, maximum=MAX_ATTEMPTS)] | None = None


@dataclass(frozen=True)
class SubmitRequest(TaskRequest):
    wait: Wait = 0


@dataclass(frozen=True)
class BatchRequest:
    tasks: Annotated[list[dict[str, Any]], Limits(minItems=1, maxItems=MAX_BATCH)]


@dataclass(frozen=True)
class ResultRequest:
    task_id: str
    wait: Wait = 0


@dataclass(frozen=True)
class TaskIdRequest:
    task_id: str


@dataclass(frozen=True)
class ListRequest:
    status: Status | None = None
    type: str | None = None
    limit: Annotated[int, Limits(minimum=1, maximum=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: str | None = None


@dataclass(frozen=True)
class EmptyRequest:
    pass


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
class ListedType:
    """What can be submitted. `payload_schema` is JSON Schema 2020-12; `timeout` in seconds."""

    type: str
    description: str
    payload_schema: dict[str, Any]
    timeout: float
    max_attempts: int


@dataclass(frozen=True)
class TaskTypes:
    items: list[ListedType]


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


TASK = Shape(TaskRequest)
SUBMIT = Shape(SubmitRequest)
BATCH = Shape(BatchRequest)
RESULT = Shape(ResultRequest)
TASK_ID = Shape(TaskIdRequest)
LIST = Shape(ListRequest)
EMPTY = Shape(EmptyRequest)


class Types:
    """The task types of this service, each with the check of its payload made ready."""

    def __init__(self, types: dict[str, TaskType]) -> None:
        self._types = types
        self._checks: dict[str, Check] = {name: validator(type.payload_schema) for name, type in types.items()}

    def new_task(self, request: TaskRequest) -> NewTask:
        """What the queue stores of a request. Raises Invalid."""
        task_type = self._types.get(request.type)
        if task_type is None:
            raise Invalid([Fault("/type", "unknown task type; POST /api/types lists them")])
        faults: list[Fault] = []
        self._checks[request.type](request.payload, "/payload", faults)
        timeout = task_type.timeout if request.timeout is None else request.timeout
        if timeout > task_type.timeout:
            faults.append(Fault("/timeout", f"must be at most {task_type.timeout:g}"))
        run_at = _run_at(request, faults)
        if faults:
            raise Invalid(faults)
        return NewTask(
            type=request.type,
            payload=encode(request.payload),
            timeout_ms=max(1, int(timeout * 1000)),
            max_attempts=int(request.max_attempts or task_type.max_attempts),
            priority=int(request.priority),
            delay_ms=int(request.delay * 1000),
            run_at=run_at,
        )

    def listing(self) -> list[dict[str, Any]]:
        return [
            {
                "type": type.type,
                "description": type.description,
                "payload_schema": type.payload_schema,
                "timeout": type.timeout,
                "max_attempts": type.max_attempts,
            }
            for type in self._types.values()
        ]


def _run_at(request: TaskRequest, faults: list[Fault]) -> int | None:
    if request.run_at is None:
        return None
    if request.delay:
        faults.append(Fault("/run_at", "not together with delay"))
    try:
        return times.from_text(request.run_at)
    except (ValueError, OverflowError):
        faults.append(Fault("/run_at", "must be an RFC 3339 time such as 2026-11-22T08:30:00Z"))
        return None


def task_json(task: TaskRow) -> str:
    """A task as clients see it. What is JSON already (result, error, progress) goes in as it is."""
    return _json(task, f'"result":{task.result or "null"},')


def listed_json(task: TaskRow) -> str:
    """A task in a list, which has no results: two hundred may be large."""
    return _json(task, "")


def _json(task: TaskRow, result: str) -> str:
    return (
        f'{{"task_id":"{task.id}","type":{json.dumps(task.type)},"status":"{status_of(task)}",'
        f'{result}"error":{task.error or "null"},"progress":{task.progress or "null"},'
        f'"attempt":{task.attempt},"max_attempts":{task.max_attempts},"priority":{task.priority},'
        f'"created_at":{_time(task.created_at)},"run_at":{_time(task.run_at)},'
        f'"started_at":{_time(task.started_at)},"finished_at":{_time(task.finished_at)}}}'
    )


def status_of(task: TaskRow) -> str:
    return "queued" if task.status == "scheduled" else task.status


def _time(milliseconds: int | None) -> str:
    return "null" if milliseconds is None else f'"{times.to_text(milliseconds)}"'
