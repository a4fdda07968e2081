"""The Python client against a real service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from only_post_svc.client import ServiceError, TaskFailed, Tasks, TaskUnfinished
from tests.processes import TASKS, Service


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    service = Service(tmp_path_factory.mktemp("service"), {"TASK_MODULES": TASKS})
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
