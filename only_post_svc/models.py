"""The shapes on the wire."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from only_post_svc.bulk import Selection
from only_post_svc.elsewhere import Held, Lease, RunElsewhere
from only_post_svc.failures import Failure
from only_post_svc.queue import WAITING, Ending, NewTask, TaskRow
from only_post_svc.recurrence import MAX_CRON_LENGTH, MAX_EVERY_SECONDS, MIN_EVERY_SECONDS, Recurrence
from only_post_svc.registry import MAX_ATTEMPTS, TaskType
from only_post_svc.schedules import MAX_PAYLOAD_BYTES, NewSchedule, ScheduleRow
from only_post_svc.webhooks import ANYONE, MAX_URL_LENGTH, Receivers
from shared import times
from shared.bodies import Shape
from shared.errors import Invalid
from shared.openapi import DatabaseHealth, Id, Time, left_out
from shared.pages import DEFAULT_LIMIT, MAX_LIMIT
from shared.schemas import Check, Fault, Format, Limits, validator
from shared.strict_json import encode

MIN_TIMEOUT_SECONDS = 1  # a child that overruns may have to be replaced
MAX_WAIT_SECONDS = 25  # Heroku's router gives up at 30
MAX_DELAY_SECONDS = 30 * 86400
MAX_BATCH = 1000
MAX_RUNS = 100  # of one claim, renewal or finish of workers elsewhere
MAX_MESSAGE = 2000  # characters of an error or a progress message, as in worker/runner.py

Wait = Annotated[float, Limits(minimum=0, maximum=MAX_WAIT_SECONDS)]
Name = Annotated[str, Limits(minLength=1, maxLength=255)]
Priority = Annotated[int, Limits(minimum=-100, maximum=100)]
Timeout = Annotated[float, Limits(minimum=MIN_TIMEOUT_SECONDS)]
Key = Annotated[str, Limits(minLength=1, maxLength=255)]
MaxAttempts = Annotated[int, Limits(minimum=1, maximum=MAX_ATTEMPTS)]
Notify = Annotated[str, Format("uri"), Limits(maxLength=MAX_URL_LENGTH)]
Limit = Annotated[int, Limits(minimum=1, maximum=MAX_LIMIT)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class TaskRequest:
    """One task of a batch. Seconds; `timeout` and `max_attempts` are the type's own when left out. `key` says what it
    is about. While a task with the same `unique` has not ended, none is made: the answer is that one, which takes the
    new payload, time and settings with `replace` if it has not started."""

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
    """All of the caller's tasks that have this in common."""

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
        """What the filter selects, None without one. Raises Invalid."""
        if (self.task_id is None) == (self.filter is None):
            raise Invalid([Fault("/task_id", "required, or filter; not both")])
        if self.filter is None:
            return None
        wanted: dict[str, Any] = {"submitted_before": None, **vars(self.filter)}
        if wanted["submitted_before"] is not None:
            wanted["submitted_before"] = _moment(wanted["submitted_before"], "/filter/submitted_before")
        return Selection(caller, **wanted)


@dataclass(frozen=True)
class TypeRequest:
    type: str


@dataclass(frozen=True)
class ListRequest:
    status: Status | None = None
    type: str | None = None
    key: Key | None = None
    limit: Limit = DEFAULT_LIMIT
    cursor: str | None = None


@dataclass(frozen=True)
class ScheduleRequest:
    """What makes a task again and again: by a `cron` expression of five fields in the local time of `timezone`, or
    `every` so many seconds. Without `overlap` a tick makes none while the task of the one before has not ended."""

    name: Name
    type: str
    cron: Annotated[str, Limits(minLength=1, maxLength=MAX_CRON_LENGTH)] | None = None
    every: Annotated[float, Limits(minimum=MIN_EVERY_SECONDS, maximum=MAX_EVERY_SECONDS)] | None = None
    timezone: str = "UTC"
    payload: dict[str, Any] = field(default_factory=dict)
    priority: Priority = 0
    timeout: Timeout | None = None
    max_attempts: MaxAttempts | None = None
    key: Key | None = None
    notify: Notify | None = None
    overlap: bool = False

    def of_task(self) -> TaskRequest:
        return TaskRequest(
            type=self.type,
            payload=self.payload,
            priority=self.priority,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
            key=self.key,
            notify=self.notify,
        )


@dataclass(frozen=True)
class SchedulesRequest:
    limit: Limit = DEFAULT_LIMIT
    cursor: str | None = None


