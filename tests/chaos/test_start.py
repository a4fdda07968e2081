"""Processes that start before their PostgreSQL, or with a DATABASE_URL that leads nowhere."""

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from shared.database import connection
from shared.settings import SettingsError
from tests.postgres import Cluster, execute, new_cluster
from tests.processes import START_SECONDS, Forked, Process, eventually, free_port
from tests.proxy import proxied

EXIT_FAILURE = 3
EXIT_SECONDS = 5  # foreman and overmind kill then
PASSWORD = "open/se:s@me? %41"
PASSWORD_FORMS = (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""))
SET_PASSWORD = "ALTER ROLE ada PASSWORD '{}'".format(PASSWORD.replace("%", "%%"))
NAMES = ("ada", "eve", "hers", "nowhere", "127.0.0.1")
COMMANDS = {
    "web": ["only_post_svc", "--port", "0"],
    "worker": ["only_post_svc", "worker"],
    "tokens": ["token_svc", "--port", "0"],
    "uvicorn": ["uvicorn", "only_post_svc.main:app", "--port", "0"],
}
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("web", url)`: one of COMMANDS in a directory of its own."""
    started: list[Process] = []

    def start(command: str, url: str) -> Process:
        env = {"DATABASE_URL": url, "WORKER_PROCESSES": "1", "LOG_LEVEL": "debug"}
        started.append(Forked(tmp_path / command, "-m", *COMMANDS[command], env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        assert not [form for form in PASSWORD_FORMS if form in process.log.read_text()]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = new_cluster()
    yield cluster
    with contextlib.suppress(FileNotFoundError):  # it was left stopped
        cluster.send(signal.SIGCONT)
    cluster.remove()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """One that asks `ada` for her password."""
    cluster = new_cluster()
    execute(cluster.url, "CREATE ROLE ada LOGIN")
    execute(cluster.url, SET_PASSWORD)
    execute(cluster.url, "CREATE DATABASE hers OWNER ada")
    cluster.put("pg_hba.conf", "host all postgres all trust\nhost all ada all scram-sha-256\n")
    execute(cluster.url, "SELECT pg_reload_conf()")
    yield cluster
    cluster.remove()


def url_of(cluster: Cluster, user: str = "ada", password: str = PASSWORD, database: str = "hers") -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{cluster.port}/{database}"


def says(process: Process, text: str) -> None:
    def is_said() -> bool:
        assert process.is_running, process.log.read_text()
        return text in process.log.read_text()

    eventually(is_said, START_SECONDS)


UP = {"worker": "worker.started", "uvicorn": "startup complete"}


def is_up(command: str, process: Process) -> None:
    says(process, UP.get(command, "server.listening"))


def look(process: Process) -> None:
    """Makes it use its database."""
    match = re.search(r"server\.listening url=(\S+)", process.log.read_text())
    assert match is not None
    requests.get(f"{match[1]}/health", timeout=10)


def stop(cluster: Cluster) -> Callable[[], None]:
    cluster.stop()
    return cluster.start


def stand_by(cluster: Cluster) -> Callable[[], None]:
    """It answers that it takes no connections, as it does for as long as it starts."""
    cluster.stop("fast")
    cluster.put("standby.signal", "")
    cluster.put("postgresql.auto.conf", "hot_standby = off\n")
    cluster.start()
    return cluster.promote


def fall_silent(cluster: Cluster) -> Callable[[], None]:
    """Connections get into the queue of a process that is stopped."""
    cluster.send(signal.SIGSTOP)
    return lambda: cluster.send(signal.SIGCONT)


@pytest.mark.parametrize(
    ("leave", "reason"), [(stop, "Connection refused"), (stand_by, "the database system is"), (fall_silent, "timeout")]
)
def test_a_start_waits_for_its_server_and_says_so(
    cluster: Cluster, start: Start, leave: Callable[[Cluster], Callable[[], None]], reason: str
) -> None:
    come_back = leave(cluster)
    processes = {command: start(command, cluster.url) for command in COMMANDS}
    for process in processes.values():
        says(process, "database.awaited")
        assert reason in process.log.read_text()
    come_back()
    for command, process in processes.items():
        is_up(command, process)
        assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_waits(start: Start, number: signal.Signals) -> None:
    nowhere = f"postgresql://ada:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/hers"
    processes = [start(command, nowhere) for command in COMMANDS]
    for process in processes:
        says(process, "database.awaited")
        process.send(number)
    for process in processes:
        assert process.wait(EXIT_SECONDS) in (0, -number)
        assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"password": "x" + PASSWORD}, "password authentication failed"),
        ({"database": "nowhere"}, "does not exist"),
        ({"user": "eve"}, "pg_hba.conf"),
        ({"database": "hers?sslmode=require"}, "does not support SSL"),
        ({"database": "hers?sslmode=nowhere"}, "invalid sslmode value"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_waiting_does_not_mend_is_told_at_once_without_names(
    guarded: Cluster, caplog: pytest.LogCaptureFixture, wrong: dict[str, str], reason: str
) -> None:
    with caplog.at_level("DEBUG", "shared"), pytest.raises(SettingsError, match=f"^DATABASE_URL: .*{reason}") as caught:
        asyncio.run(connection.connect(url_of(guarded, **wrong), {}, waits=True))
    assert caplog.messages == []
    assert "\n" not in (said := str(caught.value))
    assert not [value for value in (*PASSWORD_FORMS, *NAMES) if value in said]


def test_a_start_ends_with_that_line(guarded: Cluster, start: Start) -> None:
    for process in [start(command, url_of(guarded, password="x" + PASSWORD)) for command in COMMANDS]:
        assert process.wait(START_SECONDS) == EXIT_FAILURE, process.log.read_text()
        said = process.log.read_text()
        lines = [line for line in said.splitlines() if not line.startswith("INFO:")]  # uvicorn's own
        assert len(lines) == 1 and lines[0].startswith("DATABASE_URL: "), said
        assert "password authentication failed" in lines[0]
        assert not [value for value in NAMES if value in lines[0]]


def test_a_role_that_may_make_no_tables_is_told_why(guarded: Cluster, start: Start) -> None:
    execute(guarded.url, "REVOKE CREATE ON SCHEMA public FROM public")
    process = start("web", url_of(guarded, database="postgres"))
    assert process.wait(START_SECONDS) == EXIT_FAILURE
    *_, reason, said = process.log.read_text().splitlines()
    assert "permission denied" in reason and said.startswith("DATABASE_URL: ")


def test_the_password_is_in_no_log_whatever_fails(guarded: Cluster, start: Start) -> None:
    """The fixture looks for it at the end, in all its spellings."""
    with proxied(url_of(guarded)) as proxy:
        url = url_of(guarded).replace(f":{guarded.port}/", f":{proxy.port}/")
        processes = {command: start(command, url) for command in ("web", "worker", "tokens")}
        for command, process in processes.items():
            is_up(command, process)
        proxy.cut()
        execute(url_of(guarded), "ALTER TABLE worker RENAME TO hidden")
        says(processes["worker"], 'relation \\"worker\\" does not exist')
        execute(guarded.url, "ALTER ROLE ada PASSWORD 'another'")
        proxy.cut()
        look(processes["tokens"])
        for process in processes.values():
            says(process, "password authentication failed")
        execute(guarded.url, SET_PASSWORD)
