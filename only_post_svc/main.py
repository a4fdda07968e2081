"""The application: its parts, its middleware and its lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from only_post_svc import api
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
from shared import logs
from shared.auth import TokenDoor
from shared.database import Database, connection
from shared.errors import ExceptionHandler
from shared.health import Health
from shared.http import server
from shared.http.protocol import PostOnlyProtocol
from shared.keys import load_keys
from shared.middleware.access_log import AccessLog
from shared.middleware.body_limit import BodyLimit
from shared.middleware.cors import CORS
from shared.middleware.cross_site import CrossSite
from shared.middleware.https_only import HTTPSOnly
from shared.middleware.request_id import RequestId
from shared.middleware.single_headers import SingleHeaders
from shared.pages import cursors
from shared.post_only import PostOnly
from shared.rate_limits import CountAll, RateLimit
from shared.routing import Routes
from shared.settings import SettingsError, is_this_machine

SCHEMA = Path(__file__).parent / "schema"
MAX_DOCUMENTS = 16  # that are kept: there is one for each set of scopes of types that a caller has


def create_app(settings: Settings) -> Routes:
    health_paths = frozenset({"/health"} if settings.health_get else ())
    return Routes(
        api.routes(health_get=settings.health_get),
        middleware=[
            Middleware(RequestId),
            Middleware(AccessLog),
            *([Middleware(CORS, settings.cors_origins, ["POST"])] if settings.cors_origins else []),
            Middleware(PostOnly, get_paths=health_paths),
            *([Middleware(HTTPSOnly)] if settings.require_https else []),
            Middleware(ExceptionHandler),
            *([Middleware(CountAll)] if settings.rate_limits.other else []),
            Middleware(SingleHeaders),
            *([_cross_site(settings)] if settings.task_auth == "off" else []),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
        lifespan=lambda app: lifespan(settings),
    )


def _cross_site(settings: Settings) -> Middleware:
    hosts, origins = settings.allowed_hosts, settings.cors_origins
    return Middleware(CrossSite, hosts, origins, is_local_only=settings.is_local_only)


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[State]:
    logs.configure(settings.log_level, settings.log_format)
    try:
        token_door = TokenDoor(load_keys(settings), settings.issuer, settings.audience)
    except SettingsError as error:
        server.fail_now(str(error))
    async with parts(settings) as (database, types):
        waiters = Waiters(database)
        worker = Worker(database, settings, types, settings.worker_processes)
        bounds = settings.lease_seconds, log_failure, settings.max_running_per_caller
        claimants = Claimants(database, types.values(), worker.counts, *bounds)
        worker.start()

        def stop() -> None:
            worker.stop()
            claimants.stop()
            waiters.stop()

        with server.stop_signals(stop):
            yield State(
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
                cursors=await cursors(database, settings.secret_key),
                rate_limit=RateLimit(*settings.rate_limits.other) if settings.rate_limits.other else None,
                document=lru_cache(MAX_DOCUMENTS)(partial(document, settings, types)),
            )
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
    server.serve(create_app(settings), settings, host, port, PostOnlyProtocol)


def print_document() -> None:
    """Prints what `POST /openapi.json` answers."""
    settings = server.settings_or_fail(Settings, makes_files=False)
    print(document(settings, asyncio.run(describe_types(settings))))


def __getattr__(name: str) -> Any:
    # `uvicorn only_post_svc.main:app` asks for it; an import alone reads no settings and opens nothing.
    if name == "app":
        return create_app(server.settings_under_uvicorn(Settings))
    raise AttributeError(name)
