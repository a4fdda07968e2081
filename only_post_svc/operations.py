"""The operation of each route, beside what shared/openapi.py adds to all."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from only_post_svc import models
from only_post_svc.registry import TaskType
from shared import metrics_endpoint
from shared.openapi import IDEMPOTENCY_KEY, JSON, Codes, Operation, Reply, about, reference
from shared.schemas import Schema

TITLE = "only_post_svc"
DESCRIPTION = (
    "Background jobs over HTTP: what is acknowledged is on disk, and is run. Any other method than POST is a 405 "
    "`method_not_allowed`, an unknown path a 404 `not_found`."
)
SCOPE = "tasks"
OPERATE = "operate"
ANY_OBJECT: Schema = {"type": "object"}
NOT_FOUND: Codes = {404: "task_not_found"}

HEADERS: dict[str, Schema] = {
    "Task-Existing": {"description": "there was a task with this `unique` already", "schema": {"enum": ["true"]}},
}
SUBMIT_HEADERS = ("Idempotency-Replayed", "Task-Existing")

SUBMIT = Operation(
    name="submit_task",
    summary="Submit a task",
    body={JSON: models.SUBMIT},
    parameters=(IDEMPOTENCY_KEY,),
    scope=SCOPE,
    answers={
        200: Reply("with `wait`: the task, which has ended", models.Task, SUBMIT_HEADERS),
        202: Reply("the task is on disk", models.Task, (*SUBMIT_HEADERS, "Retry-After")),
    },
    codes={503: "queue_full"},
)
BATCH = Operation(
    name="submit_batch",
    summary="Submit many tasks, all or none",
    body={JSON: models.BATCH},
    parameters=(IDEMPOTENCY_KEY,),
    scope=SCOPE,
    answers={202: Reply("the tasks are on disk", models.Batch, SUBMIT_HEADERS)},
    codes={503: "queue_full"},
)
RESULT = Operation(
    name="fetch_result",
    summary="Fetch a task, waiting up to `wait` seconds for its end",
    body={JSON: models.RESULT},
    scope=SCOPE,
    answers={
        200: Reply("the task has ended, well or not", models.FetchedTask),
        202: Reply("the task has not ended yet", models.FetchedTask, ("Retry-After",)),
    },
    codes=NOT_FOUND,
)
CANCEL = Operation(
    name="cancel_task",
    summary="Cancel a task, waiting or running, or all that fit a filter",
    body={JSON: models.CHANGE},
    scope=SCOPE,
    answers={200: Reply("the task is cancelled; with `filter`: how many are", models.Task | models.Changed)},
    codes={**NOT_FOUND, 409: "task_finished"},
)
RETRY = Operation(
    name="retry_task",
    summary="Queue a failed or cancelled task again, or all that fit a filter",
    body={JSON: models.CHANGE},
    scope=SCOPE,
    answers={
        200: Reply("with `filter`: how many are queued again", models.Changed),
        202: Reply("the task is queued", models.Task, ("Retry-After",)),
    },
    codes={**NOT_FOUND, 409: "task_not_finished task_succeeded task_exists", 503: "queue_full"},
)
PAUSE = Operation(
    name="pause_type",
    summary="Claim no task of a type until it is resumed; what runs goes on",
    body={JSON: models.TYPE},
    scope=OPERATE,
    answers={200: Reply("it is paused", models.PausedType)},
)
RESUME = Operation(
    name="resume_type",
    summary="Claim tasks of a type again",
    body={JSON: models.TYPE},
    scope=OPERATE,
    answers={200: Reply("it is not paused", models.PausedType)},
)
LIST = Operation(
    name="list_tasks",
    summary="List tasks, newest first",
    body={JSON: models.LIST},
    scope=SCOPE,
    answers={200: Reply("a page", models.TaskPage)},
    codes={400: "invalid_cursor"},
)
SCHEDULE = Operation(
    name="schedule",
    summary="Make a schedule, or replace the one of that name",
    body={JSON: models.SCHEDULE},
    scope=SCOPE,
    answers={200: Reply("it was replaced", models.Schedule), 201: Reply("it is new", models.Schedule)},
    codes={409: "quota_exceeded"},
)
SCHEDULES = Operation(
    name="list_schedules",
    summary="List schedules by name",
    body={JSON: models.SCHEDULES},
    scope=SCOPE,
    answers={200: Reply("a page", models.SchedulePage)},
    codes={400: "invalid_cursor"},
)
UNSCHEDULE = Operation(
    name="unschedule",
    summary="Take a schedule back; what it has made is left alone",
    body={JSON: models.UNSCHEDULE},
    scope=SCOPE,
    answers={200: Reply("it is no more; this is how it was", models.Schedule)},
    codes={404: "schedule_not_found"},
)
WORK = "work"  # the scope of workers elsewhere
CLAIM = Operation(
    name="claim",
    summary="Claim tasks to run, waiting up to `wait` seconds for one",
    body={JSON: models.CLAIM},
    scope=WORK,
    answers={200: Reply("what there was, most urgent first", models.ClaimedRuns)},
)
RENEW = Operation(
    name="renew",
    summary="Renew the leases of runs, and say how far they are",
    body={JSON: models.RENEW},
    scope=WORK,
    answers={200: Reply("which of them hold their leases", models.HeldRuns)},
)
FINISH = Operation(
    name="finish",
    summary="End runs, well or not",
    body={JSON: models.FINISH},
    scope=WORK,
    answers={200: Reply("which of them held their leases, and have ended", models.HeldRuns)},
)
TYPES = Operation(
    name="list_types",
    summary="List what can be submitted",
    body={JSON: models.EMPTY},
    is_body_optional=True,
    scope=SCOPE,
    answers={200: Reply("the types", models.TaskTypes)},
)
ANY_HEALTH = models.Health | models.BriefHealth
HEALTH = Operation(
    name="health",
    summary="See whether the service makes progress",
    body={JSON: ANY_OBJECT},
    is_body_optional=True,
    overload={},
    answers={200: Reply("it does", ANY_HEALTH), 503: Reply("it does not", ANY_HEALTH, ("Retry-After",))},
)
GET_HEALTH = replace(HEALTH, name="get_health", body={})
METRICS = replace(metrics_endpoint.OPERATION, body={JSON: ANY_OBJECT}, is_body_optional=True)
OPENAPI = Operation(
    name="openapi",
    summary="Fetch this document",
    body={JSON: ANY_OBJECT},
    is_body_optional=True,
    scope="",
    overload={},
    answers={200: Reply("OpenAPI 3.1, with the types that the caller may submit", dict[str, Any])},
)


def typed_schemas(types: Iterable[TaskType]) -> dict[str, Schema]:
    """The components that know the types: what a task may be made of hangs on its type."""
    typed = {"$ref": "#/components/schemas/TypedTask"}
    tasks = models.BATCH.schema["properties"]["tasks"] | {"items": reference(models.TaskRequest)}
    return {
        "TypedTask": {"oneOf": [_typed(type) for type in types]},
        "TaskRequest": about(models.TaskRequest) | models.TASK.schema | typed,
        "SubmitRequest": models.SUBMIT.schema | typed,
        "BatchRequest": models.BATCH.schema | {"properties": {"tasks": tasks}},
    }


def _typed(type: TaskType) -> Schema:
    payload, limits = type.payload_schema, {"maximum": type.timeout}
    return {
        "title": type.type,
        "description": type.description,
        "properties": {"type": {"const": type.type}, "payload": payload, "timeout": limits},
        "required": ["payload"] if payload.get("required") else [],
    }
