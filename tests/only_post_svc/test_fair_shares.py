"""No caller waits because another has much to do, and bounds hold, from outside."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from only_post_svc.worker.upkeep import LOOK_SECONDS
from tests.databases import ON_A_FILE, rows, shared_by_tests
from tests.only_post_svc.answers import faults
from tests.processes import Service, Worker, eventually
from tests.tokens import SECRET, bearer

MODULE = "tests.fair_tasks"
SETTINGS = {"TASK_MODULES": MODULE, "TASK_AUTH": "required", "SECRET_KEY": SECRET}
HOURS = 3600


class Caller:
    """A user's token, or a machine client's."""

    def __init__(self, service: Service, *, is_machine: bool = False, scope: str = "tasks") -> None:
        self.service = service
        self.id = str(uuid.uuid4())
        client = {"client_id": self.id} if is_machine else {}
        self.headers = bearer(sub=self.id, scope=scope, **client)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return self.service.post(path, body, headers=self.headers | headers)

    def submit(self, type: str, payload: Any = None, **options: Any) -> Any:
        answer = self.post("/api/task", {"type": type, "payload": payload or {}, **options})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def batch(self, entries: list[dict[str, Any]]) -> list[str]:
        answer = self.post("/api/batch", {"tasks": entries})
        assert answer.status_code == 202, answer.text
        return [task["task_id"] for task in answer.json()["items"]]

    def find(self, task_id: str, wait: float = 0) -> Any:
        return self.post("/api/result", {"task_id": task_id, "wait": wait}).json()

    def until(self, task_id: str, **wanted: Any) -> Any:
        """The task as soon as it is so."""
        return eventually(lambda: _if_like(self.find(task_id), wanted), 30)


def _if_paused(report: Any) -> Any:
    return report if "paused" in report["queue"] else None


def _if_like(task: Any, wanted: dict[str, Any]) -> Any:
    return task if {name: task.get(name) for name in wanted} == wanted else None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("fair"), {**SETTINGS, "WORKER_PROCESSES": "2", "TASK_CONCURRENCY": "4"})
    yield service
    service.kill()


@pytest.fixture
def ann(service: Service) -> Iterator[Caller]:
    yield from _caller(service)


@pytest.fixture
def bob(service: Service) -> Iterator[Caller]:
    yield from _caller(service)


def _caller(service: Service) -> Iterator[Caller]:
    caller = Caller(service)
    yield caller
    caller.post("/api/cancel", {"filter": {}})


@ON_A_FILE
@pytest.mark.parametrize("type", ["who", "nap"])
def test_one_after_the_other_of_a_caller_who_may_have_one_running(
    start_service: Callable[..., Service], storage: str, type: str
) -> None:
    bounds = {"MAX_RUNNING_PER_CALLER": "1", "WORKER_PROCESSES": "1"}
    ann = Caller(start_service(**SETTINGS, **bounds))
    payload = {"seconds": 0.1} if type == "nap" else {}
    started = time.monotonic()
    for task_id in ann.batch([{"type": type, "payload": payload}] * 8):
        ann.until(task_id, status="succeeded")
    assert time.monotonic() - started < 4 * LOOK_SECONDS  # not each of them had to wait for a look


def test_one_person_with_many_long_tasks_leaves_half_of_the_hands_to_others(ann: Caller, bob: Caller) -> None:
    ann.batch([{"type": "nap", "payload": {"seconds": HOURS}, "timeout": 60}] * 33)
    eventually(lambda: len(running(ann)) == 4, 20)
    assert bob.submit("who", wait=20)["status"] == "succeeded"
    assert len(running(ann)) == 4


def running(caller: Caller) -> list[Any]:
    items: list[Any] = caller.post("/api/tasks", {"status": "running", "limit": 200}).json()["items"]
    return items


def test_a_machine_has_all_hands(service: Service) -> None:
    (machine,) = (Caller(service, is_machine=True) for _ in range(1))
    machine.batch([{"type": "nap", "payload": {"seconds": HOURS}}] * 33)
    eventually(lambda: len(running(machine)) == 8, 20)
    machine.post("/api/cancel", {"filter": {}})


def test_a_task_knows_whose_it_is_and_what_about(ann: Caller) -> None:
    task = ann.submit("who", key="customer-7", wait=20)
    assert (task["result"], task["key"]) == ([ann.id, "customer-7"], "customer-7")


def test_two_of_one_key_never_run_at_once(ann: Caller, tmp_path: Path) -> None:
    path = str(tmp_path / "marks")
    entries = [
        {"type": "keyed", "payload": {"path": path, "seconds": 0.02}, "key": key}
        for key in ("k", "l")
        for _ in range(8)
    ]
    for task_id in ann.batch(entries):
        assert ann.find(task_id, wait=20)["status"] == "succeeded"
    assert overlaps(Path(path), most=1) == []


def overlaps(path: Path, most: int) -> list[str]:
    """Where more than so many of one key ran, by the marks that they left."""
    running: dict[str, int] = {}
    found = []
    for line in path.read_text().splitlines():
        _, what, key, _ = line.split()
        running[key] = running.get(key, 0) + (1 if what == "start" else -1)
        if running[key] > most:
            found.append(line)
    return found


KILLS = int(os.environ.get("KILLS", "3"))


def test_two_of_one_key_never_run_at_once_though_workers_are_killed(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "marks"
    web = start_service(TASK_MODULES=MODULE, WORKER_PROCESSES="0", LEASE_SECONDS="2")
    entry = {"type": "keyed", "payload": {"path": str(path), "seconds": 0.1}}
    tasks = web.post("/api/batch", {"tasks": [{**entry, "key": f"k{number % 4}"} for number in range(30 * KILLS)]})
    settings = {"TASK_MODULES": MODULE, "WORKER_PROCESSES": "1", "LEASE_SECONDS": "2"}
    workers = [start_worker(**settings) for _ in range(2)]
    for kill in range(KILLS):
        lines = len(path.read_text().splitlines()) if path.exists() else 0
        eventually(lambda lines=lines: path.exists() and len(path.read_text().splitlines()) > lines + 8, 30)  # type: ignore[misc]
        workers[kill % 2].kill()
        workers[kill % 2] = start_worker(**settings)
    for task in tasks.json()["items"]:
        assert web.ended(task["task_id"])["status"] == "succeeded"
    assert "overlap" not in path.read_text()
    assert rows(web, "SELECT * FROM gate") == []


def test_what_a_key_holds_back_says_so_and_costs_another_key_nothing(ann: Caller) -> None:
    first = ann.submit("keyed", {"seconds": HOURS}, key="k")["task_id"]
    ann.until(first, status="running")
    held = ann.submit("keyed", key="k")["task_id"]
    task = ann.until(held, held="max_running_per_key")
    assert task["status"] == "queued"
    assert ann.submit("keyed", key="l", wait=20)["status"] == "succeeded"
    assert ann.post("/api/cancel", {"task_id": first}).status_code == 200
    assert ann.find(held, wait=20)["status"] == "succeeded"


def test_a_cancelled_run_keeps_its_key_until_its_code_has_stopped(ann: Caller, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    first, second = (
        ann.submit("stubborn", {"path": str(marks), "seconds": seconds}, key="k")["task_id"] for seconds in (HOURS, 0)
    )
    eventually(lambda: marks.exists() and f"start k {first}" in marks.read_text())
    assert ann.post("/api/cancel", {"task_id": first}).json()["status"] == "cancelled"
    assert ann.find(second, wait=20)["status"] == "succeeded"
    assert [line.split()[1:] for line in marks.read_text().splitlines()] == [
        ["start", "k", first],
        ["start", "k", second],
    ]


def test_so_many_of_a_type_run_at_once(ann: Caller, tmp_path: Path) -> None:
    path = str(tmp_path / "marks")
    ids = ann.batch([{"type": "few", "payload": {"path": path, "seconds": 0.02}}] * 12)
    assert {ann.find(task_id, wait=20)["status"] for task_id in ids} == {"succeeded"}
    assert overlaps(Path(path), most=2) == []


def test_what_is_there_already_is_not_made_again(ann: Caller, bob: Caller) -> None:
    wanted = {"type": "nap", "payload": {"seconds": 0}, "unique": "u", "delay": 60}
    first = ann.post("/api/task", wanted)
    again = ann.post("/api/task", {**wanted, "payload": {"seconds": 9}})
    assert "Task-Existing" not in first.headers
    assert (again.status_code, again.headers["Task-Existing"], again.json()) == (202, "true", first.json())
    assert bob.post("/api/task", wanted).json()["task_id"] != first.json()["task_id"]
    ann.post("/api/cancel", {"task_id": first.json()["task_id"]})
    assert "Task-Existing" not in ann.post("/api/task", wanted).headers


def test_one_that_has_not_started_takes_the_new_payload_time_and_settings(ann: Caller) -> None:
    first = ann.submit("who", unique="u", delay=60, key="old")
    new = {"type": "who", "unique": "u", "replace": True, "key": "new", "priority": 5, "wait": 20}
    task = ann.post("/api/task", new)
    assert task.headers["Task-Existing"] == "true"
    assert (task.json()["task_id"], task.json()["result"][1]) == (first["task_id"], "new")
    assert task.json()["priority"] == 5


def test_of_many_that_race_for_one_unique_one_is_made(ann: Caller) -> None:
    wanted = {"type": "nap", "payload": {"seconds": 0}, "unique": "race", "delay": 60}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ann.post("/api/task", wanted), range(24)))
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert sum("Task-Existing" not in answer.headers for answer in answers) == 1


def test_the_answer_of_an_idempotency_key_comes_before_what_there_is(ann: Caller) -> None:
    wanted = {"type": "nap", "payload": {"seconds": 0}, "unique": "u2", "delay": 60}
    first = ann.post("/api/task", wanted, **{"Idempotency-Key": "i"})
    ann.post("/api/cancel", {"task_id": first.json()["task_id"]})
    again = ann.post("/api/task", wanted, **{"Idempotency-Key": "i"})
    assert (again.headers["Idempotency-Replayed"], again.json()) == ("true", first.json())
    assert "Task-Existing" not in again.headers


def test_a_replayed_answer_says_again_that_the_task_was_there(ann: Caller) -> None:
    wanted = {"type": "nap", "payload": {"seconds": 0}, "unique": "u3", "delay": 60}
    made = ann.post("/api/task", wanted)
    for path, body in (("/api/task", wanted), ("/api/batch", {"tasks": [wanted]})):
        answers = [ann.post(path, body, **{"Idempotency-Key": "i3"}) for _ in range(2)]
        assert [answer.headers["Task-Existing"] for answer in answers] == ["true", "true"]
        assert ["Idempotency-Replayed" in answer.headers for answer in answers] == [False, True]
        assert made.json()["task_id"] in answers[1].text


def test_replace_alone_is_refused(ann: Caller) -> None:
    answer = ann.post("/api/task", {"type": "who", "replace": True})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/replace")


def test_a_failed_task_is_not_queued_beside_one_that_is_the_same(ann: Caller) -> None:
    first = ann.submit("who", unique="u3", delay=60)["task_id"]
    ann.post("/api/cancel", {"task_id": first})
    ann.submit("who", unique="u3", delay=60)
    answer = ann.post("/api/retry", {"task_id": first})
    assert (answer.status_code, answer.json()["code"]) == (409, "task_exists")
    assert ann.post("/api/retry", {"filter": {}}).json() == {"count": 0, "has_more": False}


def test_a_type_with_a_scope_is_for_those_who_have_it(service: Service, ann: Caller) -> None:
    assert ann.post("/api/task", {"type": "pictures.make"}).json()["code"] == "insufficient_scope"
    assert ann.post("/api/batch", {"tasks": [{"type": "pictures.make"}]}).status_code == 403
    wrong = {"type": "pictures.make", "payload": {"surplus": 1}, "priority": 1000}
    assert len(ann.post("/api/task", wrong).json()["errors"]) == 1  # nothing of its payload
    painter = Caller(service, scope="tasks pictures")
    assert len(painter.post("/api/task", wrong).json()["errors"]) == 2
    assert painter.submit("pictures.make", wait=20)["result"] == "made"
    assert "pictures.make" not in types(ann)
    assert "pictures.make" in types(painter)
    assert "pictures.make" not in ann.post("/openapi.json", {}).text
    assert "pictures.make" in painter.post("/openapi.json", {}).text


def types(caller: Caller) -> dict[str, Any]:
    return {one["type"]: one for one in caller.post("/api/types", {}).json()["items"]}


def test_all_that_fit_a_filter_are_cancelled_and_queued_again(ann: Caller, bob: Caller) -> None:
    ids = ann.batch([{"type": "who", "delay": 60, "key": key} for key in ("k", "l", "k")])
    theirs = bob.submit("who", delay=60, key="k")["task_id"]
    assert ann.post("/api/cancel", {"filter": {"key": "k", "type": "who"}}).json() == {"count": 2, "has_more": False}
    assert [ann.find(task_id)["status"] for task_id in ids] == ["cancelled", "queued", "cancelled"]
    assert bob.find(theirs)["status"] == "queued"
    before = ann.find(ids[0])["created_at"]
    assert ann.post("/api/retry", {"filter": {"submitted_before": before}}).json()["count"] == 0
    answer = ann.post("/api/retry", {"filter": {"status": "cancelled", "key": "k"}})
    assert (answer.status_code, answer.json()) == (200, {"count": 2, "has_more": False})
    assert [ann.find(task_id, wait=20)["status"] for task_id in ids[::2]] == ["succeeded"] * 2


@pytest.mark.parametrize("body", [{}, {"task_id": "x", "filter": {}}, {"filter": {"submitted_before": "soon"}}])
def test_a_task_or_a_filter_is_named(ann: Caller, body: Any) -> None:
    for path in ("/api/cancel", "/api/retry"):
        assert ann.post(path, body).status_code == 422


def test_tasks_are_listed_by_key(ann: Caller) -> None:
    ids = ann.batch([{"type": "who", "delay": 60, "key": key} for key in ("k", "l", "k")])
    for filters in ({}, {"status": "queued"}, {"type": "who"}):
        page = ann.post("/api/tasks", {"key": "k", **filters}).json()["items"]
        assert [task["task_id"] for task in page] == [ids[2], ids[0]]


def test_a_paused_type_waits_and_others_go_on(service: Service, ann: Caller) -> None:
    operator = Caller(service, scope="operate")
    assert ann.post("/api/pause", {"type": "who"}).status_code == 403
    assert operator.post("/api/pause", {"type": "who"}).json() == {"type": "who", "paused": True}
    try:
        task_id = ann.submit("who")["task_id"]
        assert ann.submit("keyed", wait=20)["status"] == "succeeded"
        task = ann.find(task_id)
        assert (task["status"], task["held"]) == ("queued", "paused")
        assert types(ann)["who"]["paused"]
        report = eventually(lambda: _if_paused(ann.post("/health", {}).json()))  # it may be half a second old
        assert (report["status"], report["queue"]["paused"]) == ("ok", ["who"])
    finally:
        assert operator.post("/api/resume", {"type": "who"}).json() == {"type": "who", "paused": False}
    assert ann.find(task_id, wait=20)["status"] == "succeeded"
    wrong = operator.post("/api/pause", {"type": "none", "q": 1})
    assert faults(wrong).keys() == {"/type", "/q"}


def test_a_timeout_from_outside_is_a_second_at_least(ann: Caller) -> None:
    answer = ann.post("/api/task", {"type": "who", "timeout": 0.5})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/timeout")


@pytest.fixture(scope="module")
def bounded(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {**SETTINGS, "MAX_QUEUED_PER_CALLER": "5", "WORKER_PROCESSES": "0"}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("bounded"), **env) as service:
        yield service


def test_the_bound_of_what_waits_is_each_callers_own(bounded: Service) -> None:
    ann, bob = Caller(bounded), Caller(bounded, is_machine=True)
    for caller in (ann, bob):
        caller.batch([{"type": "who"}] * 5)
        refused = caller.post("/api/task", {"type": "who"})
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert "tasks of yours" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1


def test_what_is_queued_again_waits_within_the_bound_too(bounded: Service) -> None:
    ann = Caller(bounded)
    four = {"tasks": [{"type": "who"}] * 4}
    for _ in range(2):
        eventually(lambda: ann.post("/api/batch", four).status_code == 202)
        assert ann.post("/api/cancel", {"filter": {}}).json() == {"count": 4, "has_more": False}
    cancelled = {"filter": {"status": "cancelled"}}

    def queued_again() -> int:
        ann.post("/api/retry", cancelled)  # what waits is counted a second ago at most
        return len(ann.post("/api/tasks", {"status": "queued"}).json()["items"])

    eventually(lambda: queued_again() >= 5)
    assert queued_again() == 5
    one = ann.post("/api/tasks", {"status": "cancelled"}).json()["items"][0]["task_id"]
    for body in (cancelled, {"task_id": one}):
        refused = ann.post("/api/retry", body)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert ann.find(one)["status"] == "cancelled"
    ann.post("/api/cancel", {"filter": {"status": "queued"}})
    eventually(lambda: ann.post("/api/retry", {"task_id": one}).status_code == 202)


def test_the_tasks_of_a_schedule_have_the_bounds_of_who_made_it(start_service: Callable[..., Service]) -> None:
    service = start_service(**SETTINGS, WORKER_PROCESSES="1")
    person, machine = Caller(service), Caller(service, is_machine=True)
    for caller in (person, machine):
        assert caller.post("/api/schedule", {"name": "s", "type": "who", "every": 1}).status_code == 201
    found = "SELECT DISTINCT caller, is_person FROM task"
    eventually(lambda: sorted(rows(service, found)) == sorted([(person.id, 1), (machine.id, 0)]), 20)


def test_exactly_as_many_as_may_wait_are_taken_from_many_at_once(start_service: Callable[..., Service]) -> None:
    service = start_service(**SETTINGS, MAX_QUEUED="20", WORKER_PROCESSES="0")
    caller = Caller(service, is_machine=True)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: caller.post("/api/task", {"type": "who"}).status_code, range(40)))
    assert sorted(statuses) == [202] * 20 + [503] * 20


def test_a_type_that_only_another_worker_has_waits_for_it_and_holds_nobody_up(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker]
) -> None:
    web = start_service(TASK_MODULES=f"{MODULE},tests.tasks", WORKER_PROCESSES="0")
    start_worker(TASK_MODULES="tests.tasks", WORKER_PROCESSES="1")
    strange = [web.submit("who", priority=100)["task_id"] for _ in range(20)]
    assert web.run("echo", {"a": 1})["status"] == "succeeded"
    assert {web.result(task_id)["status"] for task_id in strange} == {"queued"}
    start_worker(TASK_MODULES=MODULE, WORKER_PROCESSES="1")
    assert {web.ended(task_id)["status"] for task_id in strange} == {"succeeded"}


def test_five_hundred_types_are_claimed_from(start_service: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(
        "from only_post_svc import task\n"
        "for number in range(501):\n"
        "    @task(f'many.{number}')\n"
        "    async def one(): pass\n"
    )
    service = start_service(TASK_MODULES="many", WORKER_PROCESSES="1")
    answer = service.post("/api/batch", {"tasks": [{"type": f"many.{number}"} for number in range(501)]})
    ids = [task["task_id"] for task in answer.json()["items"]]
    assert {service.ended(task_id)["status"] for task_id in ids[::100]} == {"succeeded"}


def test_turns_go_round_the_callers_whatever_each_has_waiting(start_service: Callable[..., Service]) -> None:
    service = start_service(**SETTINGS, WORKER_PROCESSES="1", TASK_CONCURRENCY="2")
    ann, bob = Caller(service, is_machine=True), Caller(service, is_machine=True)
    many = ann.batch([{"type": "nap", "payload": {"seconds": 0.05}}] * 200)
    few = bob.batch([{"type": "nap", "payload": {"seconds": 0.05}}] * 20)
    for task_id in few:
        assert bob.find(task_id, wait=25)["status"] == "succeeded"
    queued = ann.post("/api/tasks", {"status": "queued", "limit": 200}).json()["items"]
    assert {task["task_id"] for task in queued} >= set(many[100:])  # of each caller about as many were served


@ON_A_FILE
def test_shipped_tasks_are_offered_in_production_when_asked_for(start_service: Callable[..., Service]) -> None:
    production = {**SETTINGS, "APP_ENV": "production", "HOST": "127.0.0.1", "WORKER_PROCESSES": "0"}
    offered = [types(Caller(start_service(**production, **more))) for more in ({}, {"SHIPPED_TASKS": "on"})]
    assert ["echo" in one for one in offered] == [False, True]


def test_marks_are_read_right(tmp_path: Path) -> None:
    """The check of overlaps finds one where there is one."""
    path = tmp_path / "marks"
    path.write_text("".join(f"{number} {what} k {number}\n" for number, what in enumerate(("start", "start", "end"))))
    assert len(overlaps(path, most=1)) == 1
    assert overlaps(path, most=2) == []
