"""The parts of the application, from its start to its stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shared import departures, idempotency, logs
from shared.auth import TokenDoor
from shared.database import Database, Unit, connection
from shared.health import Health
from shared.http import server
from shared.keys import load_keys, published_keys
from shared.lasting_secrets import lasting_secrets
from shared.loops import Loops, Step
from shared.pages import Cursors
from shared.pruning import MAX_PRUNED
from shared.rate_limits import AtOnce, RateLimit
from shared.settings import SettingsError
from token_svc import accounts, attempts, events, items, oauth_errors, sessions
from token_svc.api import create_app
from token_svc.changes import Watchers
from token_svc.clients import Clients
from token_svc.document import document
from token_svc.grants import Grants
from token_svc.health import look
from token_svc.mail import tokens
from token_svc.mail.letters import Letters
from token_svc.mail.mailer import POLL_SECONDS, Mailer
from token_svc.passwords import Passwords
from token_svc.recovery import Recovery
from token_svc.sessions import Issuer
from token_svc.settings import Settings
from token_svc.state import State

SCHEMA = Path(__file__).parent / "schema"
EXPORTS = 2  # at once, of a user
PRUNE_SECONDS = 60
PRUNERS = (sessions.prune, attempts.prune, events.prune, tokens.prune, items.prune, idempotency.prune)


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[State]:
    logs.configure(settings.log_level, settings.log_format)
    try:
        issuer = Issuer(settings)
        letters = Letters(settings.mail_templates, {"reset": settings.reset_url, "verify": settings.verify_url})
        door = TokenDoor(load_keys(settings), settings.issuer, settings.audience)
        with server.stop_signals(server.leave):
            database = await connection.connect(settings.database_url, {accounts.SERVICE: SCHEMA}, waits=True)
    except SettingsError as error:
        server.fail_now(str(error))
    server.log_start(settings)
    secrets = await lasting_secrets(database, settings)
    passwords = Passwords(settings.password_min_length)
    upkeep = Loops(lambda: None)
    left = asyncio.Event()
    changes = Watchers(database)
    _start_upkeep(upkeep, database, settings, letters, left)
    try:
        with server.stop_signals(changes.stop):
            yield State(
                settings=settings,
                database=database,
                token_door=door,
                issuer=issuer,
                grants=Grants(database, passwords, settings, secrets),
                clients=Clients(database, settings),
                recovery=Recovery(database, passwords, settings),
                cursors=Cursors(secrets),
                keys=published_keys(settings),
                exports=AtOnce(EXPORTS),
                rate_limit=RateLimit(*settings.rate_limits.other) if settings.rate_limits.other else None,
                health=Health(lambda: look(database)),
                document=document(),
                left=left,
                changes=changes,
            )
    finally:
        upkeep.stop()
        passwords.close()
        await database.close()


def _start_upkeep(upkeep: Loops, database: Database, settings: Settings, letters: Letters, left: asyncio.Event) -> None:
    forget = partial(departures.sweep_all, database, accounts.SERVICE, accounts.forget)
    upkeep.start(forget, every=PRUNE_SECONDS, at=left)
    for prune in PRUNERS:
        upkeep.start(_pruning(database, prune), every=PRUNE_SECONDS)
    if settings.mail_url:
        mailer = Mailer(database, settings.mail_url, letters)
        upkeep.start(mailer.step, every=POLL_SECONDS, at=mailer.news)


def _pruning(database: Database, prune: Unit[int]) -> Step:
    async def step() -> None:
        while await database.write(prune, is_long=True) >= MAX_PRUNED:
            await asyncio.sleep(0)

    step.__name__ = prune.__module__  # as the log has it
    return step


def start_server(host: str | None = None, port: int | None = None) -> None:
    """Serves until SIGTERM or SIGINT, with the settings of the environment."""
    settings = server.settings_or_fail(Settings)
    server.serve(create_app(settings, lifespan), settings, host, port, oauth_errors.EXTENSION)


def __getattr__(name: str) -> Any:
    # `uvicorn token_svc.main:app` asks for it; an import alone reads no settings and opens nothing.
    if name == "app":
        return create_app(server.settings_under_uvicorn(Settings), lifespan)
    raise AttributeError(name)
