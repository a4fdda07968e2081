"""`python -m only_post_svc` serves; its other commands are for operators and authors of tasks."""

import argparse
import asyncio
import signal
from typing import get_args

import uvloop

from only_post_svc import metrics
from only_post_svc.cli import checks, run, schedules, tasks, webhooks
from only_post_svc.main import SCHEMA, parts, print_document, start_server
from only_post_svc.models.tasks import Status
from only_post_svc.settings import Settings
from only_post_svc.worker.coordinator import Worker
from shared import VERSION, cpus, logs, times
from shared.cli import commands
from shared.cli.commands import CommonCommands, add_json, add_serve, positive, text
from shared.http import server

SERVICE = CommonCommands(Settings, {"only_post": SCHEMA}, checks.ALL, metrics.families, health_method="POST")


async def work(settings: Settings) -> None:
    """Runs tasks until SIGTERM or SIGINT."""
    logs.configure(settings.log_level, settings.log_format)
    stop = asyncio.Event()
    async with parts(settings) as (database, types):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        # WORKER_PROCESSES=0 is for the web processes that share these settings.
        worker = Worker(database, settings, types, settings.worker_processes or cpus.usable())
        worker.start()
        await stop.wait()
        await worker.stopped()


def start_worker() -> None:
    uvloop.run(work(server.settings_or_fail(Settings)))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=commands.program("only_post_svc"), description="A durable job API that speaks only POST."
    )
    parser.add_argument("--version", action="version", version=VERSION)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    add_serve(parser, subparsers, start_server, "serve HTTP and run tasks")
    worker = subparsers.add_parser("worker", help="run tasks only")
    commands.add_reload(worker)
    worker.set_defaults(run=lambda options: commands.start_by(options, start_worker))
    _add_tasks(subparsers.add_parser("tasks", help="list, show, cancel, retry and prune tasks"))
    _add_schedules(subparsers.add_parser("schedules", help="list, add, remove and run schedules"))
    _add_webhooks(subparsers.add_parser("webhooks", help="list and retry webhooks, show what verifies them"))
    types = subparsers.add_parser("types", help="list the task types")
    add_json(types)
    types.set_defaults(
        run=lambda options: asyncio.run(tasks.list_types(server.settings_or_fail(Settings, makes_files=False), options))
    )
    for action, verb, meaning in (
        ("pause", tasks.pause_type, "claim no task of a type until it is resumed"),
        ("resume", tasks.resume_type, "claim tasks of a type again"),
    ):
        one = subparsers.add_parser(action, help=meaning)
        one.add_argument("type", metavar="TYPE", type=text)
        add_json(one)
        one.set_defaults(run=SERVICE.over_database(verb))
    _add_run(subparsers.add_parser("run", help="run one task here and now, without a service"))
    document = subparsers.add_parser("openapi", help="print the OpenAPI document")
    document.set_defaults(run=lambda options: print_document())
    SERVICE.add(subparsers)
    return parser


