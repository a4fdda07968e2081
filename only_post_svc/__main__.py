"""`python -m only_post_svc` serves; `python -m only_post_svc worker` runs tasks and serves nothing."""

import argparse
import asyncio
import os
import signal

import uvloop

from only_post_svc import metrics
from only_post_svc.main import SCHEMA, parts, print_document, start_server
from only_post_svc.settings import Settings
from only_post_svc.worker import Worker
from shared import exposition, logs, server


async def work(settings: Settings) -> None:
    """Runs tasks until SIGTERM or SIGINT."""
    logs.configure(settings.log_level, settings.log_format)
    stop = asyncio.Event()
    async with parts(settings) as (database, types):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        # WORKER_PROCESSES=0 is for the web processes that share these settings.
        worker = Worker(database, settings, types, settings.worker_processes or os.cpu_count() or 1)
        worker.start()
        await stop.wait()
        await worker.stopped()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m only_post_svc", description="A durable job API that speaks only POST."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve HTTP and run tasks (the default)")
    for one in (parser, serve):
        one.add_argument("--host", help="the address to listen on (HOST)")
        one.add_argument("--port", type=int, help="the port to listen on (PORT)")
    commands.add_parser("worker", help="run tasks only")
    commands.add_parser("metrics", help="print what the database knows, for a collector of text files")
    commands.add_parser("openapi", help="print the OpenAPI document")
    options = parser.parse_args()
    if options.command == "worker":
        uvloop.run(work(server.settings_or_fail(Settings)))
    elif options.command == "metrics":
        uvloop.run(exposition.show(server.settings_or_fail(Settings), {"only_post": SCHEMA}, metrics.families))
    elif options.command == "openapi":
        print_document()
    else:
        start_server(options.host, options.port)


if __name__ == "__main__":
    main()
