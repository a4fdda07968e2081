"""A throw-away PostgreSQL server for the tests, or databases of their own on the one of TEST_DATABASE_URL."""

import contextlib
import fcntl
import os
import pickle
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.processes import free_port

TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL", "")
SERVERS = "/usr/lib/postgresql"  # Debian keeps them out of the PATH
LACKING = "needs PostgreSQL: initdb and pg_ctl on the PATH, or TEST_DATABASE_URL"

RUN = "TEST_RUN"  # the directory that the processes of one test run share
OPTIONS = "-c max_connections=400 -c listen_addresses=127.0.0.1 -c log_min_messages=fatal"


def _found(program: str) -> str | None:
    folders = sorted(Path(SERVERS).glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))


class Cluster:
    """A server of the tests' own, started where `initdb` is found."""

    def __init__(self, initdb: str, pg_ctl: str, *, fsync: bool, primary: "Cluster | None" = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg", dir=os.environ.get("TMPDIR", "/tmp")))
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._initdb, self._pg_ctl = initdb, pg_ctl
        self._options = f"{OPTIONS} -c fsync={'on' if fsync else 'off'}"
        self._user = unprivileged()
        if self._user:
            shutil.chown(self.directory, self._user)
        if primary is None:
            self._run(initdb, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        else:
            self._run(_found("pg_basebackup") or "pg_basebackup", "--dbname", primary.url, "--write-recovery-conf")
        self.start()

    def standby(self) -> "Cluster":
        """A server that follows this one, which from now on tells of no commit before the other has it."""
        follower = Cluster(self._initdb, self._pg_ctl, fsync=False, primary=self)
        execute(self.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        execute(self.url, "SELECT pg_reload_conf()")
        return follower

    def start(self) -> None:
        options = f"-p {self.port} -k {self.directory} {self._options}"
        self._run(self._pg_ctl, "start", "--wait", "--log", str(self.directory / "log"), "--options", options)

    def stop(self, mode: str = "immediate") -> None:
        self._run(self._pg_ctl, "stop", "--wait", "--mode", mode)

    def send(self, number: int) -> None:
        """A signal to the process that all others of the server come from."""
        os.kill(int((self.directory / "data" / "postmaster.pid").read_text().split()[0]), number)

    def promote(self) -> None:
        """Makes a standby the server that takes connections."""
        self._run(self._pg_ctl, "promote", "--wait")

    def put(self, name: str, content: str) -> None:
        """A file in its directory, as private as a key has to be."""
        path = self.directory / "data" / name
        path.touch(mode=0o600)
        if self._user:
            shutil.chown(path, self._user)
        path.write_text(content)

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
            self.stop()
        shutil.rmtree(self.directory)

    def _run(self, *command: str) -> None:
        subprocess.run(
            [*command, "-D", str(self.directory / "data")],
            **run_by(self._user),
            cwd=self.directory,
            check=True,
            capture_output=True,
        )


def unprivileged() -> str | None:
    """Who runs the server: it refuses to be run by root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def run_by(user: str | None) -> dict[str, Any]:
    """What subprocess has to know."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def new_cluster(*, fsync: bool = False) -> Cluster:
    """One for the test alone: it may be stopped, but the machine does not lose its power in the middle of a test.
    Skips the test where there is no server to start."""
    initdb, pg_ctl = _found("initdb"), _found("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip(LACKING)
    return Cluster(initdb, pg_ctl, fsync=fsync)


@cache
def _shared_cluster() -> Cluster:
    """One for all processes of a test run: the first that needs it starts it."""
    file = Path(os.environ[RUN]) / "cluster"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            file.write_bytes(pickle.dumps(new_cluster()))
        cluster: Cluster = pickle.loads(file.read_bytes())
        return cluster


@contextlib.contextmanager
def shared_by_a_run() -> Iterator[None]:
    """The outermost process of a test run, which removes what all of them have used."""
    if RUN in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="run") as directory:
        os.environ[RUN] = directory
        try:
            yield
        finally:
            del os.environ[RUN]
            if (file := Path(directory) / "cluster").exists():
                pickle.loads(file.read_bytes()).remove()


def execute(url: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows, if there are any; each statement for itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def new_database(server_url: str = "", options: str = "") -> Iterator[str]:
    """The URL of an empty database. Skips the test where there is no server."""
    server_url = server_url or TEST_DATABASE_URL or _shared_cluster().url
    name = f"test_{uuid.uuid4().hex[:12]}"
    execute(server_url, f"CREATE DATABASE {name} {options}")
    yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    if server_url == TEST_DATABASE_URL:  # a server of our own goes with all that it has
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
