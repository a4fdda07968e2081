"""What becomes of a run: results, retries, failures, progress."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from only_post_svc.queue import MAX_BACKOFF_SECONDS, backoff_seconds
from tests.databases import ON_A_FILE, settings_of
from tests.processes import Service, eventually

ODD_TASKS = '''
import asyncio, json, math, os, sys
from only_post_svc import Context, Fail, Retry, task
from only_post_svc.worker.frames import pack

@task("far")
def far() -> None:
    raise Retry("much later", after=math.inf)

@task("nonsense")
async def nonsense() -> None:
    raise Retry("soon", after="soon")

@task("progress.fail")
async def progress_fail(context: Context) -> None:
    context.progress(0.25, "a quarter")
    raise Fail("then it broke")

@task("progress.bad")
def progress_bad(context: Context) -> None:
    context.progress(1.5)

@task("long.message")
def long_message() -> None:
    raise ValueError("x" * 100_000 + "\\ud800\\x00")

@task("forge", timeout=20)
def forge(error: dict | None = None, retry_after: str | None = None) -> None:
    """End its own run with a frame of its own making."""
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    end = {"end": frame.f_locals["message"]["run"], "error": error, "can_retry": True, "retry_after": retry_after,
           "progress": None, "rss_bytes": 0}
    os.write(json.loads(sys.argv[1])["socket"], pack(end, b"\\xff"))
    os._exit(0)
'''


@pytest.fixture(scope="module")
def odd(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("odd")
    (directory / "odd.py").write_text(ODD_TASKS)
    settings = {"TASK_MODULES": "odd", "WORKER_PROCESSES": "1", "LEASE_SECONDS": "1"}
    with settings_of(storage) as database:
        service = Service(directory, settings | database)
        yield service
        service.kill()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_task_that_raised_waits_for_its_next_attempt_with_the_error_shown(service: Service) -> None:
    task_id = service.submit("raise", {"message": "broken"}, max_attempts=2)["task_id"]
    waiting = eventually(lambda: (task := service.result(task_id))["error"] and task)
    assert (waiting["status"], waiting["attempt"]) == ("queued", 1)
    assert waiting["error"] == {"code": "task_error", "type": "ValueError", "message": "broken"}
    assert waiting["finished_at"] is None
    pause = moment(waiting["run_at"]) - moment(waiting["started_at"])
    assert timedelta(seconds=0.5) <= pause <= timedelta(seconds=2.5)
    ended = service.ended(task_id)
    assert (ended["status"], ended["attempt"], ended["max_attempts"]) == ("failed", 2, 2)
    assert ended["started_at"] >= waiting["run_at"]


def test_retries_wait_longer_each_time_up_to_a_limit() -> None:
    for attempt in range(1, 26):
        usual = min(MAX_BACKOFF_SECONDS, 2.0 ** (attempt - 1))
        assert all(0.5 * usual <= backoff_seconds(attempt) <= 1.5 * usual for _ in range(20))


def test_retries_are_spread() -> None:
    assert len({backoff_seconds(3) for _ in range(20)}) > 10


def test_retry_names_its_own_pause(service: Service) -> None:
    task_id = service.submit("retry", {"until": 2, "after": 3000})["task_id"]
    waiting = eventually(lambda: (task := service.result(task_id))["error"] and task)
    pause = moment(waiting["run_at"]) - moment(waiting["started_at"])
    assert timedelta(seconds=3000) <= pause < timedelta(seconds=3005)
    assert waiting["error"] == {"code": "task_error", "type": "Retry", "message": "not yet"}


def test_a_task_that_succeeds_at_last_shows_no_error(service: Service) -> None:
    ended = service.run("retry", {"until": 3}, max_attempts=3)
    assert (ended["status"], ended["result"], ended["attempt"], ended["error"]) == ("succeeded", 3, 3, None)


def test_retry_gets_no_more_attempts_than_there_are(service: Service) -> None:
    ended = service.run("retry", {"until": 9}, max_attempts=3)
    assert (ended["status"], ended["attempt"], ended["error"]["type"]) == ("failed", 3, "Retry")


def test_a_retry_in_all_eternity_is_put_off_for_thirty_days_at_most(odd: Service) -> None:
    task_id = odd.submit("far")["task_id"]
    waiting = eventually(lambda: (task := odd.result(task_id))["error"] and task)
    assert waiting["status"] == "queued"
    assert timedelta(days=29) < moment(waiting["run_at"]) - moment(waiting["created_at"]) <= timedelta(days=31)


def test_a_retry_of_no_duration_is_the_tasks_own_error(odd: Service) -> None:
    ended = odd.run("nonsense", {}, max_attempts=1)
    assert (ended["error"]["code"], ended["error"]["type"]) == ("task_error", "ValueError")


def test_fail_ends_a_task_without_another_attempt(service: Service) -> None:
    ended = service.run("fail", {"message": "why"}, max_attempts=9)
    assert (ended["status"], ended["attempt"]) == ("failed", 1)
    assert ended["error"] == {"code": "task_error", "type": "Fail", "message": "why"}


def test_a_timeout_is_tried_again_too(service: Service) -> None:
    task_id = service.submit("zoo.spin", timeout=1, max_attempts=2)["task_id"]
    waiting = eventually(lambda: (task := service.result(task_id))["error"] and task)
    assert (waiting["status"], waiting["attempt"]) == ("queued", 1)
    assert waiting["error"]["code"] == "timeout"
    ended = service.ended(task_id)
    assert (ended["status"], ended["attempt"], ended["error"]["code"]) == ("failed", 2, "timeout")


@pytest.mark.parametrize(
    ("type", "code"),
    [
        ("zoo.unserialisable", "invalid_result"),
        ("zoo.nan", "invalid_result"),
        ("zoo.surrogate", "invalid_result"),
        ("zoo.circular", "invalid_result"),
        ("zoo.huge", "result_too_large"),
    ],
)
def test_a_result_that_can_not_be_stored_fails_the_task_at_once(service: Service, type: str, code: str) -> None:
    ended = service.run(type, max_attempts=3)
    assert (ended["status"], ended["attempt"], ended["result"]) == ("failed", 1, None)
    assert ended["error"]["code"] == code


def test_a_result_is_as_large_as_a_body_may_be(start_service: Callable[..., Service]) -> None:
    service = start_service(MAX_BODY_BYTES="2048", WORKER_PROCESSES="1")
    assert service.run("echo", {"x": "y" * 1900})["status"] == "succeeded"
    text = "".join(f"{number}\n" for number in range(300))  # each line a word of the result
    ended = service.run("text.stats", {"text": text, "top": 1000})
    assert ended["error"]["code"] == "result_too_large"


def test_a_def_may_run_an_event_loop_of_its_own(service: Service) -> None:
    assert service.run("asyncio.run")["result"] == "inner"


@ON_A_FILE
def test_a_def_may_run_an_event_loop_after_async_tasks_in_the_same_process(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(WORKER_PROCESSES="1")
    for _ in range(2):
        assert service.run("echo", {"n": 1})["result"] == {"n": 1}
        assert service.run("asyncio.run")["result"] == "inner"


def test_the_last_progress_is_kept_when_a_task_fails(odd: Service) -> None:
    ended = odd.run("progress.fail")
    assert ended["status"] == "failed"
    assert ended["progress"] == {"fraction": 0.25, "message": "a quarter"}


def test_progress_above_one_is_the_tasks_own_error(odd: Service) -> None:
    ended = odd.run("progress.bad", max_attempts=1)
    assert (ended["error"]["type"], ended["progress"]) == ("ValueError", None)


def test_a_new_attempt_begins_without_progress(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = service.submit("progress", {"path": str(gate)}, timeout=1, max_attempts=1)["task_id"]
    assert service.ended(task_id)["progress"] == {"fraction": 0.5, "message": "half"}
    assert service.post("/api/retry", {"task_id": task_id}).json()["progress"] is None
    gate.touch()
    assert service.ended(task_id)["progress"]["fraction"] == 1.0


def test_a_long_message_is_cut_and_cleaned(odd: Service) -> None:
    message = odd.run("long.message", max_attempts=1)["error"]["message"]
    assert 1000 < len(message) < 5000
    assert set(message) <= {"x", "…", "."}


FORGED_RETRY = {"error": {"code": "task_error", "type": None, "message": ""}, "retry_after": "soon"}


@pytest.mark.parametrize(
    ("payload", "attempt", "code"),
    [({}, 1, "invalid_result"), (FORGED_RETRY, 2, "worker_lost")],
    ids=["a result that is no text", "a pause that is no number"],
)
def test_a_run_that_forges_its_ending_ends_all_the_same(odd: Service, payload: Any, attempt: int, code: str) -> None:
    ended = odd.ended(odd.submit("forge", payload, max_attempts=attempt)["task_id"], seconds=15)
    assert (ended["status"], ended["attempt"], ended["error"]["code"]) == ("failed", attempt, code)
    assert odd.run("progress.fail")["error"]["type"] == "Fail"
