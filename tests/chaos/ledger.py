"""The ledger: what clients were promised while they went on submitting, and whether it was kept."""

import collections
import contextlib
import itertools
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.chaos.traces import lines
from tests.databases import rows
from tests.processes import Service, eventually

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
DRAIN_SECONDS = 90
PAUSE_SECONDS = 0.05  # between two requests of a client: the nemesis is to be the trouble, not the load
ATTEMPT_SECONDS = 6  # of a request; the web process may have been stopped
FINAL = ("succeeded", "failed", "cancelled")
BUSY = ("database_unavailable", "shutting_down", "busy")


@dataclass
class Accepted:
    """A task in the ledger. `key` is in its payload, too."""

    key: str
    type: str
    max_attempts: int
    has_key: bool
    is_cancelled: bool = False


@dataclass
class Ledger:
    accepted: dict[str, Accepted] = field(default_factory=dict)  # by task id
    finals: dict[str, Any] = field(default_factory=dict)  # by task id: the first final answer that anyone saw
    faults: list[str] = field(default_factory=list)
    answers: collections.Counter[str] = field(default_factory=collections.Counter)

    def see(self, task: Any) -> None:
        task = {name: value for name, value in task.items() if name != "failures"}  # /api/result alone has them
        if task["status"] in FINAL and self.finals.setdefault(task["task_id"], task) != task:
            self.faults.append(f"a final answer changed: {self.finals[task['task_id']]} then {task}")


class Client(threading.Thread):
    """Submits until it is told to stop, and writes down what it was promised."""

    def __init__(self, number: int, ports: list[int], ledger: Ledger, trace: Path, done: threading.Event) -> None:
        super().__init__(daemon=True)
        self._chance = random.Random(f"{SEED} client {number}")
        self._number = number
        self._ports = ports
        self._ledger = ledger
        self._trace = trace
        self._done = done
        self._count = itertools.count()

    def run(self) -> None:
        while not self._done.wait(PAUSE_SECONDS):
            try:
                self._chance.choices([self._submit, self._submit_batch, self._cancel, self._look], [8, 2, 1, 6])[0]()
            except Exception as error:
                self._ledger.faults.append(f"client {self._number}: {error!r}")

    def _submit(self) -> None:
        has_key = self._chance.random() < 0.6
        entry = self._entry()
        answer = self._post("/api/task", entry | {"wait": self._chance.choice([0, 0, 0, 1])}, has_key=has_key)
        if answer is not None:
            self._write_down([entry], [answer], has_key=has_key)

    def _submit_batch(self) -> None:
        has_key = self._chance.random() < 0.6
        entries = [self._entry() for _ in range(self._chance.randrange(1, 6))]
        answer = self._post("/api/batch", {"tasks": entries}, has_key=has_key)
        if answer is not None:
            self._write_down(entries, answer["items"], has_key=has_key)

    def _entry(self) -> dict[str, Any]:
        chance = self._chance
        return {
            "type": chance.choice(["trace", "trace.async", "trace.async"]),
            "payload": {
                "path": str(self._trace),
                "key": f"{self._number}-{next(self._count)}",
                "seconds": chance.choices([0, 0.05, 0.5, 3], [8, 4, 2, 1])[0],
                "until": chance.choice([1, 1, 1, 2]),
            },
            "delay": chance.choice([0, 0, 0, 0, 1.5]),
            "priority": chance.choice([0, 0, 1]),
            "max_attempts": chance.choice([1, 2, 3, 3]),
        }

    def _write_down(self, entries: list[dict[str, Any]], tasks: list[Any], *, has_key: bool) -> None:
        for entry, task in zip(entries, tasks, strict=True):
            accepted = Accepted(entry["payload"]["key"], entry["type"], entry["max_attempts"], has_key)
            if self._ledger.accepted.setdefault(task["task_id"], accepted).key != accepted.key:
                self._ledger.faults.append(f"one id for two submissions: {accepted} {task}")
            self._ledger.see(task)

    def _cancel(self) -> None:
        if self._ledger.accepted:
            task_id = self._chance.choice(list(self._ledger.accepted))
            answer = self._post("/api/cancel", {"task_id": task_id}, statuses=(200, 409))
            if answer is not None and "task_id" in answer:
                self._ledger.see(answer)
                self._ledger.accepted[task_id].is_cancelled = True

    def _look(self) -> None:
        if self._ledger.accepted:
            task_id = self._chance.choice(list(self._ledger.accepted))
            answer = self._post("/api/result", {"task_id": task_id})
            if answer is not None:
                self._ledger.see(answer)

    def _post(
        self, path: str, body: Any, *, has_key: bool = False, statuses: tuple[int, ...] = (200, 202)
    ) -> Any | None:
        """The answer's body. With a key it asks until it is answered, without one once."""
        headers = {"Idempotency-Key": f"{SEED}-{self._number}-{next(self._count)}"} if has_key else {}
        while True:
            port = self._chance.choice(self._ports)
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                answer = requests.post(
                    f"http://127.0.0.1:{port}{path}", json=body, headers=headers, timeout=ATTEMPT_SECONDS
                )
                self._ledger.answers[f"{path} {answer.status_code}"] += 1
                if answer.status_code in statuses:
                    return answer.json()
                if (
                    answer.status_code != 503
                    or answer.json()["code"] not in BUSY
                    or "Retry-After" not in answer.headers
                ):
                    self._ledger.faults.append(f"{path}: {answer.status_code} {answer.text}")
                    return None
            if not has_key:
                return None
            time.sleep(0.1)  # asked again, like any client


