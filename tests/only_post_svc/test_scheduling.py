"""Schedules of a service that runs: on the wire, in code, by command, with workers that are killed."""

import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands import command, said
from tests.databases import rows
from tests.processes import TASKS, Service, Worker, eventually
from tests.tokens import SECRET, bearer

SCHEDULED = "tests.scheduled_tasks"
SECONDS = float(os.environ.get("SCHEDULE_SECONDS", "3"))  # how long workers are killed
LONG_AGO = 1_700_000_000_000

on_a_file = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)


def schedule(service: Service, name: str, **options: Any) -> Any:
    answer = service.post("/api/schedule", {"name": name, "type": "echo", **options})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def unschedule(service: Service, name: str) -> None:
    assert service.post("/api/unschedule", {"name": name}).status_code == 200


def listed(service: Service, **options: Any) -> list[Any]:
    items: list[Any] = service.post("/api/schedules", options).json()["items"]
    return items


def run_ats(service: Service, type: str) -> list[int]:
    return [at for (at,) in rows(service, "SELECT run_at FROM task WHERE type = ? ORDER BY run_at", type)]


def test_a_schedule_is_made_replaced_listed_and_taken_back(service: Service) -> None:
    wanted = {
        "name": "nightly",
        "type": "echo",
        "cron": "0 3 * * *",
        "timezone": "Europe/Zurich",
        "payload": {"n": 1},
        "key": "k",
    }
    first = service.post("/api/schedule", wanted)
    assert first.status_code == 201
    made = first.json()
    assert made.items() >= wanted.items()
    assert (made["every"], made["overlap"], made["in_code"], made["skipped"]) == (None, False, False, 0)
    assert (made["last_task_id"], made["next_run_at"][14:]) == (None, "00:00.000Z")

    again = service.post("/api/schedule", {**wanted, "priority": 3, "timeout": 1.5, "max_attempts": 1})
    assert again.status_code == 200
    assert again.json() == made | {"priority": 3, "timeout": 1.5, "max_attempts": 1}
    assert again.json() in listed(service)

    assert service.post("/api/unschedule", {"name": "nightly"}).json() == again.json()
    gone = service.post("/api/unschedule", {"name": "nightly"})
    assert (gone.status_code, gone.json()["code"]) == (404, "schedule_not_found")


def test_schedules_are_listed_in_pages(service: Service) -> None:
    names = [f"page-{number}" for number in range(3)]
    for name in names:
        schedule(service, name, every=3600)
    body: dict[str, Any] = {"limit": 2}
    found: list[str] = []
    while True:
        page = service.post("/api/schedules", body).json()
        found += [one["name"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        body = {"limit": 2, "cursor": page["next_cursor"]}
    assert [name for name in found if name.startswith("page-")] == names
    for name in names:
        unschedule(service, name)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"cron": "0 0 31 2 *"}, "/cron"),
        ({"cron": "* * * *"}, "/cron"),
        ({"cron": "0 3 * * *", "timezone": "Europe/Nowhere"}, "/timezone"),
        ({"every": 60, "timezone": "../../etc/passwd"}, "/timezone"),
        ({"every": 0.5}, "/every"),
        ({"every": 1e300}, "/every"),
        ({"every": 60, "cron": "0 3 * * *"}, "/every"),
        ({}, "/cron"),
        ({"every": 60, "type": "nothing"}, "/type"),
        ({"every": 60, "type": "sleep"}, "/payload/seconds"),
        ({"every": 60, "timeout": 3600}, "/timeout"),
        ({"every": 60, "payload": {"text": "x" * 16 * 1024}}, "/payload"),
        ({"every": 60, "name": ""}, "/name"),
        ({"every": 60, "name": "x" * 256}, "/name"),
        ({"every": 60, "delay": 1}, "/delay"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(service: Service, options: Any, pointer: str) -> None:
    answer = service.post("/api/schedule", {"name": "bad", "type": "echo", **options})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]]


ALL_WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({"cron": "nope", "timezone": "Nowhere", "type": "nothing"}, {"/name", "/cron", "/timezone", "/type"}),
    ({"cron": 5, "timezone": "Nowhere", "type": 5, "name": "x"}, {"/cron", "/timezone", "/type"}),
    (
        {"every": "x", "type": "sleep", "timeout": 1e9, "notify": "x", "name": "x"},
        {"/every", "/payload/seconds", "/timeout", "/notify"},
    ),
    ({"every": 60, "cron": "nope", "type": "echo", "name": 5}, {"/every", "/cron", "/name"}),
]


@pytest.mark.parametrize(("body", "pointers"), ALL_WRONG)
def test_all_that_is_wrong_is_told(service: Service, body: Any, pointers: set[str]) -> None:
    assert {fault["pointer"] for fault in service.post("/api/schedule", body).json()["errors"]} == pointers


