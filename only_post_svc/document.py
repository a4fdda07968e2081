"""The OpenAPI document."""

from collections.abc import Iterable

from only_post_svc.api import routes
from only_post_svc.models.tasks import BATCH_REQUEST, SUBMIT_REQUEST, TASK_REQUEST, TaskRequest
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from shared import openapi
from shared.openapi import about, reference
from shared.routing import operations_of
from shared.schemas import Schema
from shared.strict_json import encode

TITLE = "only_post_svc"
DESCRIPTION = (
    "Background jobs over HTTP: what is acknowledged is on disk, and is run. Any other method than POST is a 405 "
    "`method_not_allowed`, an unknown path a 404 `not_found`."
)
HEADERS: dict[str, Schema] = {
    "Task-Existing": {"description": "there was a task with this `unique` already", "schema": {"enum": ["true"]}},
}


def document(settings: Settings, types: dict[str, TaskType], scopes: frozenset[str] | None = None) -> str:
    """The service's OpenAPI document, with the types whose scope is among `scopes`, or with all."""
    described = describe(health_get=settings.health_get, has_tokens=settings.task_auth == "required")
    described["components"]["schemas"] |= typed_schemas(
        type for type in types.values() if scopes is None or type.scope in scopes
    )
    return encode(described)


def describe(*, health_get: bool, has_tokens: bool) -> Schema:
    """The document without the types of tasks."""
    operations = operations_of(routes(health_get=health_get))
    return openapi.document(TITLE, DESCRIPTION, operations, has_tokens=has_tokens, headers=HEADERS)


def typed_schemas(types: Iterable[TaskType]) -> dict[str, Schema]:
    """The schemas that depend on the types, each of which has a payload and a timeout of its own."""
    typed = {"$ref": "#/components/schemas/TypedTask"}
    tasks = BATCH_REQUEST.schema["properties"]["tasks"] | {"items": reference(TaskRequest)}
    return {
        "TypedTask": {"oneOf": [_typed(type) for type in types]},
        "TaskRequest": about(TaskRequest) | TASK_REQUEST.schema | typed,
        "SubmitRequest": SUBMIT_REQUEST.schema | typed,
        "BatchRequest": BATCH_REQUEST.schema | {"properties": {"tasks": tasks}},
    }


def _typed(type: TaskType) -> Schema:
    payload, limits = type.payload_schema, {"maximum": type.timeout}
    return {
        "title": type.type,
        "description": type.description,
        "properties": {"type": {"const": type.type}, "payload": payload, "timeout": limits},
        "required": ["payload"] if payload.get("required") else [],
    }