@dataclass(frozen=True)
class UnscheduleRequest:
    name: Name


@dataclass(frozen=True)
class ClaimRequest:
    """`types` are those that the worker has code for."""

    types: Annotated[list[str], Limits(minItems=1, maxItems=MAX_RUNS)]
    limit: Annotated[int, Limits(minimum=1, maximum=MAX_RUNS)] = 1
    wait: Wait = 0


@dataclass(frozen=True)
class ProgressRequest:
    fraction: Annotated[float, Limits(minimum=0, maximum=1)]
    message: Annotated[str, Limits(maxLength=MAX_MESSAGE)] = ""


@dataclass(frozen=True)
class RenewedRun:
    task_id: str
    lease: str
    progress: ProgressRequest | None = None
    checkpoint: Any = None


@dataclass(frozen=True)
class RenewRequest:
    runs: Annotated[list[RenewedRun], Limits(minItems=1, maxItems=MAX_RUNS)]


@dataclass(frozen=True)
class RunError:
    message: str
    type: Annotated[str, Limits(maxLength=255)] | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A run that has succeeded has a `result`, one that has failed an `error`: without `retry` that ends its task. Its
    next attempt finds the latest `checkpoint`."""

    task_id: str
    lease: str
    result: Any = None
    error: RunError | None = None
    retry: bool = True
    checkpoint: Any = None
    retry_after: Annotated[float, Limits(minimum=0, maximum=MAX_DELAY_SECONDS)] | None = None


@dataclass(frozen=True)
class FinishRequest:
    runs: Annotated[list[FinishedRun], Limits(minItems=1, maxItems=MAX_RUNS)]


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
class Changed:
    """How many tasks were changed; `has_more`: as many as one request may, and others fit too."""

    count: int
    has_more: bool


@dataclass(frozen=True)
class PausedType:
    type: str
    paused: bool


@dataclass(frozen=True, kw_only=True)
class ListedTask:
    """A task without its result. A retry that waits is `queued`, its `run_at` ahead and the last `error` shown; so is
    one that a bound or a pause holds back, which `held` names."""

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
    """How it went to tell `url` of the task's end. `failed` is given up."""

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
class Schedule:
    """`skipped` counts the ticks that made no task: the one before had not ended, or the queue was full. `in_code`:
    it stands in the service's code, and goes when the code no longer says so."""

    name: str
    type: str
    payload: dict[str, Any]
    cron: str | None
    every: float | None
    timezone: str
    priority: int
    timeout: float
    max_attempts: int
    overlap: bool
    key: str | None
    notify: str | None
    in_code: bool
    created_at: Time
    next_run_at: Time
    last_task_id: Id | None
    skipped: int


@dataclass(frozen=True)
class SchedulePage:
    """Some schedules, by name. `next_cursor` is null on the last page."""

    items: list[Schedule]
    next_cursor: str | None


@dataclass(frozen=True)
class ClaimedRun:
    """A task for a worker to run: it has until `deadline`, and has to renew before `lease_until`. `saved` is the latest
    checkpoint of the attempts before, null where there is none."""

    task_id: Id
    type: str
    payload: dict[str, Any]
    attempt: int
    max_attempts: int
    lease: str
    deadline: Time
    lease_until: Time
    key: str | None
    traceparent: str | None
    saved: Any


@dataclass(frozen=True)
class ClaimedRuns:
    items: list[ClaimedRun]


@dataclass(frozen=True)
class HeldRun:
    """Whether the run held its lease. One that did not is to be stopped, and has written nothing."""

    task_id: str
    is_held: bool
    lease_until: Time | None


@dataclass(frozen=True)
class HeldRuns:
    """In the order of the request."""

    items: list[HeldRun]


@dataclass(frozen=True)
class ListedType:
    """What can be submitted. `payload_schema` is JSON Schema 2020-12; `timeout` in seconds. `paused` is there while
    none of its tasks is claimed."""

    type: str
    description: str
    payload_schema: dict[str, Any]
    timeout: float
    max_attempts: int
    paused: bool = left_out()


@dataclass(frozen=True)
class TaskTypes:
    items: list[ListedType]


