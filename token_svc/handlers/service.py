"""The service itself: health, numbers, and its document."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shared import metrics_endpoint
from shared.openapi import Operation, Reply
from shared.responses import health_response, written_response
from token_svc import metrics
from token_svc.models.health import Health
from token_svc.state import State

HEALTH = Operation(
    name="health",
    summary="See whether the database answers",
    overload={},
    answers={200: Reply("it answers", Health), 503: Reply("it is silent", Health, ("Retry-After",))},
)


async def health(request: Request[State]) -> Response:
    return health_response(await request.state["health"].report())


METRICS = metrics_endpoint.OPERATION


async def show_metrics(request: Request[State]) -> Response:
    metrics_endpoint.check_reader(request)
    families = await metrics.families(request.state["database"])
    return metrics_endpoint.response([*metrics.hashing(request.state["grants"].passwords), *families])


OPENAPI = Operation(
    name="openapi",
    summary="Fetch this document",
    overload={},
    answers={200: Reply("OpenAPI 3.1", dict[str, Any])},
)


async def show_document(request: Request[State]) -> Response:
    return written_response(request.state["document"])
