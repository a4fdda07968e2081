"""What ordinary code meets in a child: a normal Python, however the runs before it have left theirs."""

import contextlib
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from only_post_svc.worker.children import environment
from tests.only_post_svc.test_zoo import members
from tests.processes import ROOT, Process, Service, Worker, eventually

TASKS = "tests.tasks,tests.ordinary"
SECRETS = {
    "SECRET_KEY": "secret-0123456789-0123456789-0123456789",
    "METRICS_TOKEN": "secret-metrics-token",
    "DATABASE_URL": "sqlite:///secret.db",
    "HEROKU_POSTGRESQL_ONYX_URL": "sqlite:///secret.db",
    "PGPASSWORD": "secret-password",
}


SETTINGS = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", **SECRETS}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one child, which the tests here may ruin."""
    service = Service(tmp_path_factory.mktemp("house"), SETTINGS)
    yield service
    service.kill()


@pytest.fixture
def new_house(tmp_path: Path) -> Iterator[Service]:
    """One whose child is not about to retire, as threads of a run before may have it do."""
    service = Service(tmp_path, SETTINGS)
    yield service
    service.kill()


def value(service: Service, type: str, payload: Any = None) -> Any:
    """The result of a task that succeeds in its first attempt."""
    task = service.run(type, payload, max_attempts=1)
    assert task["status"] == "succeeded", task["error"]
    return task["result"]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def lines(service: Service, words: str) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if words in line]


def test_processes_that_a_task_starts_hear_sigterm(house: Service) -> None:
    assert value(house, "popen.terminate") == -signal.SIGTERM
    assert value(house, "process.terminate") == -signal.SIGTERM
    assert value(house, "subprocess.async") == -signal.SIGTERM
    assert value(house, "pool") == [1, 2, 3]
    assert value(house, "process.spawn") == [1, 2]
    assert value(house, "dispositions") == "True True True"


def test_a_pool_of_the_module_s_is_kept_from_run_to_run(house: Service) -> None:
    first = value(house, "pool.kept")
    value(house, "orphan")
    assert value(house, "pool.kept") == first


def test_a_task_sees_the_environment_that_the_operator_gave_without_the_service_s_secrets(house: Service) -> None:
    seen = value(house, "environment")
    assert seen["PYTHONPATH"] == str(ROOT)
    assert seen["TASK_MODULES"] == TASKS
    assert not SECRETS.keys() & seen.keys()
    assert not [name for name, text in seen.items() if "secret" in text]


@pytest.mark.parametrize("name", ["SIGNING_KEY", "SIGNING_KEY_FILE", "JWKS_FILE", "TLS_KEY_FILE", "MAIL_URL"])
def test_whatever_holds_a_secret_is_withheld(name: str) -> None:
    assert environment({name: "s", "OTHER": "o", "COPY": "s"}) == {"OTHER": "o"}


def test_the_coordinator_s_memory_and_environment_are_closed_to_its_tasks(house: Service) -> None:
    assert value(house, "spy") == []
    assert value(house, "spy.program") != 0


def test_a_real_time_signal_ends_its_run_and_is_named(house: Service) -> None:
    ended = house.run("signal.40", max_attempts=1)
    assert (ended["error"]["code"], "signal 40" in ended["error"]["message"]) == ("worker_lost", True)
    assert value(house, "pid")


def test_a_copy_made_by_fork_does_not_speak_for_its_run(house: Service) -> None:
    pid = value(house, "pid")
    assert value(house, "fork.return") == "parent of 0"
    assert value(house, "fork.raise") == "parent of 1"
    assert value(house, "fork.return.async") == "parent of 0"
    assert value(house, "pid") == pid


