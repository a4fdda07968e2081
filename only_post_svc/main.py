"""The parts of the application, from its start to its stop."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import uvloop

from only_post_svc.api import create_app
from only_post_svc.backlog import Backlog
from only_post_svc.document import document
from only_post_svc.elsewhere import Claimants
from only_post_svc.health import look
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.state import State
from only_post_svc.task_types import Types
from only_post_svc.waiters import Waiters
from only_post_svc.worker import linux
from only_post_svc.worker.children import describe_types
from only_post_svc.worker.coordinator import Worker
from only_post_svc.worker.runs import log_failure
from shared import cpus, logs
from shared.auth import TokenDoor
from shared.database import Database, connection
from shared.health import Health
from shared.http import server
from shared.keys import load_keys
from shared.lasting_secrets import lasting_secrets
from shared.pages import Cursors
from shared.rate_limits import RateLimit
from shared.settings import SettingsError, is_this_machine

SCHEMA = Path(__file__).parent / "schema"
MAX_DOCUMENTS = 16  # that are kept: there is one for each set of scopes of types that a caller has


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[State]:
    logs.configure(settings.log_level, settings.log_format)
    try:
        token_door = TokenDoor(load_keys(settings), settings.issuer, settings.audience)
    except SettingsError as error:
        server.fail_now(str(error))
    async with parts(settings) as (database, types):
        waiters = Waiters(database)
        worker = Worker(database, settings, types, settings.worker_processes, waiters)
        claimants = Claimants(database, settings, types.values(), worker.counts, log_failure)
        state = State(
            settings=settings,
            database=database,
            token_door=token_door,
            types=Types(types, settings.receivers),
            backlog=Backlog(settings.max_queued, settings.max_queued_per_caller),
            waiters=waiters,
            health=Health(lambda: look(database, types)),
            counts=worker.counts,
            claimants=claimants,
            note_claims=worker.note_claims,
            expect_task=worker.expect_task,
            cursors=Cursors(await lasting_secrets(database, settings)),
            rate_limit=RateLimit(*settings.rate_limits.other) if settings.rate_limits.other else None,
            document=lru_cache(MAX_DOCUMENTS)(partial(document, settings, types)),
        )

        def stop() -> None:
            worker.stop()
            claimants.stop()
            waiters.stop()

        waiters.start()
        worker.start()
        try:
            with server.stop_signals(stop):
                yield state
        finally:
            await worker.stopped()


@asynccontextmanager
async def parts(settings: Settings) -> AsyncIterator[tuple[Database, dict[str, TaskType]]]:
    """What the web process and the worker process both need. One that can't be had ends the start."""
    try:
        linux.hide()  # before any code of a task runs
        with server.stop_signals(server.leave):
            types = await describe_types(settings)
            database = await connection.connect(settings.database_url, {"only_post": SCHEMA}, waits=True)
    except SettingsError as error:
        server.fail_now(str(error))
    server.log_start(settings, task_modules=",".join(settings.task_modules))
    try:
        yield database, types
    finally:
        await database.close()


def start_server(host: str | None = None, port: int | None = None) -> None:
    """Serves until SIGTERM or SIGINT, with the settings of the environment."""
    settings = server.settings_or_fail(Settings)
    host = host or settings.host
    if settings.is_local_only and not is_this_machine(host):
        server.fail("HOST: without a login only this machine is served; set TASK_AUTH to required, or to off")
    server.serve(create_app(settings, lifespan), settings, host, port)


async def _work(settings: Settings) -> None:
    """Runs tasks until SIGTERM or SIGINT."""
    logs.configure(settings.log_level, settings.log_format)
    stop = asyncio.Event()
    async with parts(settings) as (database, types):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        # WORKER_PROCESSES=0 is for the web processes that share these settings.
        processes = settings.worker_processes or cpus.usable()
        worker = Worker(database, settings, types, processes, Waiters(database))
        worker.start()
        await stop.wait()
        await worker.stopped()


def start_worker() -> None:
    uvloop.run(_work(server.settings_or_fail(Settings)))


def print_document() -> None:
    """Prints what `POST /openapi.json` answers."""
    settings = server.settings_or_fail(Settings, makes_files=False)
    print(document(settings, asyncio.run(describe_types(settings))))


def __getattr__(name: str) -> Any:
    # `uvicorn only_post_svc.main:app` asks for it; an import alone reads no settings and opens nothing.
    if name == "app":
        return create_app(server.settings_under_uvicorn(Settings), lifespan)
    raise AttributeError(name)
