"""The routes, and their handlers: parse, call one verb of the domain, answer."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import bulk, failures, hints, metrics, models, operations, queue, schedules, shares
from only_post_svc.backlog import Backlog, Place
from only_post_svc.bulk import Selection
from only_post_svc.elsewhere import Claimants
from only_post_svc.metrics import TaskCounts
from only_post_svc.models import (
    Types,
    claimed_json,
    ending_of,
    held_json,
    held_of,
    listed_json,
    schedule_json,
    task_json,
)
from only_post_svc.queue import MAX_SWEPT, NewTask, TaskRow
from only_post_svc.registry import TaskType
from only_post_svc.schedules import ScheduleRow
from only_post_svc.settings import Settings
from only_post_svc.tracing import traceparent_of
from only_post_svc.waiters import Waiters
from shared import metrics_endpoint, openapi
from shared.auth import Caller, TokenDoor, need_scope, require
from shared.bodies import check_media_type, parse_json, read, read_json
from shared.database import Database, Transaction
from shared.errors import Conflict, Invalid, NotFound, Unauthorized, Unavailable
from shared.health import Health
from shared.idempotency import Answer, key_of, once
from shared.pages import Cursors
from shared.rate_limits import RateLimit, address, count
from shared.routing import Path, operations_of
from shared.schemas import Fault, Schema
from shared.strict_json import encode


class State(TypedDict):
    """What the lifespan makes and every handler finds in `request.state`."""

    settings: Settings
    database: Database
    token_door: TokenDoor
    types: Types
    backlog: Backlog
    waiters: Waiters
    health: Health
    counts: TaskCounts
    claimants: Claimants
    note_claims: Callable[[int], None]
    cursors: Cursors
    rate_limit: RateLimit | None
    document: Callable[[frozenset[str]], str]  # for a caller with these scopes of types


LONG_BATCH = 100  # tasks, above which writing them takes more than some milliseconds
MAX_CHANGED = 10_000  # tasks, by one request with a filter
ANYONE = ""  # the caller where no token is asked for


class Requester(NamedTuple):
    """Who sent the request. `caller` is None where no token is asked for."""

    caller: Caller | None

    @property
    def id(self) -> str:
        return self.caller.subject if self.caller else ANYONE

    @property
    def is_person(self) -> bool:
        return self.caller is not None and not self.caller.is_machine

    def has_scope(self, scope: str) -> bool:
        return self.caller is None or not scope or scope in self.caller.scopes

    def need_scope(self, scope: str) -> None:
        """Raises 403."""
        if self.caller is not None and scope:
            need_scope(self.caller, scope)


async def requester_of(request: Request[State], scope: str = operations.SCOPE) -> Requester:
    """Who sent the request. Raises 401, 403 and 429."""
    who = await _known(request, scope)
    count(request, who.id or address(request))
    return who


async def _known(request: Request[State], scope: str) -> Requester:
    """Raises 401 and 403 where a token is asked for."""
    is_required = request.state["settings"].task_auth == "required"
    return Requester(await require(request, scope) if is_required else None)


async def caller_of(request: Request[State], scope: str = operations.SCOPE) -> str:
    """The caller's id. Raises 401, 403 and 429."""
    return (await requester_of(request, scope)).id


def json_response(body: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.encode(), status, headers, media_type="application/json")


def task_response(task: TaskRow, headers: dict[str, str] | None = None) -> Response:
    """200 with a task that has ended, else 202 and when to ask again."""
    if task.is_final:
        return json_response(task_json(task), 200, headers)
    return json_response(task_json(task), 202, {"Retry-After": "1", **(headers or {})})


async def submit(request: Request[State]) -> Response:
    who = await requester_of(request)
    answer, headers, wait_seconds = await _submit_one(request, who)
    if wait_seconds:
        task_id = json.loads(answer.body)["task_id"]
        with contextlib.suppress(Unavailable):  # the task is on disk, even where waiting for its end fails
            task = await request.state["waiters"].until_final(who.id, task_id, wait_seconds)
            if task is not None:
                return task_response(task, headers)
    return json_response(answer.body, answer.status, headers)


