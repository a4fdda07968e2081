"""Schedules: make or replace, list, take back."""

import json
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import hints, schedules
from only_post_svc.models.schedules import (
    SCHEDULE_REQUEST,
    SCHEDULES_REQUEST,
    UNSCHEDULE_REQUEST,
    Schedule,
    SchedulePage,
    schedule_json,
)
from only_post_svc.state import SCOPE, State, caller_of, requester_of
from shared.bodies import read_json
from shared.errors import NotFound
from shared.openapi import JSON, Operation, Reply
from shared.pages import list_json
from shared.responses import written_response
from shared.strict_json import encode

SCHEDULE = Operation(
    name="schedule",
    summary="Make a schedule, or replace the one of that name",
    body={JSON: SCHEDULE_REQUEST},
    scope=SCOPE,
    answers={200: Reply("it was replaced", Schedule), 201: Reply("it is new", Schedule)},
    codes={409: "quota_exceeded"},
)


async def schedule(request: Request[State]) -> Response:
    who = await requester_of(request)
    types, database = request.state["types"], request.state["database"]
    wanted = SCHEDULE_REQUEST.parse(await read_json(request), partial(types.schedule_faults, has_scope=who.has_scope))
    who.need_scope(types.scope(wanted.type))
    new = types.new_schedule(wanted, is_person=who.is_person)
    row, is_new = await database.write(lambda tx: schedules.save(tx, who.id, new))
    database.publish(hints.SCHEDULED)
    return written_response(schedule_json(row), 201 if is_new else 200)


SCHEDULES = Operation(
    name="list_schedules",
    summary="List schedules by name",
    body={JSON: SCHEDULES_REQUEST},
    scope=SCOPE,
    answers={200: Reply("a page", SchedulePage)},
    codes={400: "invalid_cursor"},
)


async def list_schedules(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = SCHEDULES_REQUEST.parse(await read_json(request))
    cursors, limit = request.state["cursors"], wanted.limit
    after = ("", 0) if wanted.cursor is None else _position(cursors.read(wanted.cursor, "schedules", caller))
    rows = await request.state["database"].read(lambda tx: schedules.page(tx, caller, after, limit + 1))
    items = rows[:limit]
    cursor = None
    if rows[limit:]:
        cursor = cursors.write(encode([items[-1].name, items[-1].in_code]), "schedules", caller)
    return written_response(list_json(map(schedule_json, items), next_cursor=cursor))


def _position(cursor: str) -> tuple[str, int]:
    name, in_code = json.loads(cursor)
    return name, in_code


UNSCHEDULE = Operation(
    name="unschedule",
    summary="Take a schedule back; what it has made is left alone",
    body={JSON: UNSCHEDULE_REQUEST},
    scope=SCOPE,
    answers={200: Reply("it is no more; this is how it was", Schedule)},
    codes={404: "schedule_not_found"},
)


async def unschedule(request: Request[State]) -> Response:
    caller = await caller_of(request)
    name = UNSCHEDULE_REQUEST.parse(await read_json(request)).name
    row = await request.state["database"].write(lambda tx: schedules.remove(tx, caller, name))
    if row is None:
        raise NotFound("schedule_not_found", "there is no such schedule")
    return written_response(schedule_json(row))
