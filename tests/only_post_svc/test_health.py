"""POST /health."""

from collections.abc import Callable
from typing import Any

import pytest
import requests

from shared import VERSION
from tests.databases import ON_A_FILE, rows
from tests.only_post_svc.answers import problem
from tests.processes import Service, Worker, eventually


def health(service: Service) -> requests.Response:
    return service.request("POST", "/health", timeout=9)


def make_older(service: Service, seconds: int) -> None:
    """As if its queued tasks had waited that long."""
    rows(service, "UPDATE task SET run_at = run_at - ? WHERE status = 'queued'", seconds * 1000)


def test_a_service_that_makes_progress_is_ok(service: Service) -> None:
    service.run("echo")
    answer = health(service)
    report = answer.json()
    assert answer.status_code == 200
    assert report.keys() == {"status", "version", "database", "queue", "workers"}
    assert (report["status"], report["version"], report["database"]["status"]) == ("ok", VERSION, "ok")
    assert report["queue"].keys() == {"queued", "scheduled", "running", "oldest_queued_seconds"}


def test_a_worker_says_that_it_lives(service: Service) -> None:
    (worker,) = eventually(lambda: health(service).json()["workers"])
    assert worker["pid"] == service.pid
    assert worker["seen_at"] >= worker["started_at"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"any": "thing"}'])
def test_a_body_is_optional(service: Service, body: bytes) -> None:
    assert service.request("POST", "/health", data=body, timeout=9).status_code == 200


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 422)])
def test_a_body_that_is_no_object_is_refused(service: Service, body: bytes, status: int) -> None:
    assert service.request("POST", "/health", data=body, timeout=9).status_code == status


@pytest.mark.parametrize("path", ["/health", "/health/", "/api/task", "/nowhere"])
def test_get_is_refused_unless_it_was_opened(service: Service, path: str) -> None:
    answer = service.request("GET", path, timeout=9)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


@ON_A_FILE
def test_health_get_opens_that_one_path(start_service: Callable[..., Service]) -> None:
    service = start_service(HEALTH_GET="true", WORKER_PROCESSES="0", TASK_AUTH="required")
    answer = service.request("GET", "/health", timeout=9)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    problem(service.request("GET", "/api/types", timeout=9), 405, "method_not_allowed")
    problem(service.request("PUT", "/health", timeout=9), 405, "method_not_allowed")
    assert health(service).status_code == 200


@pytest.fixture
def empty(idle: Service) -> Service:
    """One where nothing waits, as far as it knows."""
    idle.post("/api/cancel", {"filter": {}})
    nothing = {"queued": 0, "scheduled": 0, "running": 0, "oldest_queued_seconds": None}
    eventually(lambda: health(idle).json()["queue"] == nothing)
    return idle


def test_the_queue_is_counted(empty: Service) -> None:
    tasks = [{"type": "echo"}, {"type": "echo"}, {"type": "echo", "delay": 3600}]
    empty.post("/api/batch", {"tasks": tasks})
    counted = eventually(lambda: (queue := health(empty).json()["queue"])["queued"] and queue)
    oldest = counted.pop("oldest_queued_seconds")
    assert counted == {"queued": 2, "scheduled": 1, "running": 0}
    assert 0 <= oldest < 10


def test_it_is_degraded_while_tasks_wait_that_nobody_claims(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker]
) -> None:
    service = start_service(WORKER_PROCESSES="0")
    service.submit("echo")
    make_older(service, 10)  # not for long enough yet
    report: Any = eventually(lambda: (seen := health(service).json())["queue"]["queued"] and seen)
    assert report["status"] == "ok"
    assert 10 <= report["queue"]["oldest_queued_seconds"] < 15
    make_older(service, 10)
    eventually(lambda: health(service).status_code == 503)
    answer = health(service)
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["status"] == "degraded"
    assert answer.json()["queue"]["oldest_queued_seconds"] >= 15
    start_worker(WORKER_PROCESSES="1")
    eventually(lambda: health(service).status_code == 200)


def test_tasks_that_are_not_due_degrade_nothing(empty: Service) -> None:
    empty.submit("echo", delay=3600)
    report = eventually(lambda: (seen := health(empty).json())["queue"]["scheduled"] and seen)
    assert (report["status"], report["queue"]["oldest_queued_seconds"]) == ("ok", None)


def test_a_past_run_at_does_not_look_like_a_long_wait(empty: Service) -> None:
    empty.submit("echo", run_at="2001-01-01T00:00:00Z")
    report = eventually(lambda: (seen := health(empty).json())["queue"]["queued"] and seen)
    assert report["status"] == "ok"