async def _submit_one(request: Request[State], who: Requester) -> tuple[Answer, dict[str, str], float]:
    """The answer, its headers and how long to wait for the task. Ends before the wait, during which the body would stay
    in memory."""
    body = await read_json(request)
    wanted = models.SUBMIT.parse(body)
    who.need_scope(request.state["types"].scope(wanted.type))
    new = request.state["types"].new_task(wanted)._replace(traceparent=traceparent_of(request))
    answer, headers = await _submit_once(request, "POST /api/task", who, body, [new], lambda tasks: task_json(tasks[0]))
    return answer, headers, wanted.wait


async def submit_batch(request: Request[State]) -> Response:
    who = await requester_of(request)
    body = await read_json(request)
    new = _batch(models.BATCH.parse(body).tasks, request.state["types"], who, traceparent_of(request))
    answer, headers = await _submit_once(request, "POST /api/batch", who, body, new, _items)
    return json_response(answer.body, answer.status, headers)


async def _submit_once(
    request: Request[State],
    route: str,
    who: Requester,
    body: Any,
    new: list[NewTask],
    write: Callable[[list[TaskRow]], str],
) -> tuple[Answer, dict[str, str]]:
    """The answer to a submit, and its headers: the first one, when its key was used before. `write` says it in JSON."""
    key = key_of(request, route, who.id, body)
    database, backlog = request.state["database"], request.state["backlog"]
    submitted: list[tuple[TaskRow, bool]] = []

    def unit(tx: Transaction) -> Answer:
        submitted.clear()  # it may run twice
        return once(tx, key, lambda: work(tx))

    def work(tx: Transaction) -> Answer:
        submitted.extend(_submit_all(tx, who, new, place))
        existing = (("Task-Existing", "true"),) if any(is_existing for _, is_existing in submitted) else ()
        return Answer(202, write([task for task, _ in submitted]), headers=existing)

    async with backlog.place(database, who.id, len(new), is_person=who.is_person) as place:
        answer = await database.write(unit, is_long=len(new) > LONG_BATCH)
        made = [one for one, (_, is_existing) in zip(new, submitted, strict=False) if not is_existing]
        place.made = len(made)
    request.state["counts"].submitted(made)
    database.publish(hints.QUEUED)
    if any(one.notify for one in new):
        database.publish(hints.NOTIFY)
    if any(one.is_for_later for one in new):
        database.publish(hints.SCHEDULED)
    replayed = {"Idempotency-Replayed": "true"} if answer.is_replay else {}
    return answer, dict(answer.headers) | replayed


def _submit_all(tx: Transaction, who: Requester, new: list[NewTask], place: Place) -> list[tuple[TaskRow, bool]]:
    """The tasks, and which of them there were already. Raises 503 `queue_full`."""
    if any(one.unique is None for one in new):
        place.check()
    for name in sorted({queue.unique_lock(who.id, one) for one in new if one.unique is not None}):
        tx.lock(name)
    submitted = [queue.submit_once(tx, who.id, one._replace(is_person=who.is_person)) for one in new]
    if not all(is_existing for _, is_existing in submitted):
        place.check()
    return submitted


def _batch(entries: list[dict[str, Any]], types: Types, who: Requester, traceparent: str | None) -> list[NewTask]:
    """Raises Invalid with the faults of all entries at once."""
    new: list[NewTask] = []
    faults: list[Fault] = []
    for index, entry in enumerate(entries):
        try:
            wanted = models.TASK.parse(entry)
            who.need_scope(types.scope(wanted.type))
            new.append(types.new_task(wanted)._replace(traceparent=traceparent))
        except Invalid as invalid:
            faults += [Fault(f"/tasks/{index}{fault.pointer}", fault.detail) for fault in invalid.errors]
    if faults:
        raise Invalid(faults)
    return new


def _items(tasks: list[TaskRow]) -> str:
    return f'{{"items":[{",".join(map(task_json, tasks))}]}}'