@dataclass(frozen=True)
class QueueHealth:
    """How many tasks can run, are for later, run. `oldest_queued_seconds` is the longest that one which can run has
    waited. Where there are any: how many a bound has `held`, the types that are `paused`, and those of which tasks have
    waited for long, as no worker has the type (`unclaimed`)."""

    queued: int
    scheduled: int
    running: int
    oldest_queued_seconds: float | None
    unknown_types: list[str] = left_out()  # where tasks wait that no code here runs
    held: int = left_out()
    paused: list[str] = left_out()
    unclaimed: list[str] = left_out()


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
class BriefHealth:
    """What `/health` says without a token where one is asked for."""

    status: Literal["ok", "degraded"]
    version: str


@dataclass(frozen=True)
class Health:
    """Whether the service makes progress. `degraded`: the database does not answer, or tasks wait and no worker
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
CHANGE = Shape(ChangeRequest)
TYPE = Shape(TypeRequest)
LIST = Shape(ListRequest)
SCHEDULE = Shape(ScheduleRequest)
SCHEDULES = Shape(SchedulesRequest)
UNSCHEDULE = Shape(UnscheduleRequest)
CLAIM = Shape(ClaimRequest)
RENEW = Shape(RenewRequest)
FINISH = Shape(FinishRequest)
EMPTY = Shape(EmptyRequest)


class Types:
    """The task types of this service, each with the check of its payload made ready."""

    def __init__(self, types: dict[str, TaskType], receivers: Receivers = ANYONE) -> None:
        self._receivers = receivers
        self._types = types
        self._checks: dict[str, Check] = {name: validator(type.payload_schema) for name, type in types.items()}

    def new_task(self, request: TaskRequest) -> NewTask:
        """The task that a request asks for. Raises Invalid."""
        task_type = self._types.get(request.type)
        if task_type is None:
            raise Invalid([Fault("/type", "unknown task type; POST /api/types lists them")])
        faults: list[Fault] = []
        self._checks[request.type](request.payload, "/payload", faults)
        timeout = task_type.timeout if request.timeout is None else request.timeout
        if timeout > task_type.timeout:
            faults.append(Fault("/timeout", f"must be at most {task_type.timeout:g}"))
        if request.replace and request.unique is None:
            faults.append(Fault("/replace", "only beside unique"))
        run_at = _run_at(request, faults)
        if request.notify is not None and (wrong := self._receivers.fault(request.notify)):
            faults.append(Fault("/notify", wrong))
        if faults:
            raise Invalid(faults)
        return NewTask(
            type=request.type,
            payload=encode(request.payload),
            timeout_ms=max(1, int(timeout * 1000)),
            max_attempts=request.max_attempts or task_type.max_attempts,
            priority=request.priority,
            delay_ms=int(request.delay * 1000),
            run_at=run_at,
            is_alone=not task_type.is_async,
            notify=request.notify,
            key=request.key,
            unique=request.unique,
            replace=request.replace,
            lane=request.type if task_type.elsewhere else "",
        )

    def check_elsewhere(self, types: list[str]) -> None:
        """Raises Invalid unless the code of all of them runs elsewhere."""
        faults = [
            Fault(f"/types/{number}", "not a type whose code runs elsewhere")
            for number, name in enumerate(types)
            if name not in self._types or not self._types[name].elsewhere
        ]
        if faults:
            raise Invalid(faults)

    def scope(self, type: str) -> str:
        """What a caller needs for it; '' also for a type that is unknown."""
        return self._types[type].scope if type in self._types else ""

    def scopes(self, has_scope: Callable[[str], bool]) -> frozenset[str]:
        """Those of the types that the caller has; '' is one that every caller has."""
        return frozenset(filter(has_scope, {type.scope for type in self._types.values()}))

    def new_schedule(self, request: ScheduleRequest, now: int, *, is_person: bool = False) -> NewSchedule:
        """What a request asks for at `now`. Raises Invalid."""
        every_ms = None if request.every is None else int(request.every * 1000)
        recurrence = Recurrence(request.cron, every_ms, request.timezone)
        faults = recurrence.faults(now)
        try:
            new = self.new_task(request.of_task())
        except Invalid as invalid:
            raise Invalid(invalid.errors + faults) from None
        if len(new.payload.encode()) > MAX_PAYLOAD_BYTES:
            faults.append(Fault("/payload", f"must be at most {MAX_PAYLOAD_BYTES} bytes of JSON in a schedule"))
        if faults:
            raise Invalid(faults)
        return NewSchedule(request.name, recurrence, new._replace(is_person=is_person), overlap=request.overlap)

    def __contains__(self, type: str) -> bool:
        return type in self._types

    def listing(
        self, paused: Collection[str] = (), may_see: Callable[[str], bool] = lambda scope: True
    ) -> list[dict[str, Any]]:
        """Those whose scope the caller has."""
        return [
            {
                "type": type.type,
                "description": type.description,
                "payload_schema": type.payload_schema,
                "timeout": type.timeout,
                "max_attempts": type.max_attempts,
                **({"paused": True} if type.type in paused else {}),
            }
            for type in self._types.values()
            if may_see(type.scope)
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


def _moment(text: str, pointer: str) -> int:
    """In milliseconds. Raises Invalid."""
    try:
        return times.from_text(text)
    except (ValueError, OverflowError):
        raise Invalid([Fault(pointer, "must be an RFC 3339 time such as 2026-11-22T08:30:00Z")]) from None


def task_json(task: TaskRow) -> str:
    """A task as clients see it. What is JSON already (result, error, progress) goes in as it is."""
    notify = f'"notify":{task.notify},' if task.notify else ""
    return _json(task, f'"result":{task.result or "null"},{notify}')


def fetched_json(task: TaskRow, failed: list[Failure], *, with_traceback: bool) -> str:
    """A task as /api/result shows it."""
    items = ",".join(_failure_json(one, with_traceback=with_traceback) for one in failed)
    return f'{task_json(task)[:-1]},"failures":[{items}]}}'


def _failure_json(one: Failure, *, with_traceback: bool) -> str:
    traceback = f',"traceback":{encode(one.traceback)}' if with_traceback else ""
    return f'{{"attempt":{one.attempt},"at":{_time(one.at)},"error":{one.error}{traceback}}}'


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
        f'"created_at":{_time(task.created_at)},"run_at":{_time(task.run_at)},'
        f'"started_at":{_time(task.started_at)},"finished_at":{_time(task.finished_at)}}}'
    )


def claimed_json(run: RunElsewhere) -> str:
    claim = run.claim
    return (
        f'{{"task_id":"{claim.id}","type":{json.dumps(claim.type)},"payload":{claim.payload},'
        f'"attempt":{claim.attempt},"max_attempts":{claim.max_attempts},"lease":"{claim.lease}",'
        f'"deadline":{_time(run.deadline)},"lease_until":{_time(run.lease_until)},'
        f'"key":{json.dumps(claim.key)},"traceparent":{json.dumps(claim.traceparent)},'
        f'"saved":{claim.saved or "null"}}}'
    )


def held_json(lease: Lease) -> str:
    is_held = "false" if lease.until is None else "true"
    return f'{{"task_id":{json.dumps(lease.task_id)},"is_held":{is_held},"lease_until":{_time(lease.until)}}}'


def held_of(run: RenewedRun | FinishedRun) -> Held:
    checkpoint = None if run.checkpoint is None else encode(run.checkpoint)
    progress = run.progress if isinstance(run, RenewedRun) else None
    said = None if progress is None else encode({"fraction": float(progress.fraction), "message": progress.message})
    return Held(run.task_id, run.lease, said, checkpoint)


def ending_of(run: FinishedRun) -> Ending:
    if run.error is None:
        return Ending(result=encode(run.result))
    described = {"code": "task_error", "type": run.error.type, "message": run.error.message[:MAX_MESSAGE]}
    return Ending(error=encode(described), can_retry=run.retry, retry_after_seconds=run.retry_after)


def schedule_json(row: ScheduleRow) -> str:
    task = row.new_task
    described: dict[str, Any] = {
        "name": row.name,
        "type": task.type,
        "cron": row.cron,
        "every": None if row.every_ms is None else _seconds(row.every_ms),
        "timezone": row.timezone,
        "priority": task.priority,
        "timeout": _seconds(task.timeout_ms),
        "max_attempts": task.max_attempts,
        "overlap": bool(row.overlap),
        "key": task.key,
        "notify": task.notify,
        "in_code": bool(row.in_code),
        "created_at": times.to_text(row.created_at),
        "next_run_at": times.to_text(row.next_run_at),
        "last_task_id": row.last_task_id,
        "skipped": row.skipped,
    }
    return f'{encode(described)[:-1]},"payload":{task.payload}}}'


def _seconds(milliseconds: int) -> float:
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def status_of(task: TaskRow) -> str:
    return "queued" if task.status in WAITING else task.status


def _time(milliseconds: int | None) -> str:
    return "null" if milliseconds is None else f'"{times.to_text(milliseconds)}"'
