"""POST /api/result."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.only_post_svc.answers import faults, problem
from tests.processes import Service, eventually

UNKNOWN = "01a20612-713f-7206-b50f-fe3f2f1d368d"
LATER = {"type": "echo", "delay": 3600}


def ask(service: Service, task_id: Any, **more: Any) -> requests.Response:
    return service.post("/api/result", {"task_id": task_id, **more})


def later(service: Service) -> str:
    return str(service.post("/api/task", LATER).json()["task_id"])


def test_a_finished_task_is_answered_with_200_and_everything_about_it(service: Service) -> None:
    task_id = service.run("text.stats", {"text": "a b c d"}, priority=5, max_attempts=2)["task_id"]
    answer = ask(service, task_id)
    task = answer.json()
    assert answer.status_code == 200
    assert "Retry-After" not in answer.headers
    assert task["created_at"] <= task["run_at"] <= task["started_at"] <= task["finished_at"]
    for name in ("created_at", "run_at", "started_at", "finished_at"):
        assert task.pop(name).endswith("Z")
    assert task.pop("result")["words"] == 4
    assert task == {
        "task_id": task_id,
        "type": "text.stats",
        "status": "succeeded",
        "error": None,
        "progress": None,
        "attempt": 1,
        "max_attempts": 2,
        "priority": 5,
        "failures": [],
    }


def test_a_failed_task_is_a_200_too(service: Service) -> None:
    answer = ask(service, service.run("raise", {"message": "boom"}, max_attempts=1)["task_id"])
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"] == {"code": "task_error", "type": "ValueError", "message": "boom"}
    assert answer.json()["result"] is None


def test_a_waiting_task_is_answered_with_202_and_retry_after(service: Service) -> None:
    answer = ask(service, later(service))
    assert answer.status_code == 202
    assert int(answer.headers["Retry-After"]) >= 1
    assert (answer.json()["status"], answer.json()["attempt"]) == ("queued", 0)


def test_wait_is_over_when_the_time_is_up(service: Service) -> None:
    started = time.monotonic()
    assert ask(service, later(service), wait=0.4).status_code == 202
    assert 0.4 <= time.monotonic() - started < 2


def test_wait_answers_as_soon_as_the_task_ends(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = service.submit("progress", {"path": str(gate)})["task_id"]
    opened_at = []
    eventually(lambda: service.result(task_id)["status"] == "running")

    def open_gate() -> None:
        opened_at.append(time.monotonic())
        gate.touch()

    threading.Timer(0.3, open_gate).start()
    answer = ask(service, task_id, wait=25)
    assert answer.status_code == 200
    assert time.monotonic() - opened_at[0] < 0.5  # a poll would take up to a second


def test_many_may_wait_for_one_task(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = service.submit("progress", {"path": str(gate)})["task_id"]
    answers: list[int] = []

    def wait() -> None:
        body = {"task_id": task_id, "wait": 25}
        answers.append(service.request("POST", "/api/result", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    gate.touch()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20


def test_progress_is_visible_while_the_task_runs(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = service.submit("progress", {"path": str(gate)})["task_id"]
    task = eventually(lambda: (task := service.result(task_id))["progress"] and task)
    assert task["progress"] == {"fraction": 0.5, "message": "half"}
    assert (task["status"], task["attempt"], task["finished_at"]) == ("running", 1, None)
    assert task["started_at"] is not None
    gate.touch()
    ended = service.ended(task_id)
    assert ended["progress"] == {"fraction": 1.0, "message": "done"}


def test_asking_changes_nothing(service: Service) -> None:
    task_id = service.run("echo", {"n": 1})["task_id"]
    first, second = ask(service, task_id), ask(service, task_id)
    assert first.content == second.content


def test_an_unknown_task_is_not_found_without_waiting(service: Service) -> None:
    started = time.monotonic()
    problem(ask(service, UNKNOWN, wait=25), 404, "task_not_found")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "spell", [str.upper, "{{{}}}".format, "urn:uuid:{}".format, " {}".format, "{}\n".format, str.title]
)
@pytest.mark.parametrize("path", ["/api/result", "/api/cancel", "/api/retry"])
def test_another_spelling_of_an_id_is_not_found(service: Service, path: str, spell: Any) -> None:
    task_id = later(service)
    problem(service.post(path, {"task_id": spell(task_id)}), 404, "task_not_found")
    problem(service.post(path, {"task_id": task_id.replace("-", "")}), 404, "task_not_found")
    assert service.result(task_id)["status"] == "queued"


@pytest.mark.parametrize("task_id", ["", "x", "' OR 1=1 --", "é" * 1000, UNKNOWN.replace("7206", "4206")])
@pytest.mark.parametrize("path", ["/api/result", "/api/cancel", "/api/retry"])
def test_what_is_no_id_is_not_found(service: Service, path: str, task_id: str) -> None:
    problem(service.post(path, {"task_id": task_id}), 404, "task_not_found")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/task_id"}),
        ({"task_id": 1}, {"/task_id"}),
        ({"task_id": None, "wait": 26}, {"/task_id", "/wait"}),
        ({"task_id": UNKNOWN, "wait": -0.1}, {"/wait"}),
        ({"task_id": UNKNOWN, "wait": "1"}, {"/wait"}),
        ({"task_id": UNKNOWN, "surplus": 1}, {"/surplus"}),
    ],
)
def test_a_question_of_the_wrong_shape_is_refused(service: Service, body: Any, pointers: set[str]) -> None:
    assert faults(service.post("/api/result", body)).keys() == pointers
