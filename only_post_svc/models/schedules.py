"""Schedules on the wire."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from only_post_svc.models.tasks import Key, Limit, MaxAttempts, Notify, Priority, TaskRequest, Timeout
from only_post_svc.recurrence import MAX_CRON_LENGTH, MAX_EVERY_SECONDS, MIN_EVERY_SECONDS
from only_post_svc.schedules import ScheduleRow
from shared import times
from shared.bodies import Shape
from shared.openapi import Id, Time
from shared.pages import DEFAULT_LIMIT
from shared.schemas import Limits
from shared.strict_json import encode

Name = Annotated[str, Limits(minLength=1, maxLength=255)]


@dataclass(frozen=True)
class ScheduleRequest:
    """When tasks are made again and again: by a `cron` expression of five fields in the local time of `timezone`, or
    `every` so many seconds. Without `overlap` a tick makes no task while that of the tick before has not ended."""

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


SCHEDULE_REQUEST = Shape(ScheduleRequest)
SCHEDULES_REQUEST = Shape(SchedulesRequest)
UNSCHEDULE_REQUEST = Shape(UnscheduleRequest)


@dataclass(frozen=True)
class Schedule:
    """`skipped` counts the ticks that made no task, since that of the tick before had not ended or the queue was full.
    `in_code`: declared in the service's code, and gone once the code no longer declares it."""

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
