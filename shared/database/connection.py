"""From a DATABASE_URL to a database that is ready for use."""

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.database import Database, migrate
from shared.database.sqlite import MEMORY, SQLite
from shared.errors import Unavailable
from shared.settings import SettingsError

if TYPE_CHECKING:
    from shared.database.postgres import PostgreSQL

SHARED_SCHEMA = Path(__file__).parent / "schema"
SQLITE = "sqlite:///"
AGAIN_SECONDS = 0.5
TELL_SECONDS = 10.0

# Messages of PostgreSQL and PgBouncer after which waiting is useless. In another language they are not recognised: the
# start waits, and the log has the message.
HOPELESS = re.compile(
    "authentication failed|does not exist|no such (database|user)|no password supplied|permission denied"
    "|no pg_hba.conf entry|not support SSL|certificate|bad value|invalid (.* )?(value|number|response)|its encoding is"
)

log = logging.getLogger(__name__)


async def connect(url: str, schemas: Mapping[str, Path], *, waits: bool = False) -> Database:
    """Opens the database and brings its tables up to date: the shared ones, then those of `schemas`
    (name to directory). Raises SettingsError; where it `waits`, a server that is not there yet is waited for."""
    database = _sqlite(url) if is_sqlite(url) else await _postgres(url, waits=waits)
    try:
        for name, directory in {"shared": SHARED_SCHEMA, **schemas}.items():
            await migrate(database, name, directory)
    except Unavailable:
        await database.close()
        raise _unusable("its tables can't be brought up to date; the line before says why") from None
    return database


def is_sqlite(url: str) -> bool:
    return url.startswith(SQLITE)


def file_of(url: str) -> Path | None:
    """The file of a SQLite database, None when it has none of its own."""
    location = url.removeprefix(SQLITE)
    return Path(location).resolve() if is_sqlite(url) and location != MEMORY else None


def described(url: str) -> str:
    """For logs: where it is, without users, passwords and parameters."""
    if is_sqlite(url):
        return str(file_of(url) or url)
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _sqlite(url: str) -> Database:
    try:
        return SQLite(url.removeprefix(SQLITE))
    except (OSError, sqlite3.Error) as error:
        # Not an OSError as it is: it shows the path, and with it the setting's value.
        reason = getattr(error, "strerror", None) or error
        raise _unusable(f"{reason}; the default one is in STATE_DIR") from None


async def _postgres(url: str, *, waits: bool) -> Database:
    import psycopg  # takes 0.1 s, which a start without it saves

    from shared.database.postgres import PostgreSQL

    try:
        database = PostgreSQL(url)
    except psycopg.Error as error:
        parameter = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        raise _unusable(f"unknown parameter {parameter[1]}" if parameter else "not a PostgreSQL URL") from None
    try:
        await _until_there(database, waits=waits)
    except SettingsError:
        await database.close()
        raise
    return database


async def _until_there(database: "PostgreSQL", *, waits: bool) -> None:
    """After a reboot the server may start later than the services."""
    told_at = -TELL_SECONDS
    while refusal := await database.refusal():
        said = _without_names(refusal)
        if not waits or HOPELESS.search(said):
            raise _unusable(said)
        if time.monotonic() - told_at >= TELL_SECONDS:
            told_at = time.monotonic()
            log.warning("database.awaited", extra={"reason": refusal})
        await asyncio.sleep(AGAIN_SECONDS)


def _without_names(refusal: str) -> str:
    """What a server or libpq has said, without what the URL says of hosts, users and databases."""
    first = refusal.partition("\n")[0]
    said = re.split("failed: |FATAL: ", first)[-1].strip()
    return re.sub("""("|').*?\\1""", "…", said)


def _unusable(reason: object) -> SettingsError:
    return SettingsError(f"DATABASE_URL: the database can't be opened ({reason})")
