"""Submits: one task, or a batch."""

import contextlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc import hints, queue
from only_post_svc.backlog import Place
from only_post_svc.lookup import TaskRow
from only_post_svc.models.tasks import (
    BATCH_REQUEST,
    MAX_BATCH,
    SUBMIT_REQUEST,
    TASK_REQUEST,
    Batch,
    Task,
    TaskRequest,
    task_json,
)
from only_post_svc.queue import NewTask
from only_post_svc.state import SCOPE, Requester, State, requester_of, task_response
from only_post_svc.task_types import Types
from only_post_svc.tracing import traceparent_of
from shared.bodies import Shape, read_json
from shared.database import Transaction
from shared.errors import Invalid, Unavailable
from shared.idempotency import Answer, key_of, once
from shared.openapi import IDEMPOTENCY_KEY, JSON, Operation, Reply
from shared.pages import list_json
from shared.responses import written_response
from shared.schemas import Fault

R = TypeVar("R", bound=TaskRequest)

SUBMIT_HEADERS = ("Idempotency-Replayed", "Task-Existing")
LONG_BATCH = 100  # tasks, above which writing them takes more than some milliseconds

SUBMIT = Operation(
    name="submit_task",
    summary="Submit a task",
    body={JSON: SUBMIT_REQUEST},
    parameters=(IDEMPOTENCY_KEY,),
    scope=SCOPE,
    answers={
        200: Reply("with `wait`: the task, which has ended", Task, SUBMIT_HEADERS),
        202: Reply("the task is on disk", Task, (*SUBMIT_HEADERS, "Retry-After")),
    },
    codes={503: "queue_full"},
)


async def submit(request: Request[State]) -> Response:
    who = await requester_of(request)
    answer, headers, wait_seconds = await _submit_one(request, who)
    if wait_seconds:
        task_id = json.loads(answer.body)["task_id"]
        with contextlib.suppress(Unavailable):  # the task is on disk, even where waiting for its end fails
            task = await request.state["waiters"].until_final(who.id, task_id, wait_seconds)
            if task is not None:
                return task_response(task, headers)
    return written_response(answer.body, answer.status, headers)


async def _submit_one(request: Request[State], who: Requester) -> tuple[Answer, dict[str, str], float]:
    """The answer, its headers and how long to wait for the task. Ends before the wait, during which the body would stay
    in memory."""
    body = await read_json(request)
    types = request.state["types"]
    wanted = _wanted(SUBMIT_REQUEST, body, types, who)
    new = types.new_task(wanted)._replace(traceparent=traceparent_of(request))
    answer, headers = await _submit_once(request, "POST /api/task", who, body, [new], lambda tasks: task_json(tasks[0]))
    return answer, headers, wanted.wait


def _wanted(shape: Shape[R], entry: Mapping[str, Any], types: Types, who: Requester) -> R:
    """Raises Invalid and 403."""
    wanted = shape.parse(entry, partial(types.faults, has_scope=who.has_scope))
    who.need_scope(types.scope(wanted.type))
    return wanted


BATCH = Operation(
    name="submit_batch",
    summary="Submit many tasks, all or none",
    body={JSON: BATCH_REQUEST},
    parameters=(IDEMPOTENCY_KEY,),
    scope=SCOPE,
    answers={202: Reply("the tasks are on disk", Batch, SUBMIT_HEADERS)},
    codes={503: "queue_full"},
)


async def submit_batch(request: Request[State]) -> Response:
    who = await requester_of(request)
    body = await read_json(request)
    new = _batch(body, request.state["types"], who, traceparent_of(request))
    answer, headers = await _submit_once(
        request, "POST /api/batch", who, body, new, lambda tasks: list_json(map(task_json, tasks))
    )
    return written_response(answer.body, answer.status, headers)


def _batch(body: Mapping[str, Any], types: Types, who: Requester, traceparent: str | None) -> list[NewTask]:
    """Raises Invalid with the faults of all entries at once."""
    new: list[NewTask] = []
    entries, faults = _entries(body)
    for index, entry in entries:
        try:
            wanted = _wanted(TASK_REQUEST, entry, types, who)
            new.append(types.new_task(wanted)._replace(traceparent=traceparent))
        except Invalid as invalid:
            faults += [Fault(f"/tasks/{index}{fault.pointer}", fault.detail) for fault in invalid.errors]
    if faults:
        raise Invalid(faults)
    return new


def _entries(body: Mapping[str, Any]) -> tuple[list[tuple[int, dict[str, Any]]], list[Fault]]:
    """The entries that are objects, numbered, and what is wrong beside them."""
    faults: list[Fault] = []
    try:
        BATCH_REQUEST.parse(body)
    except Invalid as invalid:
        faults += invalid.errors
    tasks = body.get("tasks")
    entries = enumerate(tasks) if isinstance(tasks, list) and len(tasks) <= MAX_BATCH else ()
    return [(index, entry) for index, entry in entries if isinstance(entry, dict)], faults


async def _submit_once(
    request: Request[State],
    route: str,
    who: Requester,
    body: Any,
    new: list[NewTask],
    write: Callable[[list[TaskRow]], str],
) -> tuple[Answer, dict[str, str]]:
    """The answer to a submit, and its headers: the first answer, where its idempotency key was used before. `write`
    makes its JSON."""
    key = key_of(request, route, who.id, lambda: body)
    state = request.state
    database, backlog, waiters = state["database"], state["backlog"], state["waiters"]
    submitted: list[tuple[TaskRow, bool]] = []

    def unit(tx: Transaction) -> Answer:
        submitted.clear()  # it may run twice
        return once(tx, key, lambda: work(tx))

    def work(tx: Transaction) -> Answer:
        submitted.extend(_submit_all(tx, who, new, place))
        _publish(tx, new)
        for task, is_existing in submitted:
            if not is_existing:
                waiters.note_new(who.id, task.id)
        existing = (("Task-Existing", "true"),) if any(is_existing for _, is_existing in submitted) else ()
        return Answer(202, write([task for task, _ in submitted]), headers=existing)

    with await backlog.place(database, who.id, len(new), is_person=who.is_person) as place:
        if len(new) == 1 and not (new[0].is_for_later or new[0].lane):
            state["expect_task"]()
        answer = await database.write(unit, is_long=len(new) > LONG_BATCH)
        made = [one for one, (_, is_existing) in zip(new, submitted, strict=False) if not is_existing]
        place.made = len(made)
    state["counts"].submitted(made)
    replayed = {"Idempotency-Replayed": "true"} if answer.is_replay else {}
    return answer, dict(answer.headers) | replayed


def _publish(tx: Transaction, new: list[NewTask]) -> None:
    tx.publish(hints.QUEUED)
    if any(one.notify for one in new):
        tx.publish(hints.NOTIFY)
    if any(one.is_for_later for one in new):
        tx.publish(hints.SCHEDULED)


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
