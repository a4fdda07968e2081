"""Where a service under test keeps its rows: a file beside it, or a database of its own on a server."""

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests import postgres
from tests.processes import HTTPService

S = TypeVar("S", bound=HTTPService)

ENGINES = ("sqlite", "postgres")
ON_A_FILE = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)  # where the engine can make no difference


@contextlib.contextmanager
def settings_of(engine: str) -> Iterator[dict[str, str]]:
    """What makes a service use an empty database of that engine."""
    if engine == "sqlite":
        yield {}
        return
    with postgres.new_database() as url:
        yield {"DATABASE_URL": url}


@contextlib.contextmanager
def shared_by_tests(make: type[S], storage: str, directory: Path, **env: str) -> Iterator[S]:
    """A service with settings of its own on an empty database, for the tests of a module that break nothing."""
    with settings_of(storage) as database:
        service = make(directory, {**env, **database})
        yield service
        service.kill()


def rows(service: HTTPService, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What the statement, with `?` for each value, finds or does in the database of a service."""
    if url := service.env.get("DATABASE_URL"):
        return postgres.execute(url, sql.replace("?", "%s"), *values)
    with contextlib.closing(sqlite3.connect(service.file, timeout=10)) as connection, turn(service.file), connection:
        return connection.execute(sql, values).fetchall()


@contextlib.contextmanager
def turn(file: Path) -> Iterator[None]:
    """The turn to write, as any process takes it."""
    with Path(f"{file}-lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tables(service: HTTPService) -> list[str]:
    if "DATABASE_URL" in service.env:
        found = rows(service, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    else:
        found = rows(service, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in found]


def everything(service: HTTPService) -> bytes:
    """All that is stored: the bytes of the files, or of all rows."""
    if "DATABASE_URL" in service.env:
        return repr([rows(service, f"SELECT * FROM {table}") for table in tables(service)]).encode()
    files = filter(Path.is_file, service.file.parent.glob(f"{service.file.name}*"))
    return b"".join(file.read_bytes() for file in files)