def moment(text: str) -> int:
    """An argument: a time, in milliseconds since 1970."""
    try:
        return times.from_text(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("must be a time such as 2026-11-22T08:30:00Z") from None


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the newest tasks of all callers")
    listing.add_argument("--status", choices=(*get_args(Status), "scheduled"))
    listing.add_argument("--type", type=text)
    listing.add_argument("--caller", type=text, help="a user's id, '' for tasks sent without a token")
    listing.add_argument("--limit", type=positive, default=50)
    listing.set_defaults(run=SERVICE.over_database(tasks.list_tasks))
    for action, verb, meaning in (
        ("show", tasks.show_task, "all there is to a task"),
        ("cancel", tasks.cancel_task, "stop a task, waiting or running"),
        ("retry", tasks.retry_task, "queue a failed or cancelled task again"),
    ):
        one = actions.add_parser(action, help=meaning)
        one.add_argument(
            "task_id", metavar="ID", type=text, nargs=None if action == "show" else "?", help="or its first characters"
        )
        one.set_defaults(run=SERVICE.over_database(verb))
    for action in ("cancel", "retry"):
        some = actions.choices[action]
        some.add_argument("--type", type=text, help="all of this type")
        some.add_argument("--status", choices=get_args(Status), help="all with this status")
        some.add_argument("--key", type=text, help="all with this key")
        some.add_argument("--caller", type=text, help="all of this caller, '' for those sent without a token")
        some.add_argument("--submitted-before", type=moment, metavar="TIME", help="all from before (RFC 3339)")
    watch = actions.add_parser("watch", help="the newest tasks, live")
    watch.add_argument("--limit", type=positive, default=20)
    watch.set_defaults(run=SERVICE.over_database(tasks.watch_tasks))
    submit = actions.add_parser("submit", help="submit a task to this database, as no caller")
    submit.add_argument("type", metavar="TYPE", type=text)
    submit.add_argument("arguments", metavar="NAME=VALUE", type=tasks.argument, nargs="*", help="VALUE is JSON or text")
    submit.set_defaults(run=SERVICE.over_database(tasks.submit_task, may_create=True))
    prune = actions.add_parser("prune", help="delete tasks that ended long ago")
    prune.add_argument(
        "--older-than", type=commands.seconds, metavar="TIME", help="since their end (RESULT_TTL), such as 3d"
    )
    prune.set_defaults(run=SERVICE.over_database(tasks.prune_tasks))
    add_json(*actions.choices.values())


def _add_schedules(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the schedules of all callers, and of the code")
    listing.add_argument("--limit", type=positive, default=200)
    listing.set_defaults(run=SERVICE.over_database(schedules.list_schedules))
    for action, verb, meaning in (
        ("add", schedules.add_schedule, "make a schedule, or replace the one of that name"),
        ("remove", schedules.remove_schedule, "take a schedule back"),
        ("run", schedules.run_schedule, "make one task of it now, beside those of its ticks"),
    ):
        one = actions.add_parser(action, help=meaning)
        one.add_argument("name", metavar="NAME", type=text)
        one.add_argument("--caller", type=text, default="", help="a user's id; left out, the one of no caller")
        one.set_defaults(run=SERVICE.over_database(verb))
    add = actions.choices["add"]
    add.add_argument("type", metavar="TYPE", type=text)
    add.add_argument("payload", metavar="PAYLOAD", type=run.payload, nargs="?", default={}, help="JSON, - for stdin")
    when = add.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", type=text, help="five fields, such as '0 3 * * MON'")
    when.add_argument("--every", type=positive, metavar="SECONDS")
    add.add_argument("--timezone", type=text, metavar="ZONE", help="of the cron expression (UTC)")
    add.add_argument("--overlap", action="store_true", help="tick also while the task before has not ended")
    add_json(*actions.choices.values())


def _add_webhooks(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the webhooks of the newest tasks, and how they went")
    listing.add_argument("--status", choices=("pending", "sent", "failed"))
    listing.add_argument("--limit", type=positive, default=50)
    listing.set_defaults(run=SERVICE.over_database(webhooks.list_webhooks))
    retry = actions.add_parser("retry", help="send the news of a task's end once more")
    retry.add_argument("task_id", metavar="ID", type=text)
    retry.set_defaults(run=SERVICE.over_database(webhooks.retry_webhook))
    add_json(*actions.choices.values())
    secret = actions.add_parser("secret", help="print what receivers verify signatures with")
    secret.set_defaults(run=lambda options: webhooks.show_secrets(server.settings_or_fail(Settings)))


def _add_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("module", metavar="MODULE", help="the module that has the task, such as myapp.jobs")
    one.add_argument("type", metavar="TYPE")
    one.add_argument("payload", metavar="PAYLOAD", type=run.payload, nargs="?", default={}, help="JSON, - for stdin")
    one.add_argument("--attempt", type=positive, default=1, help="the attempt that its context says it is")
    one.add_argument("--timeout", type=positive, metavar="SECONDS", help="in place of the task's own")
    one.set_defaults(run=lambda options: run.run(server.settings_or_fail(Settings, makes_files=False), options))


def main() -> None:
    commands.find_modules_here()
    options = parser().parse_args()
    commands.run(options.run, options)


if __name__ == "__main__":
    main()
