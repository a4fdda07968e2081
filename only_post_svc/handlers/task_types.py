"""Task types: list, pause, resume."""

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import hints, shares
from only_post_svc.models.task_types import EMPTY_REQUEST, TYPE_REQUEST, PausedType, TaskTypes
from only_post_svc.state import OPERATE, SCOPE, State, requester_of
from shared.bodies import read_json, read_optional_json
from shared.openapi import JSON, Operation, Reply
from shared.responses import json_response

TYPES = Operation(
    name="list_types",
    summary="List what can be submitted",
    body={JSON: EMPTY_REQUEST},
    is_body_optional=True,
    scope=SCOPE,
    answers={200: Reply("the types", TaskTypes)},
)


async def list_types(request: Request[State]) -> Response:
    who = await requester_of(request)
    EMPTY_REQUEST.parse(await read_optional_json(request))
    paused = await request.state["database"].read(shares.paused)
    return json_response({"items": request.state["types"].listing(paused, who.has_scope)})


PAUSE = Operation(
    name="pause_type",
    summary="Claim no task of a type until it is resumed; what runs goes on",
    body={JSON: TYPE_REQUEST},
    scope=OPERATE,
    answers={200: Reply("it is paused", PausedType)},
)


async def pause(request: Request[State]) -> Response:
    return await _set_paused(request, is_paused=True)


RESUME = Operation(
    name="resume_type",
    summary="Claim tasks of a type again",
    body={JSON: TYPE_REQUEST},
    scope=OPERATE,
    answers={200: Reply("it is not paused", PausedType)},
)


async def resume(request: Request[State]) -> Response:
    return await _set_paused(request, is_paused=False)


async def _set_paused(request: Request[State], *, is_paused: bool) -> Response:
    await requester_of(request, OPERATE)
    type = TYPE_REQUEST.parse(await read_json(request), request.state["types"].type_faults).type
    change = shares.pause if is_paused else shares.resume
    await request.state["database"].write(lambda tx: change(tx, type))
    request.state["database"].publish(hints.LANES)
    return json_response({"type": type, "paused": is_paused})
