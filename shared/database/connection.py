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
    try:
        database = SQLite(url.removeprefix("sqlite:///"))
    except (OSError, sqlite3.Error) as error:
        # Not an OSError as it is: it shows the path, and with it the setting's value.
        raise _unusable(getattr(error, "strerror", None) or error) from None
    try:
        for name, directory in {"shared": SHARED_SCHEMA, **schemas}.items():
            await migrate(database, name, directory)
    except Unavailable as error:
        await database.close()
        raise _unusable(error.detail) from None
    return database


def _unusable(reason: object) -> SettingsError:
    return SettingsError(f"DATABASE_URL: the database can't be opened ({reason})")