def drain(ledger: Ledger, web: Service, seconds: float = DRAIN_SECONDS) -> None:
    """Waits until every task has ended, and looks at each once more."""
    deadline = time.monotonic() + seconds
    for task_id in list(ledger.accepted):
        ledger.see(ended(web, task_id, max(1, deadline - time.monotonic())))


def ended(web: Service, task_id: str, seconds: float) -> Any:
    """The task once it has ended, asked for by a client that comes back after a 503."""

    def final() -> Any:
        answer = web.post("/api/result", {"task_id": task_id, "wait": min(seconds, 20)})
        assert answer.status_code in (200, 202, 503), answer.text
        return answer.json() if answer.status_code == 200 else None

    return eventually(final, seconds)


def check_endings(ledger: Ledger) -> None:
    assert set(ledger.finals) == set(ledger.accepted)
    for task_id, accepted in ledger.accepted.items():
        task = ledger.finals[task_id]
        assert task["attempt"] <= task["max_attempts"] == accepted.max_attempts, task
        if accepted.is_cancelled:
            assert task["status"] == "cancelled", task
        elif task["status"] == "failed":
            assert task["attempt"] == task["max_attempts"], task
            assert task["error"]["type"] == "Retry" or task["error"]["code"] == "worker_lost", task
        else:
            assert (task["status"], task["error"]) == ("succeeded", None), task


def check_runs(ledger: Ledger, trace: Path, terms: int) -> None:
    """No run beyond what was promised, and every result from a run that ended in the attempt that won."""
    runs = collections.defaultdict(list)
    for line in lines(trace):
        runs[line.task_id].append(line)
    for task_id, accepted in ledger.accepted.items():
        task = ledger.finals[task_id]
        starts = [line.attempt for line in runs[task_id] if line.event == "start"]
        assert all(1 <= attempt <= accepted.max_attempts for attempt in starts), (task, runs[task_id])
        # Given back at no cost: by a SIGTERM, and once by the death of a child that it shared.
        free = terms + (1 if accepted.type == "trace.async" else 0)
        assert len(starts) <= accepted.max_attempts + free, (task, runs[task_id])
        if task["status"] == "succeeded":
            ended = {line.mark: line.attempt for line in runs[task_id] if line.event == "end"}
            assert task["result"]["attempt"] == task["attempt"] == ended[task["result"]["token"]], (task, runs[task_id])


TASKS_BY_KEY = "SELECT body, task_id FROM task_payload"


def check_tables(ledger: Ledger, web: Service) -> None:
    """Of a key one task, and no task without its payload."""
    tasks = collections.defaultdict(list)
    for body, task_id in rows(web, TASKS_BY_KEY):
        tasks[json.loads(body).get("key", task_id)].append(task_id)
    assert rows(web, "SELECT count(*) FROM task") == [(sum(map(len, tasks.values())),)]
    for task_id, accepted in ledger.accepted.items():
        if accepted.has_key:
            assert tasks[accepted.key] == [task_id]
        else:
            assert task_id in tasks[accepted.key]
