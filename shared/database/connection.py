"""From a DATABASE_URL to a database that is ready for use."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from shared.database import Database, migrate
from shared.database.sqlite import SQLite
from shared.errors import Unavailable
from shared.settings import SettingsError

SHARED_SCHEMA = Path(__file__).parent.parent / "schema"


async def connect(url: str, schemas: Mapping[str, Path]) -> Database:
    """Opens the database and brings its tables up to date: the shared ones, then those of `schemas`
    (name to directory). Raises SettingsError."""
    database = _sqlite(url) if is_sqlite(url) else _postgres(url)
    try:
        for name, directory in {"shared": SHARED_SCHEMA, **schemas}.items():
            await migrate(database, name, directory)
    except Unavailable as error:
        await database.close()
        raise _unusable(error.detail) from None
    return database


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite:")


def _sqlite(url: str) -> Database:
    try:
        return SQLite(url.removeprefix("sqlite:///"))
    except (OSError, sqlite3.Error) as error:
        # Not an OSError as it is: it shows the path, and with it the setting's value.
        raise _unusable(getattr(error, "strerror", None) or error) from None


def _postgres(url: str) -> Database:
    import psycopg  # takes 0.1 s, which a start without it saves

    from shared.database.postgres import PostgreSQL

    try:
        return PostgreSQL(url)
    except psycopg.Error:
        raise _unusable("not a PostgreSQL URL") from None


def _unusable(reason: object) -> SettingsError:
    return SettingsError(f"DATABASE_URL: the database can't be opened ({reason})")