async def result(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = models.RESULT.parse(await read_json(request))
    task = _found(await request.state["waiters"].until_final(caller, wanted.task_id, wanted.wait))
    failed = await request.state["database"].read(lambda tx: failures.of(tx, task.id)) if task.has_failures else []
    is_development = request.state["settings"].app_env == "development"
    body = models.fetched_json(task, failed, with_traceback=is_development)
    return json_response(body) if task.is_final else json_response(body, 202, {"Retry-After": "1"})


async def cancel(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = models.CHANGE.parse(await read_json(request))
    if selection := wanted.selection(caller):
        return await _cancel_all(request, selection)
    task_id = wanted.task_id or ""

    def unit(tx: Transaction) -> tuple[bool, TaskRow | None]:
        return queue.cancel(tx, caller, task_id), queue.find(tx, caller, task_id)

    is_cancelled, found = await request.state["database"].write(unit)
    task = _found(found)
    if task.status != "cancelled":
        raise Conflict("task_finished", f"the task has {task.status} already")
    if is_cancelled:
        request.state["database"].publish(hints.cancelled(task.id))
        request.state["database"].publish(hints.QUEUED)  # one that was held may have been let in
    return task_response(task)


async def _cancel_all(request: Request[State], selection: Selection) -> Response:
    database, count, some = request.state["database"], 0, MAX_SWEPT
    while some >= MAX_SWEPT and count < MAX_CHANGED:
        cancelled = await database.write(lambda tx: bulk.cancel(tx, selection), is_long=True)
        for task_id in cancelled:
            database.publish(hints.cancelled(task_id))
        some = len(cancelled)
        count += some
    database.publish(hints.QUEUED)
    is_any_left = partial(bulk.is_any_left, selection=selection, among=bulk.UNFINISHED)
    return _changed(count, has_more=count >= MAX_CHANGED and await database.query(is_any_left))


def _changed(count: int, *, has_more: bool) -> Response:
    return json_response(encode({"count": count, "has_more": has_more}))


async def retry(request: Request[State]) -> Response:
    who = await requester_of(request)
    wanted = models.CHANGE.parse(await read_json(request))
    if selection := wanted.selection(who.id):
        return await _retry_all(request, who, selection)
    task_id = wanted.task_id or ""

    def unit(tx: Transaction) -> tuple[bool, TaskRow | None, bool]:
        is_queued, found = queue.retry(tx, who.id, task_id), queue.find(tx, who.id, task_id)
        if is_queued:
            place.check()
        return is_queued, found, not is_queued and queue.has_successor(tx, who.id, task_id)

    database = request.state["database"]
    async with request.state["backlog"].place(database, who.id, 1, is_person=who.is_person) as place:
        is_queued, found, has_successor = await database.write(unit)
        place.made = int(is_queued)
    task = _found(found)
    if task.status == "succeeded":
        raise Conflict("task_succeeded", "only a failed or cancelled task can be tried again")
    if has_successor:
        raise Conflict("task_exists", "another task with the same `unique` has not ended")
    if not is_queued:
        raise Conflict("task_not_finished", f"the task is {models.status_of(task)}")
    database.publish(hints.QUEUED)
    return task_response(task)


async def _retry_all(request: Request[State], who: Requester, selection: Selection) -> Response:
    database, backlog, count, after = request.state["database"], request.state["backlog"], 0, ""
    while count < MAX_CHANGED:
        most = min(MAX_SWEPT, MAX_CHANGED - count)
        async with backlog.place(database, who.id, most, is_person=who.is_person, least=1) as place:
            if place.room == 0 and count:
                break
            place.check()
            unit = partial(bulk.retry, selection=selection, after=after, most=place.room)
            retried = await database.write(unit, is_long=True)
            place.made = retried.number
        database.publish(hints.QUEUED)
        count += retried.number
        if retried.after is None:
            return _changed(count, has_more=False)
        after = retried.after
    is_any_left = partial(bulk.is_any_left, selection=selection, among=bulk.UNSUCCESSFUL, after=after)
    return _changed(count, has_more=await database.query(is_any_left))


async def pause(request: Request[State]) -> Response:
    return await _set_paused(request, shares.pause, is_paused=True)


async def resume(request: Request[State]) -> Response:
    return await _set_paused(request, shares.resume, is_paused=False)


async def _set_paused(
    request: Request[State], change: Callable[[Transaction, str], None], *, is_paused: bool
) -> Response:
    await requester_of(request, operations.OPERATE)
    type = models.TYPE.parse(await read_json(request)).type
    if type not in request.state["types"]:
        raise Invalid([Fault("/type", "unknown task type; POST /api/types lists them")])
    await request.state["database"].write(lambda tx: change(tx, type))
    request.state["database"].publish(hints.LANES)
    return json_response(encode({"type": type, "paused": is_paused}))


async def list_tasks(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = models.LIST.parse(await read_json(request))
    bound = ("tasks", caller, wanted.status, wanted.type, wanted.key)
    cursors, limit = request.state["cursors"], wanted.limit
    before = cursors.read(wanted.cursor, *bound) if wanted.cursor is not None else None
    tasks = await request.state["database"].query(
        partial(
            queue.list_newest,
            caller=caller,
            status=wanted.status,
            type=wanted.type,
            key=wanted.key,
            before=before,
            limit=limit + 1,
        )
    )
    items = tasks[:limit]
    cursor = cursors.write(items[-1].id, *bound) if tasks[limit:] else None
    return json_response(f'{{"items":[{",".join(map(listed_json, items))}],"next_cursor":{encode(cursor)}}}')


async def schedule(request: Request[State]) -> Response:
    who = await requester_of(request)
    wanted = models.SCHEDULE.parse(await read_json(request))
    who.need_scope(request.state["types"].scope(wanted.type))
    types, database = request.state["types"], request.state["database"]

    def unit(tx: Transaction) -> tuple[ScheduleRow, bool]:
        return schedules.save(tx, who.id, types.new_schedule(wanted, tx.now, is_person=who.is_person))

    row, is_new = await database.write(unit)
    database.publish(hints.SCHEDULED)
    return json_response(schedule_json(row), 201 if is_new else 200)


async def list_schedules(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = models.SCHEDULES.parse(await read_json(request))
    cursors, limit = request.state["cursors"], wanted.limit
    after = ("", 0) if wanted.cursor is None else _position(cursors.read(wanted.cursor, "schedules", caller))
    rows = await request.state["database"].read(lambda tx: schedules.page(tx, caller, after, limit + 1))
    items = rows[:limit]
    cursor = None
    if rows[limit:]:
        cursor = cursors.write(encode([items[-1].name, items[-1].in_code]), "schedules", caller)
    return json_response(f'{{"items":[{",".join(map(schedule_json, items))}],"next_cursor":{encode(cursor)}}}')


def _position(cursor: str) -> tuple[str, int]:
    name, in_code = json.loads(cursor)
    return name, in_code


async def unschedule(request: Request[State]) -> Response:
    caller = await caller_of(request)
    name = models.UNSCHEDULE.parse(await read_json(request)).name
    row = await request.state["database"].write(lambda tx: schedules.remove(tx, caller, name))
    if row is None:
        raise NotFound("schedule_not_found", "there is no such schedule")
    return json_response(schedule_json(row))


async def claim(request: Request[State]) -> Response:
    await caller_of(request, operations.WORK)
    wanted = models.CLAIM.parse(await read_json(request))
    request.state["types"].check_elsewhere(wanted.types)
    limit = int(wanted.limit)
    runs = await request.state["claimants"].claim(wanted.types, limit, wanted.wait, request.is_disconnected)
    request.state["note_claims"](len(runs))
    return json_response(f'{{"items":[{",".join(map(claimed_json, runs))}]}}')


async def renew(request: Request[State]) -> Response:
    await caller_of(request, operations.WORK)
    runs = [held_of(run) for run in models.RENEW.parse(await read_json(request)).runs]
    leases = await request.state["claimants"].renew(runs)
    return json_response(f'{{"items":[{",".join(map(held_json, leases))}]}}')


async def finish(request: Request[State]) -> Response:
    await caller_of(request, operations.WORK)
    runs = [(held_of(run), ending_of(run)) for run in models.FINISH.parse(await read_json(request)).runs]
    ended = await request.state["claimants"].finish(runs)
    items = (encode({"task_id": run.task_id, "is_held": run.lease in ended, "lease_until": None}) for run, _ in runs)
    return json_response(f'{{"items":[{",".join(items)}]}}')


async def list_types(request: Request[State]) -> Response:
    who = await requester_of(request)
    models.EMPTY.parse(await _optional_body(request))
    paused = await request.state["database"].read(shares.paused)
    return json_response(encode({"items": request.state["types"].listing(paused, who.has_scope)}))


async def health(request: Request[State]) -> Response:
    await _optional_body(request)
    is_ok, report = await request.state["health"].report()
    if not await _may_see_all(request):
        report = {name: report[name] for name in ("status", "version")}
    if not is_ok:
        return json_response(encode(report), 503, {"Retry-After": "5"})
    return json_response(encode(report))


async def _may_see_all(request: Request[State]) -> bool:
    """A probe that sends no good token is no stranger to be refused, but is not told of hosts and queues either."""
    with contextlib.suppress(Unauthorized):
        await _known(request, "")
        return True
    return False


async def show_document(request: Request[State]) -> Response:
    who = await _known(request, "")
    await _optional_body(request)
    return json_response(request.state["document"](request.state["types"].scopes(who.has_scope)))


async def show_metrics(request: Request[State]) -> Response:
    metrics_endpoint.check_reader(request)
    await _optional_body(request)
    return metrics_endpoint.response(await metrics.families(request.state["database"]))


async def _optional_body(request: Request[State]) -> dict[str, Any]:
    """The body as an object; without a body an empty one."""
    if not (body := await read(request)):
        return {}
    check_media_type(request, "application/json")
    value = parse_json(body)
    if not isinstance(value, dict):
        raise Invalid([Fault("", "must be an object")])
    return value


def _found(task: TaskRow | None) -> TaskRow:
    if task is None:
        raise NotFound("task_not_found", "there is no such task")
    return task


def document(settings: Settings, types: dict[str, TaskType], scopes: frozenset[str] | None = None) -> str:
    """The service's OpenAPI document, with the types whose scope is among `scopes`, or with all."""
    described = describe(health_get=settings.health_get, has_tokens=settings.task_auth == "required")
    described["components"]["schemas"] |= operations.typed_schemas(
        type for type in types.values() if scopes is None or type.scope in scopes
    )
    return encode(described)


def describe(*, health_get: bool, has_tokens: bool) -> Schema:
    """The document without the types of tasks."""
    paths = routes(health_get=health_get)
    described = operations.TITLE, operations.DESCRIPTION, operations_of(paths)
    return openapi.document(*described, has_tokens=has_tokens, headers=operations.HEADERS)


def routes(*, health_get: bool) -> list[Path]:
    probe = {"GET": (health, operations.GET_HEALTH)} if health_get else {}
    return [
        Path("/api/task", POST=(submit, operations.SUBMIT)),
        Path("/api/result", POST=(result, operations.RESULT)),
        Path("/api/batch", POST=(submit_batch, operations.BATCH)),
        Path("/api/cancel", POST=(cancel, operations.CANCEL)),
        Path("/api/retry", POST=(retry, operations.RETRY)),
        Path("/api/tasks", POST=(list_tasks, operations.LIST)),
        Path("/api/schedule", POST=(schedule, operations.SCHEDULE)),
        Path("/api/schedules", POST=(list_schedules, operations.SCHEDULES)),
        Path("/api/unschedule", POST=(unschedule, operations.UNSCHEDULE)),
        Path("/api/claim", POST=(claim, operations.CLAIM)),
        Path("/api/renew", POST=(renew, operations.RENEW)),
        Path("/api/finish", POST=(finish, operations.FINISH)),
        Path("/api/pause", POST=(pause, operations.PAUSE)),
        Path("/api/resume", POST=(resume, operations.RESUME)),
        Path("/api/types", POST=(list_types, operations.TYPES)),
        Path("/health", POST=(health, operations.HEALTH), **probe),
        Path("/metrics", POST=(show_metrics, operations.METRICS)),
        Path("/openapi.json", POST=(show_document, operations.OPENAPI)),
    ]
