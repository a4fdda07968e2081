"""Deploys: web processes that are told to stop, one after the other, while clients go on."""

import contextlib
import http.client
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.chaos.traces import lines
from tests.databases import ON_A_FILE
from tests.processes import TASKS, Service, Worker, eventually, free_port

EXIT_SECONDS = 5  # foreman and overmind kill then
RESTARTS = 2
PAUSE_SECONDS = 1.0
THINK_SECONDS = 0.02
CLIENTS = 3
POLLERS = 4
PATIENCE_SECONDS = 60


SETTINGS = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1"}


class Pair:
    """Two web processes on one file, each with a port that it keeps."""

    def __init__(self, directory: Path, database: dict[str, str]) -> None:
        self._directory = directory
        self._settings = {**SETTINGS, **database}
        self.webs = [self._start(free_port()) for _ in range(2)]
        self.exits: list[tuple[float, int]] = []  # seconds and status
        for web in self.webs:
            web.wait_until_up()

    def _start(self, port: int) -> Service:
        return Service(self._directory, self._settings, port, wait=False)

    def restart(self, number: int) -> None:
        web = self.webs[number]
        started = time.monotonic()
        status = web.terminate(3 * EXIT_SECONDS)
        self.exits.append((time.monotonic() - started, status))
        self.webs[number] = self._start(web.port)
        self.webs[number].wait_until_up()

    @property
    def ports(self) -> list[int]:
        return [web.port for web in self.webs]


class Client(threading.Thread):
    """Goes on until it is told to stop. A connection that is refused or closed it tries on the other port."""

    def __init__(self, ports: list[int], trace: Path, done: threading.Event, number: int, wait: float) -> None:
        super().__init__(daemon=True)
        self._ports = itertools.cycle(ports)
        self._trace = trace
        self._done = done
        self._keys = (f"client-{number}-{n}" for n in itertools.count())
        self._wait = wait
        self._session = requests.Session()
        self.task_ids: list[str] = []
        self.faults: list[str] = []
        self.retries = 0

    def run(self) -> None:
        while not self._done.wait(THINK_SECONDS):
            try:
                self._submit()
            except Exception as error:
                self.faults.append(repr(error))
                return

    def _submit(self) -> None:
        key = next(self._keys)
        seconds = 8 if not self.task_ids and self._wait else 0.05  # one that is released again and again
        entry = {"type": "trace.async", "payload": {"path": str(self._trace), "key": key, "seconds": seconds}}
        task = self._post("/api/task", entry | {"max_attempts": 1, "timeout": 30, "wait": self._wait}, key)
        self.task_ids.append(task["task_id"])
        while self._wait and task["finished_at"] is None and not self._done.is_set():
            task = self._post("/api/result", {"task_id": task["task_id"], "wait": self._wait})

    def _post(self, path: str, body: Any, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            port = next(self._ports)
            try:
                answer = self._session.post(f"http://127.0.0.1:{port}{path}", json=body, headers=headers, timeout=40)
            except requests.ConnectionError:
                self.retries += 1
                assert time.monotonic() < deadline, "no process answers"
                time.sleep(0.05)  # both may be starting
                continue
            if answer.status_code not in (200, 202):
                self.faults.append(f"{path}: {answer.status_code} {answer.text}")
            return answer.json()


@pytest.fixture
def pair(tmp_path: Path, database: dict[str, str]) -> Iterator[Pair]:
    pair = Pair(tmp_path, database)
    yield pair
    for web in pair.webs:
        web.kill()


@pytest.fixture
def web(tmp_path: Path, database: dict[str, str]) -> Iterator[Service]:
    web = Service(tmp_path, {**SETTINGS, **database})
    yield web
    web.kill()


def test_rolling_restarts_fail_no_request_and_cost_no_attempt(pair: Pair, tmp_path: Path) -> None:
    trace, done = tmp_path / "trace", threading.Event()
    clients = [Client(pair.ports, trace, done, n, wait=20 if n < POLLERS else 0) for n in range(POLLERS + CLIENTS)]
    for client in clients:
        client.start()
    for number in range(RESTARTS):
        done.wait(PAUSE_SECONDS)
        pair.restart(number % 2)
    done.set()
    for client in clients:
        client.join(PATIENCE_SECONDS)
        assert not client.is_alive()

    print(
        f"{sum(len(client.task_ids) for client in clients)} tasks, {sum(client.retries for client in clients)} retries"
    )
    print(pair.exits)
    assert [fault for client in clients for fault in client.faults] == []
    assert all(seconds < EXIT_SECONDS for seconds, _ in pair.exits)
    assert all(status in (0, -signal.SIGTERM) for _, status in pair.exits)
    task_ids = [task_id for client in clients for task_id in client.task_ids]
    assert len(set(task_ids)) == len(task_ids) > 2 * RESTARTS
    tasks = [pair.webs[0].ended(task_id) for task_id in task_ids]
    assert {(task["status"], task["attempt"]) for task in tasks} == {("succeeded", 1)}
    assert {line.attempt for line in lines(trace)} == {1}


class Poll(threading.Thread):
    """One long poll, sent by the time that this is made, and when its answer came."""

    def __init__(self, web: Service, path: str, body: Any) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=40)
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body | {"wait": 20}), headers)
        self.status, self.answer = 0, ""
        self.answered_at = 0.0
        self.start()

    def run(self) -> None:
        with contextlib.closing(self._connection), contextlib.suppress(ConnectionError, http.client.HTTPException):
            response = self._connection.getresponse()
            self.status, self.answer = response.status, response.read().decode()
        self.answered_at = time.monotonic()


