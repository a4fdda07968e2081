"""The ways to start the service, and the ways in which that fails."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.commands import EXIT_FAILURE, command, refused, said
from tests.databases import ON_A_FILE
from tests.processes import ROOT, START_SECONDS, Process, Service, eventually, family, free_port

SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """`start("-m", "only_post_svc", PORT="1")`"""
    started: list[Process] = []

    def start(*arguments: str, **env: str) -> Process:
        started.append(Process(tmp_path, *arguments, env={"WORKER_PROCESSES": "1", **env}))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def answers(process: Process, port: int, host: str = "127.0.0.1") -> None:
    """It is up, and runs tasks."""

    def is_up() -> bool:
        assert process.is_running, process.log.read_text()
        try:
            return requests.post(f"http://{host}:{port}/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    eventually(is_up, START_SECONDS, every=0.05)
    body = {"type": "echo", "payload": {"n": 1}, "wait": 20}
    task = requests.post(f"http://{host}:{port}/api/task", json=body, timeout=30).json()
    assert task["result"] == {"n": 1}


def test_start_server_serves(start: Callable[..., Process]) -> None:
    port = free_port()
    call = f'from only_post_svc.main import start_server; start_server(host="localhost", port={port})'
    answers(start("-c", call), port, "localhost")


KEY = {  # RFC 7517, appendix A.1
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "kid": "1",
}
LIFESPAN = """
import asyncio, os
from only_post_svc.main import lifespan
from only_post_svc.settings import Settings

async def main():
    async with lifespan(Settings.from_env(os.environ)):
        if "FAIL" in os.environ:
            raise SystemExit

