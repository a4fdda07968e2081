"""`python -m only_post_svc` serves; its other commands are for operators and authors of tasks."""

import argparse
import asyncio
from functools import partial
from typing import get_args

from only_post_svc import metrics
from only_post_svc.cli import checks, run, schedules, tasks, webhooks
from only_post_svc.main import SCHEMA, print_document, start_server, start_worker
from only_post_svc.models.tasks import Status
from only_post_svc.settings import Settings
from shared import VERSION, times
from shared.cli import commands
from shared.cli.commands import CommonCommands, add_json, add_serve, positive, text
from shared.http import server

SERVICE = CommonCommands(
    Settings, {"only_post": SCHEMA}, checks.ALL, metrics.families, health_method="POST", transient=("worker",)
)


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
    pause, resume = (partial(tasks.set_paused, is_paused=is_paused) for is_paused in (True, False))
    for one in (
        SERVICE.add_verb(subparsers, "pause", pause, "claim no task of a type until it is resumed"),
        SERVICE.add_verb(subparsers, "resume", resume, "claim tasks of a type again"),
    ):
        one.add_argument("type", metavar="TYPE", type=text)
        add_json(one)
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
    add = partial(SERVICE.add_verb, actions)
    listing = add("list", tasks.list_tasks, "the newest tasks of all callers")
    listing.add_argument("--status", choices=(*get_args(Status), "scheduled"))
    listing.add_argument("--type", type=text)
    listing.add_argument("--caller", type=text, help="a user's id, '' for tasks sent without a token")
    listing.add_argument("--limit", type=positive, default=50)
    show = add("show", tasks.show_task, "all there is to a task")
    show.add_argument("task_id", metavar="ID", type=text, help="or its first characters")
    for some in (
        add("cancel", tasks.cancel_task, "stop a task, waiting or running"),
        add("retry", tasks.retry_task, "queue a failed or cancelled task again"),
    ):
        some.add_argument("task_id", metavar="ID", type=text, nargs="?", help="or its first characters")
        some.add_argument("--type", type=text, help="all of this type")
        some.add_argument("--status", choices=get_args(Status), help="all with this status")
        some.add_argument("--key", type=text, help="all with this key")
        some.add_argument("--caller", type=text, help="all of this caller, '' for those sent without a token")
        some.add_argument("--submitted-before", type=moment, metavar="TIME", help="all from before (RFC 3339)")
    watch = add("watch", tasks.watch_tasks, "the newest tasks, live")
    watch.add_argument("--limit", type=positive, default=20)
    submit = add("submit", tasks.submit_task, "submit a task to this database, as no caller", may_create=True)
    submit.add_argument("type", metavar="TYPE", type=text)
    submit.add_argument("arguments", metavar="NAME=VALUE", type=tasks.argument, nargs="*", help="VALUE is JSON or text")
    prune = add("prune", tasks.prune_tasks, "delete tasks that ended long ago")
    prune.add_argument(
        "--older-than", type=commands.seconds, metavar="TIME", help="since their end (RESULT_TTL), such as 3d"
    )
    add_json(*actions.choices.values())


def _add_schedules(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = partial(SERVICE.add_verb, actions)
    listing = add("list", schedules.list_schedules, "the schedules of all callers, and of the code")
    listing.add_argument("--limit", type=positive, default=200)
    adding = add("add", schedules.add_schedule, "make a schedule, or replace the one of that name")
    add("remove", schedules.remove_schedule, "take a schedule back")
    add("run", schedules.run_schedule, "make one task of it now, beside those of its ticks")
    for one in actions.choices.values():
        if one is not listing:
            one.add_argument("name", metavar="NAME", type=text)
            one.add_argument("--caller", type=text, default="", help="a user's id; left out, the one of no caller")
    adding.add_argument("type", metavar="TYPE", type=text)
    adding.add_argument("payload", metavar="PAYLOAD", type=run.payload, nargs="?", default={}, help="JSON, - for stdin")
    when = adding.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", type=text, help="five fields, such as '0 3 * * MON'")
    when.add_argument("--every", type=positive, metavar="SECONDS")
    adding.add_argument("--timezone", type=text, metavar="ZONE", help="of the cron expression (UTC)")
    adding.add_argument("--overlap", action="store_true", help="tick also while the task before has not ended")
    add_json(*actions.choices.values())


def _add_webhooks(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = partial(SERVICE.add_verb, actions)
    listing = add("list", webhooks.list_webhooks, "the webhooks of the newest tasks, and how they went")
    listing.add_argument("--status", choices=("pending", "sent", "failed"))
    listing.add_argument("--limit", type=positive, default=50)
    retry = add("retry", webhooks.retry_webhook, "send the news of a task's end once more")
    retry.add_argument("task_id", metavar="ID", type=text)
    add_json(*actions.choices.values())
    add("secret", webhooks.show_secrets, "print what receivers verify signatures with")


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
