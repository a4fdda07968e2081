"""The project's own processes, started for real, each with an environment and a directory of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import requests

from tests.documents import document_of
from tests.forks import Fork

ROOT = Path(__file__).parent.parent
START_SECONDS = 30
OURS = ("only_post_svc", "token_svc")
TASKS = "tests.tasks"  # the module of test tasks, for TASK_MODULES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], Any], seconds: float = 10, every: float = 0.02) -> Any:
    """The first true value of `check()`, which has `seconds` to get there."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {check}")
        time.sleep(every)
    return value


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


def end_family(directory: Path) -> None:
    """Kills what a test that failed may have left there."""
    for pid in family(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Process:
    """`python -m MODULE ARGUMENTS` in `directory`; what it prints is in `log`."""

    program: ClassVar[str] = sys.executable

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str] | None = None, name: str = "process"):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.popen = self.start(directory, arguments, clean | {"PYTHONPATH": str(ROOT)} | dict(env or {}))

    def start(self, directory: Path, arguments: Sequence[str], env: dict[str, str]) -> "subprocess.Popen[bytes] | Fork":
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [self.program, *arguments],
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        return self.popen.wait(seconds)

    def terminate(self, seconds: float = 10) -> int:
        """SIGTERM, and its exit status."""
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """kill -9; harmless when it is gone."""
        self.popen.kill()
        self.popen.wait()

    def children(self) -> list[int]:
        """The process ids of its child processes."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


class Forked(Process):
    """One whose start is not what a test is about. The benchmark, which measures starts and memory, leaves it off."""

    forks: ClassVar[bool] = False

    def start(self, directory: Path, arguments: Sequence[str], env: dict[str, str]) -> "subprocess.Popen[bytes] | Fork":
        if not self.forks or arguments[1] not in OURS or env["PYTHONPATH"] != str(ROOT):
            return super().start(directory, arguments, env)
        return Fork(directory, self.log, env, *arguments[1:])


class ProcfileLine(Process):
    """A line of a Procfile as the managers and Heroku run it, where `python` is the one that runs the tests."""

    program = "sh"

    def __init__(self, directory: Path, line: str, env: Mapping[str, str], name: str = "process"):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        super().__init__(directory, "-c", line, env={"PATH": path, **env}, name=name)


class HTTPService(Forked):
    """`python -m MODULE` on a port of its own, ready to answer."""

    module: ClassVar[str]
    health_method: ClassVar[str]
    file_name: ClassVar[str]

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None, port: int = 0, wait: bool = True):
        self.env = dict(env or {})
        self.file = directory / "var" / self.file_name  # where it keeps its rows unless DATABASE_URL says otherwise
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.document = document_of(self.module, health_get=(env or {}).get("HEALTH_GET") == "true")
        self.session = requests.Session()
        self.session.hooks["response"].append(self.check)
        super().__init__(directory, *self.command(), env=env, name="web")
        if wait:
            self.wait_until_up()

    def command(self) -> list[str]:
        return ["-m", self.module, "--port", str(self.port)]

    def check(self, answer: requests.Response, **options: Any) -> None:
        """Holds an answer against the service's OpenAPI document."""
        self.document.check(answer, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """On a connection of its own."""
        hooks = {"response": self.check}
        return requests.request(method, f"{self.url}{path}", **{"timeout": 60, "hooks": hooks, **options})

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.is_running, self.log.read_text()
            try:
                return requests.request(self.health_method, f"{self.url}/health", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        try:
            eventually(is_up, START_SECONDS, every=0.05)
        except AssertionError:
            print(self.log.read_text())
            self.kill()
            raise


class TokenService(HTTPService):
    """The token service."""

    module = "token_svc"
    health_method = "GET"
    file_name = "token.db"

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None, port: int = 0, wait: bool = True):
        super().__init__(directory, {"RATE_LIMITS": "off", **dict(env or {})}, port, wait)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.request("POST", path, json=body, **options)


class Service(HTTPService):
    """The POST-only service."""

    module = "only_post_svc"
    health_method = "POST"
    file_name = "only_post.db"

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.post(f"{self.url}{path}", json={} if body is None else body, timeout=60, **options)

    def submit(self, type: str, payload: Any = None, **options: Any) -> Any:
        """A task that was accepted, as the service describes it."""
        answer = self.post("/api/task", {"type": type, "payload": payload or {}, **options})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def result(self, task_id: str, wait: float = 0) -> Any:
        answer = self.post("/api/result", {"task_id": task_id, "wait": wait})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def ended(self, task_id: str, seconds: float = 60) -> Any:
        """The task once it has ended."""

        def final() -> Any:
            task = self.result(task_id, wait=min(seconds, 20))
            return task if task["status"] in ("succeeded", "failed", "cancelled") else None

        return eventually(final, seconds)

    def run(self, type: str, payload: Any = None, **options: Any) -> Any:
        return self.ended(self.submit(type, payload, **options)["task_id"])


class Worker(Forked):
    """A process of its own that runs tasks."""

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None, name: str = "worker"):
        super().__init__(directory, "-m", "only_post_svc", "worker", env=env, name=name)
        try:
            eventually(lambda: b"worker.started" in self.log.read_bytes() or not self.is_running, START_SECONDS)
            assert self.is_running, self.log.read_text()
        except AssertionError:
            self.kill()
            raise