asyncio.run(main())
"""


def test_a_service_that_fails_releases_its_tasks_before_it_closes_the_database(start: Callable[..., Process]) -> None:
    process = start("-c", LIFESPAN, FAIL="yes")
    process.wait(START_SECONDS)
    assert "event=worker.stopped" in process.log.read_text()


def test_a_service_that_can_not_have_all_its_parts_starts_no_worker(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    """With public keys alone, the secret of its cursors is in the database."""
    env = {"DATABASE_URL": f"sqlite:///{tmp_path / 'x.db'}", "JWKS": json.dumps({"keys": [KEY]})}
    assert start("-c", LIFESPAN, **env).wait(START_SECONDS) == 0
    (log,) = tmp_path.glob("*.log")
    log.write_text("")
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as file, file:
        file.execute("DROP TABLE secret")
    assert start("-c", LIFESPAN, **env).wait(START_SECONDS) != 0
    assert "database_unavailable" in log.read_text() and "worker.started" not in log.read_text()


def test_start_server_takes_the_settings_of_the_environment(start: Callable[..., Process]) -> None:
    port = free_port()
    process = start("-c", "from only_post_svc.main import start_server; start_server()", PORT=str(port))
    answers(process, port)


def test_uvicorn_serves_the_app(start: Callable[..., Process]) -> None:
    port = free_port()
    process = start("-m", "uvicorn", "only_post_svc.main:app", "--port", str(port))
    answers(process, port)
    process.terminate()
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("arguments", [[], ["serve"]])
def test_the_module_serves_on_port_and_host_of_the_environment(
    start: Callable[..., Process], arguments: list[str]
) -> None:
    port = free_port()
    answers(start("-m", "only_post_svc", *arguments, PORT=str(port), HOST="localhost"), port)


@pytest.mark.parametrize("arguments", [["--port"], ["serve", "--port"]])
def test_options_go_before_the_environment(start: Callable[..., Process], arguments: list[str]) -> None:
    port = free_port()
    answers(start("-m", "only_post_svc", *arguments, str(port), PORT="1"), port)


def said_at_start(process: Process) -> str:
    found = re.search("event=service.started .*", process.log.read_text())
    return found[0] if found else ""


@pytest.mark.parametrize("service", ["only_post_svc", "token_svc"])
def test_a_start_says_where_its_database_and_its_secret_are(
    start: Callable[..., Process], tmp_path: Path, service: str
) -> None:
    port = free_port()
    for how in ("made", "found"):
        process = start("-m", service, STATE_DIR="state", PORT=str(port))
        line = eventually(partial(said_at_start, process), START_SECONDS)
        assert f"database={tmp_path}/state/" in line
        assert f'secret="{how} in {tmp_path}/state/secret_key"' in line
        process.terminate()
        process.log.unlink()
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()} == {0o600}


def test_it_is_not_open_to_the_network_unless_it_is_told(start: Callable[..., Process]) -> None:
    closed, opened = free_port(), free_port()
    answers(start("-m", "only_post_svc", PORT=str(closed)), closed)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", closed), 5)
    told = {"HOST": "0.0.0.0", "TASK_AUTH": "off"}
    answers(start("-m", "only_post_svc", PORT=str(opened), **told), opened, "127.0.0.2")


def test_production_with_a_secret_listens_to_the_network_and_asks_for_a_token(start: Callable[..., Process]) -> None:
    port = free_port()
    process = start("-m", "only_post_svc", PORT=str(port), APP_ENV="production", SECRET_KEY=SECRET)
    url = f"http://127.0.0.2:{port}"
    eventually(lambda: b"startup complete" in process.log.read_bytes() or not process.is_running, START_SECONDS)
    assert requests.post(f"{url}/health", timeout=9).status_code == 200
    assert requests.post(f"{url}/api/types", json={}, timeout=9).status_code == 401
    assert SECRET not in process.log.read_text()


def test_an_import_opens_nothing_and_reads_no_settings(tmp_path: Path) -> None:
    code = "import only_post_svc.main, os, threading; print(os.listdir('.'), threading.active_count())"
    env = {"PYTHONPATH": str(ROOT), "PORT": "no port", "APP_ENV": "nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[] 1\n", "")


def test_help_names_the_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "only_post_svc", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "serve" in done.stdout and "worker" in done.stdout


def complaint(process: Process) -> str:
    """The one line that a start which failed has said."""
    assert process.wait(START_SECONDS) == EXIT_FAILURE, process.log.read_text()
    log = process.log.read_text()
    assert log.endswith("\n") and log.count("\n") == 1, log
    return log


@ON_A_FILE
def test_a_port_that_is_taken_is_named_and_its_owner_is_not_disturbed(
    service: Service, start: Callable[..., Process]
) -> None:
    told = complaint(start("-m", "only_post_svc", "--port", str(service.port)))
    assert told.startswith("PORT: ") and str(service.port) in told and "in use" in told
    assert service.run("echo", {"n": 1})["status"] == "succeeded"


BAD = [
    ("PORT", "hunter2"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("HOST", "hunter2.invalid"),
    ("DATABASE_URL", "mysql://hunter2:hunter2@localhost/x"),
    ("DATABASE_URL", "postgresql://ada:some/hunter2@localhost/x"),
    ("DATABASE_URL", "sqlite:///"),
    ("APP_ENV", "hunter2"),
    ("SECRET_KEY", "hunter2"),
    ("SECRET_KEY", f"{SECRET},hunter2"),
    ("SECRET_KEY_FILE", "/nowhere/hunter2"),
    ("SIGNING_KEY_FILE", "/nowhere/hunter2"),
    ("JWKS_FILE", "/nowhere/hunter2"),
    ("TASK_AUTH", "hunter2"),
    ("WORKER_PROCESSES", "hunter2"),
    ("WORKER_PROCESSES", "-1"),
    ("TASK_CONCURRENCY", "0"),
    ("LEASE_SECONDS", "0"),
    ("RESULT_TTL", "1.5"),
    ("MAX_QUEUED", "hunter2"),
    ("HEALTH_GET", "hunter2"),
    ("RATE_LIMITS", "other=hunter2"),
    ("MAX_BODY_BYTES", "1M"),
    ("LOG_LEVEL", "hunter2"),
    ("LOG_FORMAT", "hunter2"),
    ("FORWARDED_ALLOW_IPS", "hunter2"),
]


@pytest.mark.parametrize(("variable", "value"), BAD)
def test_a_bad_setting_is_named_and_never_shown(tmp_path: Path, variable: str, value: str) -> None:
    told_of(variable, value, refused(tmp_path, "only_post_svc", **{variable: value}))


def told_of(variable: str, value: str, said: str) -> None:
    assert said.startswith(f"{variable}: ")
    assert "hunter2" not in said and f" {value} " not in f" {said} "


BAD_LATER = [
    ("DATABASE_URL", "postgresql://ada:hunter2%zz@localhost/x"),
    ("DATABASE_URL", "sqlite:////dev/null/hunter2/x.db"),
]


@pytest.mark.parametrize(("variable", "value"), [BAD[0], *BAD_LATER])
def test_a_process_ends_with_that_line(start: Callable[..., Process], variable: str, value: str) -> None:
    told_of(variable, value, complaint(start("-m", "only_post_svc", **{"PORT": str(free_port()), variable: value})))


NOT_TOGETHER = [
    ({"APP_ENV": "production"}, "SECRET_KEY"),
    ({"DYNO": "web.1", "SECRET_KEY": SECRET}, "DATABASE_URL"),
    ({"APP_ENV": "production", "SECRET_KEY": SECRET, "FORWARDED_ALLOW_IPS": "*"}, "FORWARDED_ALLOW_IPS"),
]


@pytest.mark.parametrize(("env", "variable"), NOT_TOGETHER)
def test_settings_that_can_not_go_together_are_named(tmp_path: Path, env: dict[str, str], variable: str) -> None:
    assert refused(tmp_path, "only_post_svc", **env).startswith(f"{variable}: ")


@pytest.mark.parametrize(("env", "variable"), NOT_TOGETHER)
@pytest.mark.parametrize("arguments", [["only_post_svc", "worker"], ["uvicorn", "only_post_svc.main:app"]])
def test_they_are_by_the_other_ways_to_start_it_too(
    start: Callable[..., Process], arguments: list[str], env: dict[str, str], variable: str
) -> None:
    assert complaint(start("-m", *arguments, **env)).startswith(f"{variable}: ")


@pytest.mark.parametrize("service", ["only_post_svc", "token_svc"])
def test_uvicorn_s_own_command_is_not_left_to_believe_every_peer(start: Callable[..., Process], service: str) -> None:
    """By its own start the service sorts that out; uvicorn has read the variable before anyone is asked."""
    dyno = {"DYNO": "web.1", "SECRET_KEY": SECRET, "DATABASE_URL": "sqlite:///x.db", "FORWARDED_ALLOW_IPS": "*"}
    told = complaint(start("-m", "uvicorn", f"{service}.main:app", "--port", str(free_port()), **dyno))
    assert told.startswith("FORWARDED_ALLOW_IPS: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [["only_post_svc"], ["only_post_svc", "worker"], ["token_svc"]])
def test_a_signal_ends_it_without_a_traceback(
    start: Callable[..., Process], arguments: list[str], number: signal.Signals
) -> None:
    process = start("-m", *arguments, PORT=str(free_port()))
    eventually(lambda: re.search("server.listening|worker.started", process.log.read_text()), START_SECONDS)
    process.send(number)
    assert process.wait() in (0, -signal.SIGTERM)
    assert "Traceback" not in process.log.read_text()


def test_web_concurrency_is_not_its_business(start: Callable[..., Process]) -> None:
    port = free_port()
    answers(start("-m", "only_post_svc", PORT=str(port), WEB_CONCURRENCY="hunter2"), port)


def test_a_jwks_file_that_is_none_is_named(start: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text('{"hunter2": 1}')
    told = complaint(start("-m", "only_post_svc", PORT=str(free_port()), JWKS_FILE="keys"))
    assert told.startswith("JWKS_FILE: ") and "hunter2" not in told


@pytest.mark.parametrize(
    "source",
    [
        None,
        "raise ValueError('one line\\nand another')",
        "def broken(:",
        "raise SystemExit",
        "import os; os._exit(0)",
        "from only_post_svc import task\ntask('echo')(lambda: None)",
        "from only_post_svc import task\n@task('t')\ndef t(value: set[int]) -> None: ...",
        "from only_post_svc import task\n@task('big')\ndef big() -> None: ...\nMODEL = bytearray(1200 << 20)",
    ],
    ids=["missing", "raises", "syntax", "exits", "vanishes", "taken name", "no shape", "too large"],
)
def test_task_modules_that_can_not_be_loaded_are_named(tmp_path: Path, source: str | None) -> None:
    if source is not None:
        (tmp_path / "jobs.py").write_text(source)
    listed = command(tmp_path, "only_post_svc", "types", TASK_MODULES="jobs")
    assert said(listed, EXIT_FAILURE).startswith("TASK_MODULES: ")


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_a_start_ends_with_that_line(start: Callable[..., Process], tmp_path: Path, name: str) -> None:
    (tmp_path / "jobs.py").write_text("raise ValueError('one line\\nand another')")
    told = complaint(start("-m", "only_post_svc", name, PORT=str(free_port()), TASK_MODULES="jobs"))
    assert told.startswith("TASK_MODULES: ")


def test_a_start_that_fails_leaves_no_process(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start("-m", "only_post_svc", PORT=str(free_port()), DATABASE_URL="sqlite:////dev/null/x.db")
    complaint(process)
    eventually(lambda: family(tmp_path) == [], 3)
