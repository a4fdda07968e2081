"""The process managers themselves, each with the Procfile as it is: started, used, stopped, and started again."""

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.processes import ROOT, START_SECONDS, ProcfileLine, end_family, eventually, family, free_port

PROCESSES = ("web", "token", "worker")
STOP_SECONDS = 5  # foreman kills then, and says so
PASSWORD = "correct horse battery staple"

# How each is told which to start, and what stops it. nf knows SIGINT only: SIGTERM ends it and leaves its children.
MANAGERS = {
    "honcho": ("exec python -m honcho start web token worker", signal.SIGINT),
    "foreman": ("exec foreman start", signal.SIGTERM),
    "nf": ("exec nf start web=1,token=1,worker=1", signal.SIGINT),
}


class Managed:
    """Both services and a worker under one manager."""

    def __init__(self, directory: Path, command: str, web_port: int, token_port: int) -> None:
        env = {
            "PORT": str(web_port),
            "TOKEN_PORT": str(token_port),
            "TASK_AUTH": "required",
            "WORKER_PROCESSES": "1",
        }
        self.tasks, self.tokens = f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{token_port}"
        self.manager = ProcfileLine(directory, command, env, name="manager")
        eventually(lambda: self._is_up("POST", self.tasks) and self._is_up("GET", self.tokens), START_SECONDS)

    def _is_up(self, method: str, url: str) -> bool:
        assert self.manager.is_running, self.manager.log.read_text()
        try:
            report = requests.request(method, f"{url}/health", timeout=5).json()
        except requests.ConnectionError:
            return False
        return bool(report["status"] == "ok" and ("workers" not in report or len(report["workers"]) == 2))

    def register(self) -> str:
        """The access token of a new user."""
        user = {"username": "ann", "password": PASSWORD, "email": "ann@example.org"}
        return str(self.sent("POST", f"{self.tokens}/register", user)["access_token"])

    def sent(self, method: str, url: str, body: Any = None, token: str = "") -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = requests.request(method, url, json=body, headers=headers, timeout=40)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()


@contextmanager
def managed(directory: Path, command: str, stop: signal.Signals, ports: tuple[int, int]) -> Iterator[Managed]:
    """Stopped at the end, and everything with it."""
    try:
        one = Managed(directory, command, *ports)
        yield one
        one.manager.send(stop)
        one.manager.wait(2 * STOP_SECONDS)
        eventually(lambda: family(directory) == [], 1)
    finally:
        end_family(directory)


def need(manager: str) -> None:
    if manager != "honcho" and not shutil.which(manager):
        source = {"foreman": "apt install ruby-foreman", "nf": "npm install --global foreman"}[manager]
        pytest.skip(f"{manager} is not installed ({source})")


@pytest.mark.parametrize("manager", MANAGERS)
def test_nothing_is_left_running_and_nothing_is_lost(manager: str, tmp_path: Path) -> None:
    need(manager)
    (tmp_path / "Procfile").write_text((ROOT / "Procfile").read_text())
    command, stop = MANAGERS[manager]
    ports = free_port(), free_port()
    with managed(tmp_path, command, stop, ports) as first:
        token = first.register()
        item = first.sent("POST", f"{first.tokens}/data", {"data": {"kept": True}}, token)
        tasks = [{"type": "sleep", "payload": {"seconds": seconds}, "max_attempts": 1} for seconds in (0.1, 3) * 8]
        accepted = first.sent("POST", f"{first.tasks}/api/batch", {"tasks": tasks}, token)["items"]
        running = {"status": "running"}
        eventually(lambda: first.sent("POST", f"{first.tasks}/api/tasks", running, token)["items"])

    with managed(tmp_path, command, stop, ports) as second:
        assert second.sent("GET", f"{second.tokens}/data/{item['id']}", token=token) == item
        for task in accepted:
            wanted = {"task_id": task["task_id"], "wait": 25}
            ended = second.sent("POST", f"{second.tasks}/api/result", wanted, token)
            assert (ended["status"], ended["attempt"]) == ("succeeded", 1)

    log = first.manager.log.read_text()
    for process in PROCESSES:
        assert re.search(rf"\b{process}\.1\b", log)
    assert "Traceback" not in log
    assert "SIGKILL" not in log
