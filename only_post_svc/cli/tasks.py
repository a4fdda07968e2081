"""The operator's commands: the tasks of all callers, and the task types."""

import argparse
import asyncio
import json
import sys
from functools import partial
from typing import Any

from only_post_svc import bulk, failures, hints, queue, shares
from only_post_svc.bulk import Selection
from only_post_svc.cli import all_callers
from only_post_svc.cli.all_callers import Overseen
from only_post_svc.failures import FailureRow
from only_post_svc.lookup import TaskRow
from only_post_svc.models.tasks import TASK_REQUEST, fetched_json, listed_json, status_of, task_json
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.task_types import Types
from only_post_svc.worker.children import describe_types
from shared.bodies import parse_json
from shared.cli.terminal import Failure, bar, fields, moment, table
from shared.database import Database, Transaction
from shared.errors import BadRequest
from shared.pages import list_json
from shared.strict_json import encode

LIST_HEAD = ("TASK", "CALLER", "TYPE", "STATUS", "TRY", "CREATED", "NEXT OR LAST", "ERROR")
WATCH_HEAD = ("TASK", "TYPE", "STATUS", "TRY", "PROGRESS", "MESSAGE")
WATCH_SECONDS = 0.5
CLEAR_SCREEN = "\x1b[H\x1b[2J"
PROGRESS_WIDTH = 20
ANYONE = ""  # the caller where no token was sent
TYPES_HEAD = ("TYPE", "CODE", "TIMEOUT", "TRIES", "DESCRIPTION")


