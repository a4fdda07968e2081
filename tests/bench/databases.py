"""A database for each service: a file, or one of its own on the PostgreSQL server."""

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.postgres import execute


class Databases:
    """Those on a server are dropped when `undo` closes."""

    def __init__(self, directory: Path, server_url: str, undo: ExitStack) -> None:
        self.is_postgresql = bool(server_url)
        self._directory = directory
        self._server_url = server_url
        self._undo = undo
        self._urls: dict[str, str] = {}

    def url(self, name: str) -> str:
        """What DATABASE_URL is for whoever shares the database of that name."""
        if name not in self._urls:
            self._urls[name] = self._create(name) if self.is_postgresql else f"sqlite:///{self._directory / name}.db"
        return self._urls[name]

    def _create(self, name: str) -> str:
        database = f"bench_{os.getpid()}_{name}"
        execute(self._server_url, f"CREATE DATABASE {database}")
        self._undo.callback(execute, self._server_url, f"DROP DATABASE {database} WITH (FORCE)")
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{database}"))

    def engine(self) -> str:
        if not self.is_postgresql:
            return f"SQLite {sqlite3.sqlite_version}"
        return f"PostgreSQL {execute(self._server_url, 'SHOW server_version')[0][0]}"

    def transactions(self) -> int:
        """How many the server has counted in the databases that were made here."""
        names = [urlsplit(url).path.removeprefix("/") for url in self._urls.values()]
        counted = "SELECT coalesce(sum(xact_commit + xact_rollback), 0) FROM pg_stat_database WHERE datname = ANY(%s)"
        return int(execute(self._server_url, counted, names)[0][0])

    def sessions(self) -> list[int]:
        """The server's processes, as far as they are on this machine."""
        found = execute(self._server_url, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        pids = [pid for (pid,) in found]
        return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]

    def dead_rows(self, name: str) -> int:
        """Of tasks that ended or were changed, which no VACUUM has taken away yet."""
        if not self.is_postgresql:
            return 0
        return int(execute(self.url(name), "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'task'")[0][0])
