"""Copies of a SQLite database, made and put back while services run on it.

Each step that writes, or may make a checkpoint, holds the lock file of shared/database/sqlite.py. Reading does not: a
copy is made from one snapshot, and writers go on meanwhile.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from shared import files
from shared.cli.terminal import Failure, Progress, failing
from shared.database.connection import SHARED_SCHEMA, file_of, is_sqlite
from shared.database.sqlite_files import make_file, open_lock

STEP_PAGES = 1000
LOCKED_SECONDS = 5
ERRORS = (OSError, sqlite3.Error)
DAMAGED = "stop the services, move it and its -wal and -shm files away, and restore again"


def back_up(url: str, file: Path, progress: Progress, *, force: bool) -> None:
    """Writes everything that was committed before to `file`, whole or not at all. Raises Failure."""
    source = _need_file(url, 'pg_dump --format=custom --file=FILE "$DATABASE_URL"')
    if file.is_symlink():
        raise Failure(f"{file} is a symbolic link, which another user may have made; name the file itself")
    file = _need_apart(file, source)
    if not source.exists():
        raise Failure("there is no database yet")
    if file.exists() and not force:
        raise Failure(f"{file} is there already; --force writes over it")
    with failing(f"{file} can't be written", *ERRORS), files.draft_of(file) as draft:
        make_file(draft)
        with snapshot(source) as connection, closing(_open(draft)) as copy:
            _copy(connection, copy, progress)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            _need_intact(copy, "the database")
        _publish(draft, file, force=force)


def restore(url: str, file: Path, schemas: Mapping[str, Path], progress: Progress, *, force: bool) -> None:
    """Puts a copy in the database's place, in one transaction: services that run see the one or the other.

    Raises Failure, with nothing changed.
    """
    target = _need_file(url, 'pg_restore --clean --if-exists --single-transaction --dbname="$DATABASE_URL" FILE')
    file = _need_apart(file, target)
    with failing(f"{file} is no copy of a database", *ERRORS), closing(_open(file)) as source:
        _need_intact(source, str(file))
        _need_ours(source, schemas, str(file))
        with failing("the database can't be restored", *ERRORS), _turn(target):
            if target.exists() and target.stat().st_size and not force:
                raise Failure("there is a database already; --force puts the copy in its place")
            _overwrite(target, source, progress)


def _overwrite(target: Path, source: sqlite3.Connection, progress: Progress) -> None:
    make_file(target)
    with closing(sqlite3.connect(target, timeout=LOCKED_SECONDS, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")  # is it locked? Connection.backup would wait for ever
            connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise Failure(f"the database is damaged ({error}); {DAMAGED}") from None
        _copy(source, connection, progress)


def _need_file(url: str, instead: str) -> Path:
    if not is_sqlite(url):
        raise Failure(f"the database is PostgreSQL, which has tools of its own: {instead}")
    file = file_of(url)
    if file is None:
        raise Failure("the database is in memory, and gone with its process")
    return file


def _need_apart(file: Path, database: Path) -> Path:
    """The file's path. Raises Failure where it is one of the database's own files."""
    file = file.resolve()
    if file in [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-lock", "-journal")]:
        raise Failure("FILE is a part of the database itself")
    return file


@contextmanager
def _turn(database: Path) -> Iterator[None]:
    lock = open_lock(str(database), False)
    assert lock is not None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection, for one thread after another, that goes on seeing what is committed now. Held open, so that a copy
    in steps need not start again with every write."""
    with _turn(database):
        connection = _open(database)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    try:
        yield connection
    finally:
        with _turn(database):  # the last connection to close makes a checkpoint
            connection.close()


def _open(file: Path) -> sqlite3.Connection:
    """Opens a database that is there; does not make one."""
    location = f"{file.as_uri()}?mode=rw"
    return sqlite3.connect(location, timeout=LOCKED_SECONDS, uri=True, isolation_level=None, check_same_thread=False)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, progress: Progress) -> None:
    def report(status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    source.backup(target, pages=STEP_PAGES, progress=report)


def _need_intact(connection: sqlite3.Connection, what: str) -> None:
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise Failure(f"{what} is damaged ({' '.join(found.split())})")


def _need_ours(connection: sqlite3.Connection, schemas: Mapping[str, Path], what: str) -> None:
    directories = {"shared": SHARED_SCHEMA, **schemas}
    known = {f"{name}/{file.stem}" for name, directory in directories.items() for file in directory.glob("*.sql")}
    try:
        applied = {name for (name,) in connection.execute("SELECT name FROM migration")}
    except sqlite3.OperationalError:
        applied = set()
    ours = {name for name in applied if name.partition("/")[0] in directories}
    if {name.partition("/")[0] for name in ours} != set(directories):
        raise Failure(f"{what} is no copy of this service's database")
    if ours - known:
        raise Failure(f"{what} was made by a newer version")


def _publish(draft: Path, file: Path, *, force: bool) -> None:
    for suffix in ("-wal", "-journal"):
        if file.with_name(file.name + suffix).exists():  # SQLite would take it for the copy's
            raise Failure(f"{file}{suffix} belongs to another database; move it away")
    if force:
        draft.replace(file)
    else:
        os.link(draft, file)
    files.sync_directory(file.parent)
