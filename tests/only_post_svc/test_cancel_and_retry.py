"""POST /api/cancel and /api/retry."""

import time
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import requests

from tests.databases import ON_A_FILE
from tests.only_post_svc.answers import faults, problem
from tests.processes import Service, eventually


def cancel(service: Service, task_id: str) -> requests.Response:
    return service.post("/api/cancel", {"task_id": task_id})


def retry(service: Service, task_id: str) -> requests.Response:
    return service.post("/api/retry", {"task_id": task_id})


def later(service: Service, **more: Any) -> str:
    return str(service.submit("echo", {"kept": True}, delay=3600, **more)["task_id"])


def started(service: Service, type: str, payload: Any = None, **options: Any) -> str:
    task_id = str(service.submit(type, payload, **options)["task_id"])
    eventually(lambda: service.result(task_id)["status"] == "running")
    return task_id


def lines(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def starts(path: Path) -> list[int]:
    """The processes in which `gate` has started."""
    return [int(line.split()[3]) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_queued_task_is_cancelled_at_once_and_never_runs(service: Service) -> None:
    answer = cancel(service, later(service))
    task = answer.json()
    assert answer.status_code == 200
    assert task["status"] == "cancelled"
    assert task["finished_at"] is not None
    assert (task["attempt"], task["result"], task["started_at"]) == (0, None, None)


def test_a_cancelled_task_is_final_for_who_asks(service: Service) -> None:
    task_id = later(service)
    cancel(service, task_id)
    answer = service.post("/api/result", {"task_id": task_id, "wait": 20})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_cancelling_twice_answers_200_with_the_same_task(service: Service) -> None:
    task_id = later(service)
    first, second = cancel(service, task_id), cancel(service, task_id)
    assert second.status_code == 200
    assert second.content == first.content


@pytest.mark.parametrize("type", ["echo", "fail"])
def test_a_task_that_has_ended_is_not_cancelled(service: Service, type: str) -> None:
    ended = service.run(type)
    problem(cancel(service, ended["task_id"]), 409, "task_finished")
    assert service.result(ended["task_id"]) == ended


@pytest.mark.parametrize("type", ["note", "note.async"])
def test_running_code_is_stopped_within_two_seconds(service: Service, tmp_path: Path, type: str) -> None:
    path = tmp_path / "notes"
    task_id = started(service, type, {"path": str(path), "seconds": 2.5})
    assert cancel(service, task_id).json()["status"] == "cancelled"
    probe = service.run(type, {"path": str(tmp_path / "later"), "seconds": 2.6})  # outlasts what should be gone
    assert probe["status"] == "succeeded"
    assert lines(path) == ["start"]
    assert service.result(task_id)["status"] == "cancelled"


@ON_A_FILE
@pytest.mark.parametrize("type", ["zoo.stubborn", "zoo.stubborn.async", "zoo.spin.async"])
def test_code_that_ignores_it_is_killed_within_two_seconds(ruined: Service, type: str) -> None:
    task_id = started(ruined, type)
    (child,) = ruined.children()
    asked_at = time.monotonic()
    assert cancel(ruined, task_id).status_code == 200
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists(), 5)
    assert time.monotonic() - asked_at < 2
    assert ruined.run("echo", {"n": 1})["status"] == "succeeded"
    assert ruined.result(task_id)["error"] is None


def test_who_waits_is_told_of_the_cancelling_at_once(service: Service) -> None:
    task_id = started(service, "sleep", {"seconds": 30})
    Timer(0.2, lambda: service.request("POST", "/api/cancel", json={"task_id": task_id}, timeout=9)).start()
    asked_at = time.monotonic()
    assert service.result(task_id, wait=25)["status"] == "cancelled"
    assert time.monotonic() - asked_at < 0.7  # a poll would take up to a second


def test_a_failed_task_runs_again_with_its_attempts_at_zero(service: Service) -> None:
    failed = service.run("fail", {"message": "once"}, max_attempts=5)
    assert (failed["status"], failed["attempt"]) == ("failed", 1)
    answer = retry(service, failed["task_id"])
    task = answer.json()
    assert answer.status_code == 202
    assert int(answer.headers["Retry-After"]) >= 1
    assert (task["status"], task["attempt"], task["error"], task["finished_at"]) == ("queued", 0, None, None)
    again = service.ended(failed["task_id"])
    assert (again["status"], again["attempt"]) == ("failed", 1)
    assert again["finished_at"] > failed["finished_at"]


def test_a_cancelled_task_runs_again_with_its_payload(service: Service) -> None:
    task_id = later(service)
    cancel(service, task_id)
    assert retry(service, task_id).status_code == 202
    ended = service.ended(task_id)
    assert (ended["status"], ended["result"], ended["attempt"]) == ("succeeded", {"kept": True}, 1)


def test_a_task_that_runs_again_is_not_disturbed_by_its_cancelled_run(service: Service, tmp_path: Path) -> None:
    """The old run has two seconds to go away, and the new one may begin before that."""
    path = tmp_path / "gate"
    task_id = started(service, "gate", {"path": str(path), "stubborn": 1})
    eventually(lambda: len(starts(path)) == 1)
    cancel(service, task_id)
    assert retry(service, task_id).status_code == 202
    old, new = eventually(lambda: len(starts(path)) == 2 and starts(path))
    eventually(lambda: not Path(f"/proc/{old}/cmdline").exists(), 5)
    assert service.result(task_id)["status"] == "running"
    Path(f"{path}.1").touch()
    ended = service.ended(task_id)
    assert (ended["status"], ended["result"], ended["attempt"]) == ("succeeded", 1, 1)
    assert starts(path) == [old, new]


def test_a_task_that_succeeded_is_not_tried_again(service: Service) -> None:
    problem(retry(service, service.run("echo")["task_id"]), 409, "task_succeeded")


def test_a_queued_task_is_not_tried_again(service: Service) -> None:
    problem(retry(service, later(service)), 409, "task_not_finished")


def test_a_running_task_is_not_tried_again(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = started(service, "progress", {"path": str(gate)})
    problem(retry(service, task_id), 409, "task_not_finished")
    gate.touch()
    assert service.ended(task_id)["status"] == "succeeded"


@pytest.mark.parametrize("path", ["/api/cancel", "/api/retry"])
@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/task_id"}),
        ({"task_id": 5}, {"/task_id"}),
        ({"task_id": "x", "wait": 1}, {"/wait"}),
        ({"wait": 1}, {"/wait", "/task_id"}),
        ({"filter": {"status": "none", "submitted_before": "soon"}}, {"/filter/status", "/filter/submitted_before"}),
    ],
)
def test_a_request_of_the_wrong_shape_is_refused(service: Service, path: str, body: Any, pointers: set[str]) -> None:
    assert faults(service.post(path, body)).keys() == pointers