def test_a_copy_of_a_shared_process_does_not_go_on_with_its_neighbours(house: Service, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    neighbour = house.submit("note.async", {"path": str(path), "seconds": 0.5})["task_id"]
    eventually(path.exists)
    assert value(house, "fork.return.async") == "parent of 0"
    assert house.ended(neighbour)["result"] == 1
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["start", "end"]


@pytest.mark.parametrize("setsid", [False, True])
def test_orphans_end_with_their_run(house: Service, setsid: bool) -> None:
    assert is_gone(value(house, "orphan", {"setsid": setsid}))
    assert value(house, "zombies") == 0


def test_what_a_task_started_in_another_session_ends_with_its_process(house: Service, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert house.run("orphan.exit", {"path": str(path)}, max_attempts=1)["error"]["code"] == "worker_lost"
    group = int(path.read_text())
    eventually(lambda: members(group) == [])
    eventually(lambda: len(house.children()) == 1)  # no zombie either


def test_threads_that_can_not_be_stopped_retire_their_process_and_nobody_else_waits(
    house: Service, tmp_path: Path
) -> None:
    pid = value(house, "pid.async")
    for number in range(7):
        started = tmp_path / str(number)
        task_id = house.submit("thread.hang", {"path": str(started)}, max_attempts=1, timeout=1)["task_id"]
        eventually(started.exists)
        assert value(house, "thread.quick") == "ok"
        house.post("/api/cancel", {"task_id": task_id})
    eventually(lambda: value(house, "pid.async") != pid)


def test_a_run_that_uses_up_its_threads_leaves_the_others_theirs(house: Service, tmp_path: Path) -> None:
    started = tmp_path / "started"
    task_id = house.submit("thread.many", {"path": str(started)}, max_attempts=1)["task_id"]
    eventually(started.exists)
    assert value(house, "thread.quick") == "ok"
    house.post("/api/cancel", {"task_id": task_id})


def test_a_thread_that_speaks_after_the_end_of_its_run_harms_no_neighbour(new_house: Service, tmp_path: Path) -> None:
    path = tmp_path / "go"
    options = {"word": "neighbour", "then": "hang", "path": str(path)}
    neighbour = new_house.submit("say.async", options, max_attempts=1)["task_id"]
    eventually(lambda: lines(new_house, "printed neighbour"))
    assert new_house.run("thread.speak", max_attempts=1)["error"]["code"] == "timeout"
    eventually(lambda: sum(" pid=" in line for line in lines(new_house, "line=spoken")) > 1)
    path.write_text("")
    assert new_house.ended(neighbour)["status"] == "succeeded"


SAID = ("printed", "complained", "informed", "warned", "advised", "echoed", "failed")


@pytest.mark.parametrize("type", ["say", "say.async"])
def test_what_a_task_says_comes_out_as_it_happens_with_its_run(house: Service, tmp_path: Path, type: str) -> None:
    word, path = f"hello-{type}", tmp_path / "go"
    task_id = house.submit(type, {"word": word, "then": "hang", "path": str(path)})["task_id"]
    for said in SAID:
        (line,) = eventually(lambda said=said: lines(house, f"{said} {word}"))  # type: ignore[misc]
        assert f"task_id={task_id} type={type} attempt=1" in line
    path.write_text("")
    assert house.ended(task_id)["status"] == "succeeded"
    (warned,) = lines(house, f"warned {word}")
    assert " at=warning event=task.log logger=author.jobs " in warned
    assert "logger=py.warnings" in lines(house, f"advised {word}")[0]
    failed = lines(house, f"failed {word}")[0]
    assert " at=error " in failed and "KeyError" in failed


def test_a_run_that_raises_is_one_record_at_error(house: Service) -> None:
    task_id = house.run("divide", {"by": 0}, max_attempts=1)["task_id"]
    (line,) = eventually(lambda: lines(house, "ZeroDivisionError"))
    assert f" at=error event=run.failed task_id={task_id} type=divide attempt=1 code=task_error " in line
    assert "return 1 / by" in line and "runner.py" not in line


def test_what_a_task_has_printed_is_not_lost_with_its_process(house: Service) -> None:
    assert house.run("say", {"word": "farewell", "then": "exit"}, max_attempts=1)["error"]["code"] == "worker_lost"
    assert len(lines(house, "printed farewell")) == 1


def test_what_a_thread_of_a_shared_process_prints_carries_its_run(house: Service) -> None:
    task_id = house.run("say.thread", {"word": "t"})["task_id"]
    assert f"task_id={task_id}" in eventually(lambda: lines(house, "threaded t"))[0]


@pytest.mark.parametrize("type", ["mess", "mess.async"])
def test_a_run_finds_the_process_as_it_was_before_the_last_one(house: Service, tmp_path: Path, type: str) -> None:
    before = value(house, "look")
    value(house, type, {"directory": str(tmp_path)})
    assert value(house, "look") == before


def test_a_process_that_can_not_be_put_back_is_replaced(house: Service) -> None:
    spoiled = value(house, "spoil")
    assert value(house, "pid") != spoiled
    assert "niceness" in lines(house, "child.retired")[-1]


def test_asyncio_tasks_that_are_left_behind_are_cancelled_and_named(house: Service, tmp_path: Path) -> None:
    path = tmp_path / "left"
    task_id = house.run("leave.tasks", {"path": str(path)})["task_id"]
    assert path.read_text() == "cancelled"
    (line,) = eventually(lambda: lines(house, "left-behind"))
    assert f"task_id={task_id}" in line and " at=warning " in line


def test_asyncio_tasks_that_can_not_be_cancelled_retire_their_process(house: Service) -> None:
    assert value(house, "leave.stubborn") != value(house, "pid.async")


def test_the_memory_of_a_child_is_its_own(tmp_path: Path) -> None:
    """The process that starts it has more than half of what makes a child retire."""
    service = Service(tmp_path, {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "TASK_MEMORY_BYTES": str(80 * 2**20)})
    try:
        assert value(service, "pid") == value(service, "pid")
    finally:
        service.kill()


@pytest.mark.parametrize("type", ["clean.up", "clean.up.async"])
def test_sigterm_asks_running_code_to_stop_and_costs_it_no_attempt(tmp_path: Path, type: str) -> None:
    settings = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "DRAIN_SECONDS": "4"}
    service = Service(tmp_path, {**settings, "WORKER_PROCESSES": "0"})
    worker = Worker(tmp_path, settings)
    try:
        path = tmp_path / "note"
        task_id = service.submit(type, {"path": str(path), "seconds": 1.5}, max_attempts=1)["task_id"]
        eventually(path.exists)
        started = time.monotonic()
        worker.terminate()
        assert time.monotonic() - started < 4  # it does not wait for what has ended
        assert path.read_text() == "cleaned up"
        assert (service.result(task_id)["status"], service.result(task_id)["attempt"]) == ("queued", 0)
    finally:
        worker.kill()
        service.kill()


def test_what_ends_within_the_drain_after_sigterm_has_succeeded_in_its_first_run(tmp_path: Path) -> None:
    settings = {"TASK_MODULES": TASKS}
    service = Service(tmp_path, {**settings, "WORKER_PROCESSES": "0"})
    worker = Worker(tmp_path, {**settings, "WORKER_PROCESSES": "1"})
    try:
        path = tmp_path / "note"
        task_id = service.submit("stop.at.leisure", {"path": str(path), "seconds": 1.5}, max_attempts=1)["task_id"]
        eventually(path.exists)
        worker.terminate()
        task = service.result(task_id)
        assert (task["status"], task["result"], task["attempt"]) == ("succeeded", "finished", 1)
    finally:
        worker.kill()
        service.kill()


@pytest.mark.parametrize("reason", ["timeout", "cancelled"])
@pytest.mark.parametrize("type", ["clean.up", "clean.up.async"])
def test_a_run_that_is_stopped_has_a_second_to_clean_up(house: Service, tmp_path: Path, type: str, reason: str) -> None:
    """In one try of three: a busy machine may take the rest of the second for itself."""
    assert any(_cleans_up(house, tmp_path / f"note{number}", type, reason) for number in range(3))


def _cleans_up(house: Service, path: Path, type: str, reason: str) -> bool:
    timeout = 1 if reason == "timeout" else 60
    task = house.submit(type, {"path": str(path), "seconds": 0.7}, timeout=timeout, max_attempts=1)
    eventually(path.exists)
    if reason == "cancelled":
        house.post("/api/cancel", {"task_id": task["task_id"]})
    house.ended(task["task_id"])
    with contextlib.suppress(AssertionError):
        return bool(eventually(lambda: path.read_text() == "cleaned up", 5))
    return False


def test_lines_of_the_log_never_show_a_secret(house: Service) -> None:
    assert not re.search("secret-", house.log.read_text())


def test_the_next_attempt_finds_what_the_last_one_saved(house: Service) -> None:
    task = house.run("count.down", {"until": 3}, max_attempts=5)
    assert (task["status"], task["result"]) == ("succeeded", {"step": 3, "attempt": 3})


def test_a_checkpoint_outlives_a_deploy_and_ends_with_its_task(tmp_path: Path) -> None:
    settings = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1"}
    service = Service(tmp_path, {**settings, "WORKER_PROCESSES": "0"})
    worker = Worker(tmp_path, settings)
    try:
        path = tmp_path / "step"
        task_id = service.submit("count.down", {"until": 9, "path": str(path)})["task_id"]
        eventually(lambda: path.exists() and path.read_text() == "1")
        worker.terminate()
        worker = Worker(tmp_path, settings, name="second")
        eventually(lambda: path.read_text() == "2")
        service.post("/api/cancel", {"task_id": task_id})
        path.write_text("")
        service.post("/api/retry", {"task_id": task_id})
        eventually(lambda: path.read_text() == "1")
    finally:
        worker.kill()
        service.kill()


def test_a_checkpoint_is_json_of_no_more_than_a_result_s_size(house: Service) -> None:
    assert value(house, "checkpoint.bad") == ["TypeError", "ValueError", "ValueError"]
    assert value(house, "pid")


def test_every_failed_attempt_is_kept_with_what_went_wrong(house: Service) -> None:
    task_id = house.submit("divide", {"by": 0}, max_attempts=2)["task_id"]
    task = house.ended(task_id)
    assert [failure["attempt"] for failure in task["failures"]] == [1, 2]
    for failure in task["failures"]:
        assert failure["error"] == task["error"]
        assert failure["traceback"].splitlines()[-1] == "ZeroDivisionError: division by zero"
        assert failure["at"] <= task["finished_at"]
    assert house.ended(house.submit("pid")["task_id"])["failures"] == []


def test_the_operator_sees_every_failed_attempt(house: Service) -> None:
    task_id = house.run("divide", {"by": 0}, max_attempts=1)["task_id"]
    worker = house.post("/health").json()["workers"][0]["id"]
    shown = Process(house.log.parent, "-m", "only_post_svc", "tasks", "show", task_id, env=SECRETS, name="show")
    assert shown.wait(30) == 0
    text = shown.log.read_text()
    assert f" on {worker}: " in text and "attempt 1 failed at " in text and "return 1 / by" in text


def test_in_production_a_caller_sees_no_traceback(tmp_path: Path) -> None:
    env = {"APP_ENV": "production", "TASK_AUTH": "off", "HOST": "127.0.0.1", "SECRET_KEY": "s" * 32}
    service = Service(tmp_path, {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", **env})
    try:
        (failure,) = service.run("divide", {"by": 0}, max_attempts=1)["failures"]
        assert failure.keys() == {"attempt", "at", "error"}
    finally:
        service.kill()


def test_tasks_whose_code_is_gone_are_named_and_others_go_on(tmp_path: Path) -> None:
    service = Service(tmp_path, {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "0"})
    task_id = service.submit("pid")["task_id"]
    service.kill()
    with contextlib.closing(sqlite3.connect(service.file)) as rows, rows:
        rows.execute("UPDATE task SET run_at = run_at - 60000")
    service = Service(tmp_path, {"WORKER_PROCESSES": "1"})
    try:
        assert service.run("text.stats", {"text": "a"})["status"] == "succeeded"
        health = service.post("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        assert "task.type_unknown type=pid queued=1" in service.log.read_text()
        assert service.result(task_id)["status"] == "queued"
    finally:
        service.kill()


def test_health_names_the_types_that_no_code_here_runs(tmp_path: Path) -> None:
    service = Service(tmp_path, {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "0"})
    service.submit("pid")
    service.kill()
    with contextlib.closing(sqlite3.connect(service.file)) as rows, rows:
        rows.execute("UPDATE task SET run_at = run_at - 60000")
    service = Service(tmp_path, {"WORKER_PROCESSES": "1"})

    def unclaimed() -> Any:
        report = service.post("/health").json()
        assert (report["status"], report["queue"]["unknown_types"]) == ("ok", ["pid"])
        return report["queue"].get("unclaimed")

    try:
        assert eventually(unclaimed) == ["pid"]  # once a claim has moved it out of the way
    finally:
        service.kill()
