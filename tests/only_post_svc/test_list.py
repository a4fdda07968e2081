"""POST /api/tasks: pages, newest first. Each test lists a type of its own or a caller's own tasks."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.databases import shared_by_tests
from tests.only_post_svc.answers import faults, problem
from tests.processes import Service
from tests.tokens import SECRET, bearer

TYPES = ("echo", "text.stats", "sleep")


class Lister:
    """One caller of a service that runs nothing."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.headers = bearer()

    def post(self, path: str, body: Any) -> requests.Response:
        return self.service.post(path, body, headers=self.headers)

    def submit(self, *types: str) -> list[str]:
        payloads = {"echo": {}, "text.stats": {"text": "secret"}, "sleep": {"seconds": 0}}
        tasks = [{"type": type, "payload": payloads[type]} for type in types]
        return [item["task_id"] for item in self.post("/api/batch", {"tasks": tasks}).json()["items"]]

    def page(self, **wanted: Any) -> Any:
        answer = self.post("/api/tasks", wanted)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ids(self, **wanted: Any) -> list[str]:
        return [item["task_id"] for item in self.page(**wanted)["items"]]

    def walk(self, **wanted: Any) -> Iterator[list[str]]:
        """Page after page, the next one fetched only when it is asked for."""
        cursor = None
        while True:
            page = self.page(**wanted, **({"cursor": cursor} if cursor else {}))
            yield [item["task_id"] for item in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                return

    def cancel(self, task_id: str) -> None:
        assert self.post("/api/cancel", {"task_id": task_id}).status_code == 200


@pytest.fixture(scope="module")
def idle(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {"WORKER_PROCESSES": "0", "TASK_AUTH": "required", "SECRET_KEY": SECRET}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("idle"), **env) as service:
        yield service


@pytest.fixture
def lister(idle: Service) -> Lister:
    return Lister(idle)


def test_tasks_are_listed_newest_first(lister: Lister) -> None:
    ids = [lister.submit("echo")[0] for _ in range(5)]
    assert lister.ids() == ids[::-1]


def test_nobody_sees_the_tasks_of_another_caller(lister: Lister) -> None:
    lister.submit("echo")
    assert Lister(lister.service).page() == {"items": [], "next_cursor": None}


def test_an_entry_is_the_task_without_payload_and_result(lister: Lister) -> None:
    (task_id,) = lister.submit("text.stats")
    answer = lister.post("/api/tasks", {})
    assert "secret" not in answer.text
    (item,) = answer.json()["items"]
    task = lister.post("/api/result", {"task_id": task_id}).json()
    assert item == {name: value for name, value in task.items() if name not in ("result", "failures")}


def test_fifty_are_listed_when_no_limit_is_sent(lister: Lister) -> None:
    lister.submit(*["echo"] * 51)
    page = lister.page()
    assert len(page["items"]) == 50
    assert isinstance(page["next_cursor"], str)


def test_the_last_page_has_no_cursor_even_when_it_is_full(lister: Lister) -> None:
    lister.submit(*["echo"] * 4)
    assert [len(page) for page in lister.walk(limit=2)] == [2, 2]


@pytest.mark.parametrize("limit", [0, 201, -1, 1.5, "5", None, True])
def test_limit_is_a_whole_number_from_1_to_200(lister: Lister, limit: Any) -> None:
    assert faults(lister.post("/api/tasks", {"limit": limit})).keys() == {"/limit"}


@pytest.mark.parametrize("limit", [1, 200])
def test_the_bounds_of_limit_are_accepted(lister: Lister, limit: int) -> None:
    lister.submit(*["echo"] * 201)
    assert len(lister.ids(limit=limit)) == limit


def test_the_type_filters(lister: Lister) -> None:
    ids = lister.submit("echo", "text.stats", "echo", "sleep")
    assert sorted(lister.ids(type="echo")) == sorted([ids[0], ids[2]])
    assert lister.ids(type="no.such") == []


def test_the_status_filters_alone_and_with_the_type(lister: Lister) -> None:
    ids = lister.submit("echo", "text.stats", "echo")
    later = lister.post("/api/task", {"type": "echo", "delay": 3600}).json()["task_id"]
    lister.cancel(ids[0])
    lister.cancel(ids[1])
    assert sorted(lister.ids(status="cancelled")) == sorted(ids[:2])
    assert lister.ids(status="cancelled", type="text.stats") == [ids[1]]
    assert lister.ids(status="queued") == [later, ids[2]]  # what is scheduled counts as queued
    assert lister.ids(status="queued", type="echo") == [later, ids[2]]
    for status in ("running", "succeeded", "failed"):
        assert lister.ids(status=status) == []


@pytest.mark.parametrize("status", ["failed", "succeeded", "running"])
def test_every_status_of_a_run_filters(service: Service, status: str) -> None:
    made = {
        "failed": lambda: service.run("fail"),
        "succeeded": lambda: service.run("echo"),
        "running": lambda: service.submit("sleep", {"seconds": 1}, wait=0.5),
    }[status]()
    page = service.post("/api/tasks", {"status": status, "type": made["type"], "limit": 200}).json()
    assert made["task_id"] in [item["task_id"] for item in page["items"]]
    assert {item["status"] for item in page["items"]} == {status}


@pytest.mark.parametrize(
    ("wanted", "pointers"),
    [
        ({"status": "scheduled"}, {"/status"}),
        ({"status": "QUEUED"}, {"/status"}),
        ({"type": 1}, {"/type"}),
        ({"cursor": 1}, {"/cursor"}),
        ({"offset": 1}, {"/offset"}),
    ],
)
def test_a_filter_of_the_wrong_shape_is_refused(lister: Lister, wanted: Any, pointers: set[str]) -> None:
    assert faults(lister.post("/api/tasks", wanted)).keys() == pointers


@pytest.mark.parametrize("wanted", [{}, {"status": "queued"}, {"type": "echo"}, {"status": "queued", "type": "echo"}])
def test_pages_show_every_task_once_and_in_order(lister: Lister, wanted: Any) -> None:
    ids = lister.submit(*["echo"] * 23)
    pages = list(lister.walk(limit=5, **wanted))
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    assert [task_id for page in pages for task_id in page] == sorted(ids, reverse=True)


def test_tasks_that_come_between_two_pages_shift_nothing(lister: Lister) -> None:
    ids = lister.submit(*["echo"] * 9)
    seen = []
    for page in lister.walk(limit=3):
        seen += page
        if len(seen) < 9:
            lister.submit("echo", "echo")
    assert seen == sorted(ids, reverse=True)


def test_tasks_that_go_between_two_pages_take_no_other_with_them(lister: Lister) -> None:
    ids = sorted(lister.submit(*["echo"] * 9), reverse=True)
    pages = lister.walk(limit=3, status="queued")
    seen = next(pages)
    for gone in (ids[0], ids[2], ids[4]):  # the last one shown among them: the cursor's own row
        lister.cancel(gone)
    for page in pages:
        seen += page
    assert seen == [task_id for task_id in ids if task_id != ids[4]]


def cursor_of(lister: Lister, **wanted: Any) -> str:
    lister.submit("echo", "echo", "echo")
    return str(lister.page(limit=1, **wanted)["next_cursor"])


def test_a_cursor_tells_nothing_of_the_caller(lister: Lister) -> None:
    raw = base64.urlsafe_b64decode(cursor_of(lister, type="echo"))
    assert b"echo" not in raw


def test_a_changed_cursor_is_refused(lister: Lister) -> None:
    cursor = cursor_of(lister)
    for position in range(len(cursor)):
        other = "A" if cursor[position] != "A" else "B"
        changed = cursor[:position] + other + cursor[position + 1 :]
        problem(lister.post("/api/tasks", {"cursor": changed}), 400, "invalid_cursor")


@pytest.mark.parametrize("change", ["{}=", "{}A", " {}", "{}\n", "=", "", "A" * 2000, "é", "{}{}"])
def test_what_is_no_cursor_is_refused(lister: Lister, change: str) -> None:
    cursor = cursor_of(lister)
    problem(lister.post("/api/tasks", {"cursor": change.format(cursor, cursor)}), 400, "invalid_cursor")


@pytest.mark.parametrize("wanted", [{"status": "queued"}, {"type": "echo"}, {"type": "sleep"}, {"status": "failed"}])
def test_a_cursor_of_another_filter_is_refused(lister: Lister, wanted: Any) -> None:
    problem(lister.post("/api/tasks", {"cursor": cursor_of(lister), **wanted}), 400, "invalid_cursor")


def test_a_cursor_of_another_caller_is_refused(lister: Lister) -> None:
    cursor = cursor_of(lister)
    problem(Lister(lister.service).post("/api/tasks", {"cursor": cursor}), 400, "invalid_cursor")


def test_the_limit_may_change_from_page_to_page(lister: Lister) -> None:
    cursor = cursor_of(lister)
    assert len(lister.ids(cursor=cursor, limit=200)) == 2


def test_a_cursor_is_good_after_a_restart(start_service: Callable[..., Service]) -> None:
    service = start_service(WORKER_PROCESSES="0")
    assert service.post("/api/batch", {"tasks": [{"type": "echo"}] * 3}).status_code == 202
    first = service.post("/api/tasks", {"limit": 1}).json()
    service.kill()
    rest = start_service(WORKER_PROCESSES="0").post("/api/tasks", {"cursor": first["next_cursor"]}).json()
    assert len(rest["items"]) == 2
