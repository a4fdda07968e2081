"""The Procfile, as the process managers read it and as honcho runs it."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.processes import ROOT, START_SECONDS, Process, eventually, free_port

LINES = (ROOT / "Procfile").read_text().splitlines()

# As their sources have them; see also https://devcenter.heroku.com/articles/procfile
READERS = {
    "honcho and foreman": r"^([A-Za-z0-9_-]+):\s*(.+)$",
    "node-foreman": r"^([A-Za-z0-9_-]+):\s*(.+)$",
    "overmind": r"^([\w-]+):\s+(.+)$",
    "heroku": r"^([A-Za-z0-9]+):\s*(.+)$",
}


@pytest.mark.parametrize("reader", READERS)
def test_every_line_is_a_process_to_every_manager(reader: str) -> None:
    assert LINES
    assert [line for line in LINES if not re.fullmatch(READERS[reader], line)] == []


def test_every_process_has_a_name_of_its_own() -> None:
    names = [line.partition(":")[0] for line in LINES]
    assert len(set(names)) == len(names)
    assert {"web", "worker"} <= set(names)


def test_there_is_no_release_line() -> None:
    """honcho, foreman and nf would run it, see it end, and stop everything else."""
    assert not [line for line in LINES if line.startswith("release")]


def test_variables_are_in_braces() -> None:
    """foreman replaces `$NAME` before the shell sees it, also inside `$NAME_OF_ANOTHER`."""
    assert [line for line in LINES if re.search(r"\$(?!\{)", line)] == []


def test_the_shell_makes_way_for_the_process() -> None:
    """A shell that stays would get the signals."""
    assert [line for line in LINES if "exec python -m " not in line] == []


def test_there_are_no_comments_behind_a_command() -> None:
    assert [line for line in LINES if "#" in line] == []


def family(directory: Path) -> list[int]:
    """The living processes that were started in a directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(directory):
                found.append(int(pid))
        except OSError:  # it has just gone
            continue
    return found


def is_up(url: str) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return requests.post(f"{url}/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    return check


def test_honcho_starts_web_and_worker_and_sigterm_ends_them_all(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "Procfile").write_text((ROOT / "Procfile").read_text())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "PORT": str(port), "WORKER_PROCESSES": "0"}  # tasks run in the worker alone
    honcho = Process(tmp_path, "-m", "honcho", "start", "web", "worker", env=env, name="honcho")
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(is_up(url), START_SECONDS, every=0.05)
        task = {"type": "text.stats", "payload": {"text": "through honcho"}, "wait": 25}
        answer = requests.post(f"{url}/api/task", json=task, timeout=30)
        assert (answer.status_code, answer.json()["result"]["words"]) == (200, 2)
        assert len(family(tmp_path)) >= 4  # honcho, web, worker, and a child that ran it
        honcho.send(signal.SIGTERM)
        honcho.wait(10)
        eventually(lambda: family(tmp_path) == [], 3)
    finally:
        if honcho.is_running:
            honcho.send(signal.SIGTERM)
            honcho.wait(10)
    log = honcho.log.read_text()
    assert re.search(r"web\.1 .*Application startup complete", log)
    assert re.search(r"worker\.1 .*worker\.started", log)
    assert "Traceback" not in log
