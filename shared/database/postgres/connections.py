"""Connections to the PostgreSQL of a DATABASE_URL."""

import logging
import os
import time
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from shared.database import Row, report_unavailable
from shared.settings import is_this_machine

T = TypeVar("T")

PATIENCE_SECONDS = 5.0  # with a server that says nothing at all
VACUUM_SECONDS = 600.0  # during a VACUUM the server says nothing
MIN_PAUSE_SECONDS = 0.1  # after a connection that could not be made, doubled each time
MAX_PAUSE_SECONDS = 1.0

# A host that was cut off sends nothing: this side has to notice by itself.
DEFAULTS = {
    "connect_timeout": "2",
    "tcp_user_timeout": "5000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "target_session_attrs": "read-write",  # of several hosts the primary, also after a failover
    "application_name": "only_post",
    "client_encoding": "UTF8",
}

# SKIP_LOCKED: another process, or the server, vacuums it already.
VACUUM = "VACUUM (SKIP_LOCKED, INDEX_CLEANUP ON, TRUNCATE OFF) {}"

# SQL_ASCII stores bytes as they come, and what comes is UTF-8. Others refuse most of what people write.
ENCODINGS = ("UTF8", "SQL_ASCII")

log = logging.getLogger(__name__)


class PatientConnection(psycopg.Connection[Row]):
    """Given up after a silence: TCP sees no fault as long as a hop in between, or a server that is stopped, takes what
    is sent."""

    patience_seconds = PATIENCE_SECONDS
    is_direct = True  # no pooler stands in between
    losses: "Losses"
    made_after = 0  # how many connections had been lost when it was made

    @property
    def is_outlived(self) -> bool:
        """Whether one was lost since it was made: then it is most likely lost as well."""
        return self.made_after != self.losses.count

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        return super().wait(self._impatiently(gen), *args, **options)

    def _impatiently(self, gen: PQGen[T]) -> PQGen[T]:
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > self.patience_seconds:
                    self.close()
                    raise psycopg.InterfaceError("the server has fallen silent")
                wanted = gen.send(ready)
        except StopIteration as end:
            return cast(T, end.value)


class Losses:
    count = 0  # of connections that were made


class Connector:
    """Makes connections, and refuses at once while the server has just been found unreachable."""

    def __init__(self, url: str) -> None:
        """Raises psycopg.Error when the URL is none."""
        self._conninfo = _completed(url)
        self._pause_seconds = 0.0
        self._refused_until = 0.0
        self._losses = Losses()

    def connect(self, set_up: str = "") -> PatientConnection:
        """`set_up` is a statement for a session that no pooler gives to others. Raises Unavailable."""
        if time.monotonic() < self._refused_until:
            raise report_unavailable("the server could not be reached a moment ago")
        lost = self._losses.count
        try:
            connection = self._open()
            connection.losses, connection.made_after = self._losses, lost
            if set_up and connection.is_direct:
                connection.execute(set_up.encode())
        except psycopg.Error as error:
            self._pause_seconds = min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, 2 * self._pause_seconds))
            self._refused_until = time.monotonic() + self._pause_seconds
            raise report_unavailable(error) from None
        self._pause_seconds = 0.0
        return connection

    def vacuum(self, table: str) -> None:
        """Waits until it is done. Raises Unavailable when there is no connection."""
        with self.connect("SET statement_timeout = 0") as connection:
            connection.patience_seconds = VACUUM_SECONDS
            try:
                connection.execute(SQL(VACUUM).format(Identifier(table)))
            except psycopg.Error as error:
                log.warning("database.not_vacuumed", extra={"table": table, "reason": str(error)})

    def refusal(self) -> str:
        """Why the server can't be connected to, empty when it can."""
        try:
            with self._open() as connection:
                encoding = connection.info.parameter_status("server_encoding")
        except psycopg.Error as error:
            return str(error)
        return "" if encoding in ENCODINGS else f"its encoding is {encoding}; make it anew with ENCODING UTF8"

    def _open(self) -> PatientConnection:
        # Never prepared: psycopg remembers as prepared what came behind a failure in a pipeline, and poolers know none.
        connection = PatientConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        connection.is_direct = _is_direct(connection)
        return connection


def _completed(url: str) -> str:
    """The URL as it is, and what it leaves open."""
    given: dict[str, Any] = conninfo_to_dict(url)
    missing = {name: value for name, value in DEFAULTS.items() if name not in given}
    if "sslmode" not in given and "PGSSLMODE" not in os.environ and not _is_local(given):
        missing["sslmode"] = "require"
    return make_conninfo(url, **missing)


def _is_local(given: dict[str, Any]) -> bool:
    hosts = str(given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST", "")).split(",")
    # A socket has a path, or an abstract name.
    return all(host == "" or host.startswith(("/", "@")) or is_this_machine(host) for host in hosts)


def _is_direct(connection: PatientConnection) -> bool:
    """Whether no pooler stands in between: one has process ids of its own."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] == connection.info.backend_pid