def test_an_open_long_poll_is_answered_at_once_when_the_process_is_told_to_stop(web: Service) -> None:
    sleeper = {"type": "sleep", "payload": {"seconds": 60}, "max_attempts": 1}
    task_id = web.post("/api/task", sleeper).json()["task_id"]
    polls = [Poll(web, "/api/result", {"task_id": task_id}) for _ in range(5)]
    polls += [Poll(web, "/api/task", sleeper) for _ in range(5)]
    eventually(lambda: len(web.post("/api/tasks", {}).json()["items"]) == 6)
    assert not any(poll.answer for poll in polls)
    told_at = time.monotonic()
    web.send(signal.SIGTERM)
    for poll in polls:
        poll.join(EXIT_SECONDS)
        assert poll.answer, "the connection was closed without an answer"
        assert poll.status == 202, poll.answer
        assert json.loads(poll.answer)["task_id"]
        assert poll.answered_at - told_at < 2  # well before the tasks' own seconds are over
    web.wait(told_at + EXIT_SECONDS - time.monotonic())


def test_a_long_task_is_released_and_finished_by_another_process(pair: Pair, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = pair.webs[0].submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"]
    first = eventually(lambda: lines(gate))[0]
    holder = next(web for web in pair.webs if int(first.mark) in web.children())
    other = next(web for web in pair.webs if web is not holder)
    started = time.monotonic()
    holder.terminate(2 * EXIT_SECONDS)
    assert time.monotonic() - started < EXIT_SECONDS
    wait_for_lines(gate, 2)
    assert other.result(task_id)["status"] == "running"
    (tmp_path / "gate.1").write_text("return")
    task = other.ended(task_id)
    assert (task["status"], task["attempt"], task["result"]) == ("succeeded", 1, 1)


def test_a_short_task_is_let_finish(pair: Pair, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = pair.webs[0].submit("gate", {"path": str(gate), "stubborn": 1})["task_id"]
    first = eventually(lambda: lines(gate))[0]
    holder = next(web for web in pair.webs if int(first.mark) in web.children())
    other = next(web for web in pair.webs if web is not holder)
    holder.send(signal.SIGTERM)
    eventually(lambda: is_refused(holder.port))  # it is stopping
    (tmp_path / "gate.1").write_text("return")
    assert other.ended(task_id)["result"] == 1
    holder.wait(EXIT_SECONDS)
    assert len(lines(gate)) == 1


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def wait_for_lines(path: Path, number: int) -> None:
    eventually(lambda: len(lines(path)) == number)


def test_workers_that_are_restarted_again_and_again_use_up_no_attempt(database: dict[str, str], tmp_path: Path) -> None:
    """Tasks that are longer than any worker lives still end in their first attempt, once one is left alone."""
    gate = tmp_path / "gate"
    settings = {**SETTINGS, **database, "WORKER_PROCESSES": "2"}
    web = Service(tmp_path, {**settings, "WORKER_PROCESSES": "0"})
    try:
        task_ids = [web.submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"] for _ in range(2)]
        for number in range(3):
            worker = Worker(tmp_path, settings, name=f"worker{number}")
            wait_for_lines(gate, 2 * (number + 1))
            if number == 2:
                (tmp_path / "gate.1").write_text("return")
                assert [web.ended(task_id)["result"] for task_id in task_ids] == [1, 1]
            assert worker.terminate(EXIT_SECONDS) == 0
    finally:
        web.kill()


@ON_A_FILE
def test_a_body_that_is_still_on_its_way_is_answered_with_503(web: Service) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as client:
        client.sendall(b"POST /api/task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        eventually(lambda: requests.post(f"{web.url}/health", timeout=5).ok)  # the request before it is under way
        web.send(signal.SIGTERM)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after:" in head
    assert json.loads(body)["code"] == "shutting_down"
    web.wait(EXIT_SECONDS)