def test_a_tick_runs_within_its_second(service: Service) -> None:
    """The worker hears of a schedule, and waits for nothing but its time."""
    made = schedule(service, "soon", every=1, payload={"soon": True})
    task_id = eventually(lambda: next(one for one in listed(service) if one["name"] == "soon")["last_task_id"])
    unschedule(service, "soon")
    task = service.ended(task_id)
    assert (task["status"], task["result"], task["run_at"]) == ("succeeded", {"soon": True}, made["next_run_at"])


def test_each_caller_has_schedules_of_their_own(start_service: Callable[..., Service]) -> None:
    service = start_service(TASK_AUTH="required", SECRET_KEY=SECRET)
    ann, bob = bearer(sub="ann"), bearer(sub="bob")
    body = {"name": "mine", "type": "echo", "every": 3600}
    assert service.post("/api/schedule", body, headers=ann).status_code == 201
    assert service.post("/api/schedules", headers=bob).json()["items"] == []
    assert service.post("/api/unschedule", {"name": "mine"}, headers=bob).status_code == 404
    assert len(service.post("/api/schedules", headers=ann).json()["items"]) == 1


def test_what_was_missed_while_all_was_down_is_made_up_for_by_one(start_service: Callable[..., Service]) -> None:
    service = start_service()
    schedule(service, "down", every=3600, overlap=True)
    service.kill()
    rows(service, "UPDATE schedule SET next_run_at = ?", LONG_AGO)
    service = start_service()
    (task,) = eventually(lambda: service.post("/api/tasks", {"type": "echo"}).json()["items"])
    assert task["run_at"] == "2023-11-14T22:13:20.000Z"
    (one,) = listed(service)
    assert one["next_run_at"] > task["created_at"]


def test_a_schedule_in_code_runs_and_goes_with_its_lines(start_service: Callable[..., Service]) -> None:
    service = start_service(TASK_MODULES=SCHEDULED)
    (one,) = listed(service)
    assert (one["name"], one["type"], one["every"], one["in_code"]) == ("tidy", "tidy", 1, True)
    assert service.post("/api/unschedule", {"name": "tidy"}).status_code == 404
    eventually(lambda: run_ats(service, "tidy"))
    service.terminate()
    service = start_service(TASK_MODULES=TASKS)
    eventually(lambda: listed(service) == [])


def test_no_tick_is_made_twice_or_left_out_while_workers_are_killed(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker]
) -> None:
    """SCHEDULE_SECONDS sets for how long."""
    service = start_service(WORKER_PROCESSES="0")
    schedule(service, "steady", every=1, overlap=True)
    workers = [start_worker(WORKER_PROCESSES="1") for _ in range(2)]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        before = len(run_ats(service, "echo"))
        eventually(lambda before=before: len(run_ats(service, "echo")) >= before + 2, 30)  # type: ignore[misc]
        workers.pop(0).kill()
        workers.append(start_worker(WORKER_PROCESSES="1"))
    unschedule(service, "steady")
    ticks = run_ats(service, "echo")
    assert len(ticks) >= 4
    assert [later - tick for tick, later in itertools.pairwise(ticks)] == [1000] * (len(ticks) - 1)


@on_a_file
def test_an_operator_adds_lists_runs_and_removes(start_service: Callable[..., Service]) -> None:
    service = start_service(TASK_MODULES=SCHEDULED)

    def operate(*arguments: str) -> Any:
        env = {**service.env, "TASK_MODULES": SCHEDULED}
        done = command(service.log.parent, "only_post_svc", "schedules", *arguments, **env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    added = operate("add", "mine", "echo", '{"a": 1}', "--cron", "0 3 * * MON", "--timezone", "Europe/Zurich", "--json")
    assert (added["name"], added["payload"], added["timezone"], added["caller"]) == (
        "mine",
        {"a": 1},
        "Europe/Zurich",
        "",
    )
    assert [one["name"] for one in operate("list", "--json")["items"]] == ["mine", "tidy"]
    assert "0 3 * * MON Europe/Zurich" in operate("list")
    assert service.ended(operate("run", "mine", "--json")["task_id"])["result"] == {"a": 1}
    assert service.ended(operate("run", "tidy").strip())["result"] == "tidied"
    assert "mine" in operate("remove", "mine")
    gone = command(service.log.parent, "only_post_svc", "schedules", "remove", "tidy", **service.env)
    assert "stands in code" in said(gone, 1)
    bad = command(service.log.parent, "only_post_svc", "schedules", "add", "x", "echo", "--cron", "0 0 31 2 *")
    assert "cron: must be five fields" in said(bad, 1)
