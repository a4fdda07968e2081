"""The service itself: health, numbers, and its document."""

import contextlib
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import metrics
from only_post_svc.models.health import BriefHealth, Health
from only_post_svc.state import State, known_requester
from shared import metrics_endpoint
from shared.bodies import read_optional_json
from shared.errors import Unauthorized
from shared.openapi import JSON, Operation, Reply
from shared.responses import health_response, written_response
from shared.schemas import Schema

ANY_OBJECT: Schema = {"type": "object"}
ANY_HEALTH = Health | BriefHealth

HEALTH = Operation(
    name="health",
    summary="See whether the service makes progress",
    body={JSON: ANY_OBJECT},
    is_body_optional=True,
    overload={},
    answers={200: Reply("it does", ANY_HEALTH), 503: Reply("it does not", ANY_HEALTH, ("Retry-After",))},
)
GET_HEALTH = replace(HEALTH, name="get_health", body={})


async def health(request: Request[State]) -> Response:
    await read_optional_json(request)
    report = await request.state["health"].report()
    if not await _may_see_all(request):
        report = report._replace(body={name: report.body[name] for name in ("status", "version")})
    return health_response(report)


async def _may_see_all(request: Request[State]) -> bool:
    """A probe without a good token is answered, but not told of hosts and queues."""
    with contextlib.suppress(Unauthorized):
        await known_requester(request, "")
        return True
    return False


METRICS = replace(metrics_endpoint.OPERATION, body={JSON: ANY_OBJECT}, is_body_optional=True)


async def show_metrics(request: Request[State]) -> Response:
    metrics_endpoint.check_reader(request)
    await read_optional_json(request)
    return metrics_endpoint.response(await metrics.families(request.state["database"]))


OPENAPI = Operation(
    name="openapi",
    summary="Fetch this document",
    body={JSON: ANY_OBJECT},
    is_body_optional=True,
    scope="",
    overload={},
    answers={200: Reply("OpenAPI 3.1, with the types that the caller may submit", dict[str, Any])},
)


async def show_document(request: Request[State]) -> Response:
    who = await known_requester(request, "")
    await read_optional_json(request)
    return written_response(request.state["document"](request.state["types"].scopes(who.has_scope)))
