"""A throw-away PgBouncer in front of a PostgreSQL server."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.postgres import run_by, unprivileged
from tests.processes import eventually, free_port

LACKING = "needs pgbouncer on the PATH or in /usr/sbin"
POOL_SIZE = 3  # fewer than the processes that share it

SETTINGS = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {pool_size}
"""


class PgBouncer:
    """In transaction mode: a session is everybody's, each transaction gets any."""

    def __init__(self, program: str, url: str) -> None:
        server, self._port = urlsplit(url), free_port()
        self.url = urlunsplit(server._replace(netloc=f"{server.username}@127.0.0.1:{self._port}"))
        self._directory = Path(tempfile.mkdtemp(prefix="pgbouncer"))
        self._program = program
        (self._directory / "users").write_text(f'"{server.username}" ""\n')
        settings = {"host": server.hostname, "port": server.port, "directory": self._directory}
        text = SETTINGS.format(**settings, listen_port=self._port, pool_size=POOL_SIZE)
        (self._directory / "pgbouncer.ini").write_text(text)
        self._directory.chmod(0o755)  # it refuses to be run by root
        self.start()

    def start(self) -> None:
        command = [self._program, "--quiet", str(self._directory / "pgbouncer.ini")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **run_by(unprivileged()))
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port), 5):
            return True
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._directory)


@contextlib.contextmanager
def pooled(url: str) -> Iterator[PgBouncer]:
    """Skips the test where there is no PgBouncer."""
    program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if program is None:
        pytest.skip(LACKING)
    pooler = PgBouncer(program, url)
    try:
        yield pooler
    finally:
        pooler.remove()
