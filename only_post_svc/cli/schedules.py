"""The operator's commands over the schedules of all callers, and of the code."""

import argparse
from functools import partial

from only_post_svc import hints, schedules
from only_post_svc.lookup import TaskRow
from only_post_svc.models.schedules import SCHEDULE_REQUEST, schedule_json
from only_post_svc.models.tasks import task_json
from only_post_svc.schedules import COLUMNS, ScheduleRow
from only_post_svc.settings import Settings
from only_post_svc.task_types import Types
from only_post_svc.worker.children import describe_types
from shared import times
from shared.cli.terminal import Failure, table
from shared.database import Database, Transaction
from shared.pages import list_json
from shared.strict_json import encode

HEAD = ("SCHEDULE", "CALLER", "TYPE", "WHEN", "NEXT", "LAST TASK", "SKIPPED")
OF_ALL = f"SELECT {COLUMNS} FROM schedule ORDER BY caller, name, in_code LIMIT :limit"


async def list_schedules(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    rows = await database.query(lambda tx: [ScheduleRow(*row) for row in tx.all(OF_ALL, limit=options.limit)])
    if options.json:
        print(list_json(map(_json, rows)))
    else:
        print(table(HEAD, [_row(row) for row in rows]))


def _json(row: ScheduleRow) -> str:
    return f'{schedule_json(row)[:-1]},"caller":{encode(row.caller)}}}'


def _row(row: ScheduleRow) -> tuple[object, ...]:
    when = f"{row.cron} {row.timezone}" if row.every_ms is None else f"every {row.every_ms / 1000:g} s"
    caller = "(code)" if row.in_code else row.caller
    return row.name, caller, row.new_task.type, when, times.to_text(row.next_run_at), row.last_task_id, row.skipped


async def add_schedule(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    given = {
        name: getattr(options, name) for name in ("name", "type", "cron", "every", "timezone", "payload", "overlap")
    }
    sent = {name: value for name, value in given.items() if value is not None}
    types = Types(await describe_types(settings), settings.receivers)
    new = types.new_schedule(SCHEDULE_REQUEST.parse(sent, types.schedule_faults))
    row, _ = await database.write(lambda tx: schedules.save(tx, options.caller, new))
    database.publish(hints.SCHEDULED)
    _print(row, options)


def _print(row: ScheduleRow, options: argparse.Namespace) -> None:
    print(_json(row) if options.json else table(HEAD, [_row(row)]))


async def remove_schedule(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    row = await database.write(lambda tx: schedules.remove(tx, options.caller, options.name))
    if row is None:
        raise Failure(f"there is no schedule {options.name}; one that stands in code goes with its lines")
    _print(row, options)


async def run_schedule(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    task = await database.write(partial(_run, caller=options.caller, name=options.name))
    if task is None:
        raise Failure(f"there is no schedule {options.name}")
    database.publish(hints.QUEUED)
    print(task_json(task) if options.json else task.id)


def _run(tx: Transaction, caller: str, name: str) -> TaskRow | None:
    row = schedules.find(tx, caller, name) or schedules.find(tx, caller, name, in_code=1)
    return schedules.run_now(tx, row) if row else None