async def list_tasks(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    listed = await database.query(
        lambda tx: all_callers.list_newest(
            tx, options.limit, status=options.status, type=options.type, caller=options.caller
        )
    )
    if options.json:
        print(list_json(_json(one, listed_json(one.task)) for one in listed))
    else:
        print(table(LIST_HEAD, [_row(one) for one in listed]))


def _row(one: Overseen) -> tuple[object, ...]:
    task = one.task
    ahead = task.run_at if task.status == "scheduled" else task.finished_at or task.started_at
    return (
        task.id,
        one.caller,
        task.type,
        task.status,
        _tries(task),
        moment(task.created_at),
        moment(ahead),
        _said(task),
    )


def _tries(task: TaskRow) -> str:
    return f"{task.attempt}/{task.max_attempts}"


def _said(task: TaskRow) -> str:
    """The first line of the task's error."""
    if task.error is None:
        return ""
    error = json.loads(task.error)
    return f"{error['type'] or error['code']}: {error['message'].partition(chr(10))[0]}"


def _json(one: Overseen, task: str) -> str:
    payload = f',"payload":{one.payload}' if one.payload else ""
    return f'{task[:-1]},"caller":{encode(one.caller)}{payload}}}'


async def show_task(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    found, failed = await database.query(partial(_with_failures, task_id=options.task_id))
    one = _need(found, options)
    if options.json:
        print(_json(one, fetched_json(one.task, failed, with_traceback=True)))
    else:
        print(fields(_members(one)), *map(_failed_attempt, failed), sep="\n")


def _with_failures(tx: Transaction, task_id: str) -> tuple[Overseen | None, list[FailureRow]]:
    found = all_callers.find(tx, task_id)
    return found, failures.of(tx, found.task.id) if found else []


def _failed_attempt(failed: FailureRow) -> str:
    """With its traceback below."""
    worker = f" on {failed.worker}" if failed.worker else ""
    head = f"attempt {failed.attempt} failed at {moment(failed.at)}{worker}: {failed.error}"
    return "\n".join(["", head, failed.traceback or ""]).rstrip()


def _print(one: Overseen, options: argparse.Namespace) -> None:
    print(_json(one, task_json(one.task)) if options.json else fields(_members(one)))


def _members(one: Overseen) -> dict[str, object]:
    task = one.task
    return {
        "task_id": task.id,
        "caller": one.caller,
        "type": task.type,
        "key": task.key,
        "status": task.status,
        "held": task.held,
        "attempt": f"{task.attempt} of {task.max_attempts}",
        "priority": task.priority,
        "created_at": moment(task.created_at),
        "run_at": moment(task.run_at),
        "started_at": moment(task.started_at),
        "finished_at": moment(task.finished_at),
        "progress": task.progress,
        "payload": one.payload,
        "result": task.result,
        "error": task.error,
    }


def _need(found: Overseen | None, options: argparse.Namespace) -> Overseen:
    if found is None:
        raise Failure(f"there is no task {options.task_id}")
    return found


def _selection(options: argparse.Namespace) -> Selection | None:
    """What the options select, None where a task is named. Raises Failure unless it is one of the two."""
    given = {name: getattr(options, name) for name in Selection._fields}
    has_filter = any(value is not None for value in given.values())
    if has_filter == (options.task_id is not None):
        raise Failure("name a task, or some by --type, --status, --key, --caller, --submitted-before")
    return Selection(**given) if has_filter else None


async def _cancel_all(database: Database, selection: Selection, options: argparse.Namespace) -> None:
    total = await database.query(lambda tx: selection.number(tx, bulk.UNFINISHED))
    done = 0
    with bar("cancelling") as progress:
        async for some in bulk.cancel_all(database, selection):
            done += some
            progress(done, max(total, done))
    database.publish(hints.QUEUED)
    print(encode({"cancelled": done}) if options.json else f"{done} tasks cancelled")


async def _retry_all(database: Database, selection: Selection, options: argparse.Namespace) -> None:
    total = await database.query(lambda tx: selection.number(tx, bulk.UNSUCCESSFUL))
    done, after = 0, ""
    with bar("queueing") as progress:
        while True:
            retried = await database.write(partial(bulk.retry, selection=selection, after=after), is_long=True)
            done += retried.number
            progress(done, max(total, done))
            database.publish(hints.QUEUED)
            if retried.after is None:
                break
            after = retried.after
    print(encode({"queued": done}) if options.json else f"{done} tasks queued again")


async def set_paused(database: Database, settings: Settings, options: argparse.Namespace, *, is_paused: bool) -> None:
    change = shares.pause if is_paused else shares.resume
    await database.write(lambda tx: change(tx, options.type))
    database.publish(hints.LANES)
    said = {"type": options.type, "paused": is_paused}
    print(encode(said) if options.json else f"{options.type} is {'paused' if is_paused else 'not paused'}")


async def cancel_task(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    if selection := _selection(options):
        await _cancel_all(database, selection, options)
        return
    is_cancelled, found = await database.write(lambda tx: all_callers.apply(tx, options.task_id, queue.cancel))
    one = _need(found, options)
    if one.task.status != "cancelled":
        raise Failure(f"the task has {one.task.status} already")
    if is_cancelled:
        database.publish(hints.cancelled(one.task.id))
        database.publish(hints.QUEUED)  # one that was held may have been let in
    _print(one, options)


async def retry_task(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    if selection := _selection(options):
        await _retry_all(database, selection, options)
        return
    is_queued, found = await database.write(lambda tx: all_callers.apply(tx, options.task_id, queue.retry))
    one = _need(found, options)
    if not is_queued:
        raise Failure(f"the task is {status_of(one.task)}; only a failed or cancelled one can be tried again")
    database.publish(hints.QUEUED)
    _print(one, options)


def argument(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` of a payload: the value is JSON where it can be read as such, else a text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    try:
        return name, parse_json(value.encode())
    except BadRequest:
        return name, value


async def submit_task(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    types = Types(await describe_types(settings))
    wanted = TASK_REQUEST.parse({"type": options.type, "payload": dict(options.arguments)}, types.faults)
    task = await database.write(lambda tx: queue.submit(tx, ANYONE, types.new_task(wanted)))
    database.publish(hints.QUEUED)
    print(task_json(task) if options.json else task.id)


async def watch_tasks(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Shows them until it is interrupted; once where stdout is no terminal."""
    while True:
        listed = await database.query(lambda tx: all_callers.list_newest(tx, options.limit))
        shown = table(WATCH_HEAD, [_watched(one.task) for one in listed])
        if not sys.stdout.isatty():
            print(shown)
            return
        print(f"{CLEAR_SCREEN}{shown}", flush=True)
        await asyncio.sleep(WATCH_SECONDS)


def _watched(task: TaskRow) -> tuple[object, ...]:
    progress = json.loads(task.progress or '{"fraction": 0, "message": ""}')
    blocks = "#" * round(progress["fraction"] * PROGRESS_WIDTH)
    message = progress["message"] or _said(task)
    return task.id, task.type, task.status, _tries(task), f"[{blocks.ljust(PROGRESS_WIDTH)}]", message


async def prune_tasks(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """In small transactions, so that services go on meanwhile."""
    seconds = settings.result_ttl if options.older_than is None else options.older_than
    total = await database.query(lambda tx: all_callers.count_ended(tx, seconds))
    pruned = 0
    with bar("pruning") as progress:
        while some := await database.write(partial(queue.prune, result_ttl_seconds=seconds), is_long=True):
            pruned += some
            progress(pruned, total)
    print(encode({"pruned": pruned}) if options.json else f"{pruned} tasks deleted")


async def list_types(settings: Settings, options: argparse.Namespace) -> None:
    types = await describe_types(settings)
    if options.json:
        print(encode({"items": Types(types).listing()}))
    else:
        print(table(TYPES_HEAD, [_type_row(one) for one in types.values()]))


def _type_row(one: TaskType) -> tuple[object, ...]:
    code = "elsewhere" if one.elsewhere else "async def" if one.is_async else "def"
    return one.type, code, f"{one.timeout:g}", one.max_attempts, one.description.partition("\n")[0]
