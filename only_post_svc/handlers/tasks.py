"""Submitted tasks: fetch, list, cancel, retry."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import bulk, failures, hints, lookup, queue
from only_post_svc.bulk import Selection
from only_post_svc.lookup import TaskRow
from only_post_svc.models.tasks import (
    CHANGE_REQUEST,
    LIST_REQUEST,
    RESULT_REQUEST,
    Changed,
    FetchedTask,
    Task,
    TaskPage,
    change_faults,
    fetched_json,
    listed_json,
    status_of,
)
from only_post_svc.queue import MAX_SWEPT
from only_post_svc.state import SCOPE, Requester, State, caller_of, requester_of, task_response
from shared.bodies import read_json
from shared.database import Transaction
from shared.errors import Conflict, NotFound
from shared.openapi import JSON, Codes, Operation, Reply
from shared.pages import list_json
from shared.responses import json_response, written_response

MAX_CHANGED = 10_000  # tasks, by one request with a filter
NOT_FOUND: Codes = {404: "task_not_found"}

RESULT = Operation(
    name="fetch_result",
    summary="Fetch a task, waiting up to `wait` seconds for its end",
    body={JSON: RESULT_REQUEST},
    scope=SCOPE,
    answers={
        200: Reply("the task has ended, well or not", FetchedTask),
        202: Reply("the task has not ended yet", FetchedTask, ("Retry-After",)),
    },
    codes=NOT_FOUND,
)


async def result(request: Request[State]) -> Response:
    state, caller = request.state, await caller_of(request)
    wanted = RESULT_REQUEST.parse(await read_json(request))
    task = _found(await state["waiters"].until_final(caller, wanted.task_id, wanted.wait))
    failed = await state["database"].read(lambda tx: failures.of(tx, task.id)) if task.has_failures else []
    is_development = state["settings"].app_env == "development"
    body = fetched_json(task, failed, with_traceback=is_development)
    return written_response(body) if task.is_final else written_response(body, 202, {"Retry-After": "1"})


LIST = Operation(
    name="list_tasks",
    summary="List tasks, newest first",
    body={JSON: LIST_REQUEST},
    scope=SCOPE,
    answers={200: Reply("a page", TaskPage)},
    codes={400: "invalid_cursor"},
)


async def list_tasks(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = LIST_REQUEST.parse(await read_json(request))
    filters = {"status": wanted.status, "type": wanted.type, "key": wanted.key}
    bound = ("tasks", caller, *filters.values())
    cursors, limit = request.state["cursors"], wanted.limit
    before = cursors.read(wanted.cursor, *bound) if wanted.cursor is not None else None
    tasks = await request.state["database"].query(
        lambda tx: lookup.list_newest(tx, caller, **filters, before=before, limit=limit + 1)
    )
    items = tasks[:limit]
    cursor = cursors.write(items[-1].id, *bound) if tasks[limit:] else None
    return written_response(list_json(map(listed_json, items), next_cursor=cursor))


CANCEL = Operation(
    name="cancel_task",
    summary="Cancel a task, waiting or running, or all that fit a filter",
    body={JSON: CHANGE_REQUEST},
    scope=SCOPE,
    answers={200: Reply("the task is cancelled; with `filter`: how many are", Task | Changed)},
    codes={**NOT_FOUND, 409: "task_finished"},
)


async def cancel(request: Request[State]) -> Response:
    caller = await caller_of(request)
    wanted = CHANGE_REQUEST.parse(await read_json(request), change_faults)
    if selection := wanted.selection(caller):
        return await _cancel_all(request, selection)
    task_id = wanted.task_id or ""

    def unit(tx: Transaction) -> tuple[bool, TaskRow | None]:
        return queue.cancel(tx, caller, task_id), lookup.find(tx, caller, task_id)

    is_cancelled, found = await request.state["database"].write(unit)
    task = _found(found)
    if task.status != "cancelled":
        raise Conflict("task_finished", f"the task has {task.status} already")
    if is_cancelled:
        request.state["database"].publish(hints.cancelled(task.id))
        request.state["database"].publish(hints.QUEUED)  # one that was held may have been let in
    return task_response(task)


async def _cancel_all(request: Request[State], selection: Selection) -> Response:
    database, count = request.state["database"], 0
    async for some in bulk.cancel_all(database, selection):
        count += some
        if count >= MAX_CHANGED:
            break
    database.publish(hints.QUEUED)
    is_any_left = partial(bulk.is_any_left, selection=selection, among=bulk.UNFINISHED)
    return _changed(count, has_more=count >= MAX_CHANGED and await database.query(is_any_left))


RETRY = Operation(
    name="retry_task",
    summary="Queue a failed or cancelled task again, or all that fit a filter",
    body={JSON: CHANGE_REQUEST},
    scope=SCOPE,
    answers={
        200: Reply("with `filter`: how many are queued again", Changed),
        202: Reply("the task is queued", Task, ("Retry-After",)),
    },
    codes={**NOT_FOUND, 409: "task_not_finished task_succeeded task_exists", 503: "queue_full"},
)


async def retry(request: Request[State]) -> Response:
    who = await requester_of(request)
    wanted = CHANGE_REQUEST.parse(await read_json(request), change_faults)
    if selection := wanted.selection(who.id):
        return await _retry_all(request, who, selection)
    task_id = wanted.task_id or ""

    def unit(tx: Transaction) -> tuple[bool, TaskRow | None, bool]:
        is_queued, found = queue.retry(tx, who.id, task_id), lookup.find(tx, who.id, task_id)
        if is_queued:
            place.check()
        return is_queued, found, not is_queued and queue.has_successor(tx, who.id, task_id)

    database = request.state["database"]
    with await request.state["backlog"].place(database, who.id, 1, is_person=who.is_person) as place:
        is_queued, found, has_successor = await database.write(unit)
        place.made = int(is_queued)
    task = _found(found)
    if task.status == "succeeded":
        raise Conflict("task_succeeded", "only a failed or cancelled task can be tried again")
    if has_successor:
        raise Conflict("task_exists", "another task with the same `unique` has not ended")
    if not is_queued:
        raise Conflict("task_not_finished", f"the task is {status_of(task)}")
    database.publish(hints.QUEUED)
    return task_response(task)


async def _retry_all(request: Request[State], who: Requester, selection: Selection) -> Response:
    database, backlog, count, after = request.state["database"], request.state["backlog"], 0, ""
    while count < MAX_CHANGED:
        most = min(MAX_SWEPT, MAX_CHANGED - count)
        with await backlog.place(database, who.id, most, is_person=who.is_person, least=1) as place:
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


def _changed(count: int, *, has_more: bool) -> Response:
    return json_response({"count": count, "has_more": has_more})


def _found(task: TaskRow | None) -> TaskRow:
    if task is None:
        raise NotFound("task_not_found", "there is no such task")
    return task
