"""Tasks on the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from only_post_svc.bulk import Selection
from only_post_svc.failures import FailureRow
from only_post_svc.lookup import WAITING, TaskRow
from only_post_svc.registry import MAX_ATTEMPTS
from only_post_svc.webhooks import MAX_URL_LENGTH
from shared import times
from shared.bodies import Shape
from shared.openapi import Id, Time, left_out
from shared.pages import DEFAULT_LIMIT, MAX_LIMIT
from shared.schemas import Fault, Format, Limits
from shared.strict_json import encode

MIN_TIMEOUT_SECONDS = 1  # a child that overruns may have to be replaced
MAX_WAIT_SECONDS = 25  # Heroku's router gives up at 30
MAX_DELAY_SECONDS = 30 * 86400
MAX_BATCH = 1000

Wait = Annotated[float, Limits(minimum=0, maximum=MAX_WAIT_SECONDS)]
Priority = Annotated[int, Limits(minimum=-100, maximum=100)]
Timeout = Annotated[float, Limits(minimum=MIN_TIMEOUT_SECONDS)]
Key = Annotated[str, Limits(minLength=1, maxLength=255)]
MaxAttempts = Annotated[int, Limits(minimum=1, maximum=MAX_ATTEMPTS)]
Notify = Annotated[str, Format("uri"), Limits(maxLength=MAX_URL_LENGTH)]
Limit = Annotated[int, Limits(minimum=1, maximum=MAX_LIMIT)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class TaskRequest:
    """One task of a batch. Times are in seconds; `timeout` and `max_attempts` are the type's own when left out. `key`
    says what the task is about. While a task with the same `unique` has not ended, no other is made: the answer is that
    task. With `replace` it takes the new payload, time and settings, if it has not started."""

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    delay: Annotated[float, Limits(minimum=0, maximum=MAX_DELAY_SECONDS)] = 0
    run_at: Annotated[str, Format("date-time")] | None = None
    priority: Priority = 0
    timeout: Timeout | None = None
    max_attempts: MaxAttempts | None = None
    key: Key | None = None
    unique: Key | None = None
    replace: bool = False
    notify: Notify | None = None


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
class TaskFilter:
    """The caller's tasks that fit all members."""

    type: str | None = None
    status: Status | None = None
    key: Key | None = None
    submitted_before: Annotated[str, Format("date-time")] | None = None


@dataclass(frozen=True)
class ChangeRequest:
    """One task, or all that fit a filter."""

    task_id: str | None = None
    filter: TaskFilter | None = None

    def selection(self, caller: str) -> Selection | None:
        """What the filter selects, None without one."""
        if self.filter is None:
            return None
        wanted: dict[str, Any] = dict(vars(self.filter))
        if wanted["submitted_before"] is not None:
            wanted["submitted_before"] = times.from_text(wanted["submitted_before"])
        return Selection(caller, **wanted)


@dataclass(frozen=True)
class ListRequest:
    status: Status | None = None
    type: str | None = None
    key: Key | None = None
    limit: Limit = DEFAULT_LIMIT
    cursor: str | None = None


TASK_REQUEST = Shape(TaskRequest)
SUBMIT_REQUEST = Shape(SubmitRequest)
BATCH_REQUEST = Shape(BatchRequest)
RESULT_REQUEST = Shape(ResultRequest)
CHANGE_REQUEST = Shape(ChangeRequest)
LIST_REQUEST = Shape(ListRequest)


def change_faults(sent: Mapping[str, Any]) -> list[Fault]:
    is_one = (sent.get("task_id") is None) != (sent.get("filter") is None)
    return [] if is_one else [Fault("/task_id", "required, or filter; not both")]


@dataclass(frozen=True)
class TaskError:
    """What went wrong with a task's last run. `type` is the exception's class, null where there was none."""

    code: Literal["task_error", "timeout", "worker_lost", "result_too_large", "invalid_result"]
    type: str | None
    message: str


@dataclass(frozen=True)
class Progress:
    """How far a run says it has come, 0 to 1."""

    fraction: float
    message: str


@dataclass(frozen=True, kw_only=True)
class ListedTask:
    """A task without its result. One that waits to be tried again is `queued`, with its `run_at` ahead and its last
    `error`. One that a bound or a pause holds back is `queued` too, and `held` names which."""

    task_id: Id
    type: str
    key: str = left_out()
    status: Status
    held: Literal["max_running_per_key", "max_running", "paused"] = left_out()
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
class Notified:
    """How the delivery of the task's end to `url` went. `failed` was given up."""

    url: str
    status: Literal["pending", "sent", "failed"]
    attempts: int
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class Task(ListedTask):
    """A task. `succeeded`, `failed` and `cancelled` are final, and a final task never changes."""

    result: Any
    notify: Notified = left_out()


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that failed. `traceback` is there in development only."""

    attempt: int
    at: Time
    error: TaskError
    traceback: str | None = None


@dataclass(frozen=True)
class FetchedTask(Task):
    """A task with all its attempts that failed, oldest first."""

    failures: list[FailedAttempt] = field(kw_only=True)


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
class Changed:
    """How many tasks were changed. `has_more`: the request has reached its bound, and more tasks fit."""

    count: int
    has_more: bool


def task_json(task: TaskRow) -> str:
    """A task as clients see it. What is JSON already (result, error, progress) goes in as it is."""
    notify = f'"notify":{task.notify},' if task.notify else ""
    return _json(task, f'"result":{task.result or "null"},{notify}')


def fetched_json(task: TaskRow, failed: list[FailureRow], *, with_traceback: bool) -> str:
    """A task as /api/result shows it."""
    items = ",".join(_failure_json(one, with_traceback=with_traceback) for one in failed)
    return f'{task_json(task)[:-1]},"failures":[{items}]}}'


def _failure_json(one: FailureRow, *, with_traceback: bool) -> str:
    traceback = f',"traceback":{encode(one.traceback)}' if with_traceback else ""
    return f'{{"attempt":{one.attempt},"at":{time_json(one.at)},"error":{one.error}{traceback}}}'


def listed_json(task: TaskRow) -> str:
    """A task in a list, which has no results: two hundred may be large."""
    return _json(task, "")


def _json(task: TaskRow, result: str) -> str:
    key = f'"key":{json.dumps(task.key)},' if task.key is not None else ""
    held = f'"held":"{task.held}",' if task.held is not None else ""
    return (
        f'{{"task_id":"{task.id}","type":{json.dumps(task.type)},{key}"status":"{status_of(task)}",{held}'
        f'{result}"error":{task.error or "null"},"progress":{task.progress or "null"},'
        f'"attempt":{task.attempt},"max_attempts":{task.max_attempts},"priority":{task.priority},'
        f'"created_at":{time_json(task.created_at)},"run_at":{time_json(task.run_at)},'
        f'"started_at":{time_json(task.started_at)},"finished_at":{time_json(task.finished_at)}}}'
    )


def status_of(task: TaskRow) -> str:
    return "queued" if task.status in WAITING else task.status


def time_json(milliseconds: int | None) -> str:
    return "null" if milliseconds is None else f'"{times.to_text(milliseconds)}"'
