"""The Python client against a real service."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from only_post_svc.client import ServiceError, TaskFailed, Tasks, TaskUnfinished
from tests.processes import TASKS, Service


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    service = Service(tmp_path_factory.mktemp("service"), {"TASK_MODULES": f"{TASKS},tests.elsewhere_tasks"})
    yield Tasks(service.url)
    service.kill()


def test_a_task_is_submitted_and_its_result_fetched(tasks: Tasks) -> None:
    task = tasks.submit("text.stats", text="to be or not to be", top=1)
    assert task.result(timeout=30)["top"] == [{"word": "to", "count": 2}]


def test_a_submit_can_wait_for_the_end(tasks: Tasks) -> None:
    task = tasks.submit("echo", {"key": "of the payload"}, wait=20, priority=5)
    assert (task.status, task.value, task.answer["priority"]) == ("succeeded", {"key": "of the payload"}, 5)


def test_the_result_of_a_failed_task_is_raised(tasks: Tasks) -> None:
    task = tasks.submit("csv.summary", text='city\n"Bern\n')
    with pytest.raises(TaskFailed) as raised:
        task.result(timeout=30)
    assert raised.value.task.error is not None
    assert raised.value.task.error["type"] == "Fail"


def test_a_result_that_is_not_there_in_time_is_told_and_the_task_goes_on(tasks: Tasks) -> None:
    task = tasks.submit("echo", delay=3600)
    with pytest.raises(TaskUnfinished):
        task.result(timeout=0.1)
    assert tasks.cancel(task).status == "cancelled"
    assert tasks.retry(task.id).status == "queued"


def test_progress_is_followed_to_the_end(tasks: Tasks, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    shown = []
    for task in tasks.follow(tasks.submit("progress", path=str(go_on)), every=0.2):
        shown.append((task.status, task.progress and task.progress["message"]))
        if shown[-1] == ("running", "half"):
            go_on.touch()
    assert shown[-1] == ("succeeded", "done")
    assert ("running", "half") in shown


def test_more_tasks_than_one_batch_takes_are_submitted_and_listed(tasks: Tasks) -> None:
    made = tasks.submit_many({"type": "text.stats", "payload": {"text": str(n)}} for n in range(1001))
    assert len({task.id for task in made}) == 1001
    listed = {task.id for task in tasks.list(type="text.stats")}
    assert {task.id for task in made} <= listed


def test_what_can_be_submitted_is_described(tasks: Tasks) -> None:
    assert "text.stats" in {one["type"] for one in tasks.types()}
    assert tasks.health()["version"]


def test_a_refused_submit_says_what_is_wrong(tasks: Tasks) -> None:
    with pytest.raises(ServiceError) as raised:
        tasks.submit("text.stats", txt="a")
    assert [fault["pointer"] for fault in raised.value.errors] == ["/payload/text", "/payload/txt"]


def test_tasks_whose_code_is_elsewhere_are_run_by_functions_of_this_process(tasks: Tasks) -> None:
    def make(url: str) -> dict[str, str]:
        if url == "bad":
            raise ValueError("no such picture")
        return {"made": url}

    stop = Event()
    worker = Thread(target=tasks.work, args=({"thumbs.make": make},), kwargs={"concurrency": 2, "stop": stop})
    worker.start()
    try:
        made = tasks.submit_many({"type": "thumbs.make", "payload": {"url": f"{n}.png"}} for n in range(5))
        assert [task.result(30) for task in made] == [{"made": f"{n}.png"} for n in range(5)]
        failed = tasks.submit("thumbs.make", url="bad", max_attempts=1, wait=20)
        assert failed.error == {"code": "task_error", "type": "ValueError", "message": "no such picture"}
    finally:
        stop.set()
        worker.join(30)
    assert not worker.is_alive()


def test_schedules_are_made_listed_and_taken_back(tasks: Tasks) -> None:
    made = tasks.schedule("nightly", "echo", cron="0 3 * * *", timezone="Europe/Zurich")
    assert made["next_run_at"]
    assert [one["name"] for one in tasks.schedules()] == ["nightly"]
    tasks.unschedule("nightly")
    assert tasks.schedules() == []


def test_a_type_is_paused_and_all_tasks_of_a_key_are_cancelled(tasks: Tasks) -> None:
    tasks.pause("text.stats")
    waiting = [tasks.submit("text.stats", text="a", key="customer-7") for _ in range(3)]
    assert tasks.cancel_all(key="customer-7", status="queued") == 3
    tasks.resume("text.stats")
    assert {tasks.get(task).status for task in waiting} == {"cancelled"}
    assert tasks.retry_all(key="customer-7") == 3
    assert [task.result(30)["words"] for task in waiting] == [1, 1, 1]


class Overloaded(BaseAdapter):
    """A service that holds no request: it says at once that the task has not ended, until it is asked `ends_after`
    times."""

    def __init__(self, ends_after: int = 1_000_000) -> None:
        super().__init__()
        self.asked = 0
        self._ends_after = ends_after

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        self.asked += 1
        answer = requests.Response()
        answer.status_code = 202
        status = "queued" if self.asked < self._ends_after else "succeeded"
        answer._content = json.dumps({"task_id": "1", "type": "echo", "status": status}).encode()
        return answer

    def close(self) -> None:
        pass


def tasks_of(service: Overloaded) -> Tasks:
    session = requests.Session()
    session.mount("http://", service)
    return Tasks("http://overloaded", session=session)


def test_a_service_that_holds_no_request_is_not_asked_without_a_pause() -> None:
    service = Overloaded()
    assert not tasks_of(service).wait("1", timeout=0.3).is_final
    assert service.asked <= 3


def test_a_task_is_followed_at_its_pace_where_the_service_holds_no_request() -> None:
    started = time.monotonic()
    shown = [task.status for task in tasks_of(Overloaded(ends_after=4)).follow("1", every=0.1)]
    assert shown == ["queued", "succeeded"]
    assert time.monotonic() - started >= 0.2


def test_a_submit_waits_for_the_end_though_the_service_holds_no_request() -> None:
    assert tasks_of(Overloaded(ends_after=3)).submit("echo", wait=20).is_final
