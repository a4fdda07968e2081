"""Types whose code moves elsewhere, or back: every task that waits goes along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.databases import rows
from tests.processes import Service, eventually

BEFORE = """
from only_post_svc import task

@task("moving.def")
def one() -> int:
    return 1

@task("moving.async")
async def two() -> int:
    return 2
"""
AFTER = BEFORE.replace('")', '", elsewhere=True)')
TYPES = ["moving.def", "moving.async"]

Start = Callable[[str, int], Service]


@pytest.fixture
def start(start_service: Callable[..., Service], tmp_path: Path) -> Start:
    """Starts a service with so many child processes, whose types have this code."""

    def start(code: str, processes: int) -> Service:
        (tmp_path / "moving.py").write_text(code)
        return start_service(TASK_MODULES="moving", SHIPPED_TASKS="off", WORKER_PROCESSES=str(processes))

    return start


def submitted(service: Service) -> list[str]:
    """Tasks that wait, now and for a while, and the names of schedules."""
    ids = [service.submit(type, delay=delay)["task_id"] for type in TYPES for delay in (0, 2)]
    for type in TYPES:
        answer = service.post("/api/schedule", {"name": type, "type": type, "every": 1, "overlap": True})
        assert answer.status_code == 201, answer.text
    return ids


def ticked(service: Service) -> set[str]:
    return {one["last_task_id"] for one in service.post("/api/schedules").json()["items"]} - {None}


def test_what_waits_is_claimed_elsewhere_where_there_is_no_worker_of_the_services_own(start: Start) -> None:
    service = start(BEFORE, 0)
    waiting = set(submitted(service))
    service.terminate()
    service = start(AFTER, 0)
    ticks: set[str] = set()
    claimed: set[str] = set()

    def are_claimed() -> Any:
        runs = service.post("/api/claim", {"types": TYPES, "limit": 100, "wait": 1}).json()["items"]
        claimed.update(run["task_id"] for run in runs)
        ticks.update(ticked(service))
        return claimed >= waiting and len(claimed & ticks) >= 4

    eventually(are_claimed, 60)


def test_what_waits_is_run_by_the_services_own_workers_once_they_have_the_code(start: Start) -> None:
    service = start(AFTER, 0)
    waiting = submitted(service)
    service.terminate()
    service = start(BEFORE, 1)
    assert {service.ended(task_id)["status"] for task_id in waiting} == {"succeeded"}
    eventually(lambda: rows(service, "SELECT 1 FROM lane") == [], 60)
    before = ticked(service)
    later = eventually(lambda: ticked(service) - before)
    assert {service.ended(task_id)["status"] for task_id in later} == {"succeeded"}
