"""POST /api/task and /api/batch."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.databases import ON_A_FILE, settings_of
from tests.only_post_svc.answers import faults, problem
from tests.processes import Service, eventually

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
STATS = {"type": "text.stats", "payload": {"text": "one two"}}
LATER = {"type": "echo", "delay": 3600}  # stays queued, and out of every other test's way


def post(service: Service, **body: Any) -> requests.Response:
    return service.post("/api/task", body)


def keyed(service: Service, key: str, body: Any, path: str = "/api/task") -> requests.Response:
    return service.request("POST", path, json=body, headers={"Idempotency-Key": key}, timeout=60)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_task_is_accepted_with_202_and_described_in_full(service: Service) -> None:
    answer = service.post("/api/task", STATS)
    task = answer.json()
    assert answer.status_code == 202
    assert ID.fullmatch(task.pop("task_id"))
    created_at = task.pop("created_at")
    assert TIME.fullmatch(created_at)
    assert task == {
        "type": "text.stats",
        "status": "queued",
        "result": None,
        "error": None,
        "progress": None,
        "attempt": 0,
        "max_attempts": 3,
        "priority": 0,
        "run_at": created_at,
        "started_at": None,
        "finished_at": None,
    }


def test_options_may_be_spelled_out_as_the_contract_shows_them(service: Service) -> None:
    answer = post(service, **STATS, delay=0, run_at=None, priority=0, timeout=30, max_attempts=3, wait=0)
    assert answer.status_code == 202


def test_payload_is_empty_when_left_out(service: Service) -> None:
    assert post(service, type="echo", wait=20).json()["result"] == {}


@pytest.mark.parametrize(
    "payload",
    [
        {"n": 9007199254740993},
        {"n": 123456789012345678901234567890},
        {"n": [1.5, 1e-7, -3]},
        {"text": "ünï → 🙂 \\u0000 \u2028", "": None, "a/b~c": {"context": True}},
        {"return": 5, "payload": {"x": 1}, "self": [], "context": {"task_id": "mine"}},
    ],
)
def test_any_payload_comes_back_from_echo_unchanged(service: Service, payload: Any) -> None:
    assert service.run("echo", payload)["result"] == payload


def test_negative_zero_keeps_its_sign(service: Service) -> None:
    answer = post(service, type="echo", payload={"n": -0.0}, wait=20)
    assert '"result":{"n":-0.0}' in answer.text


def test_delay_sets_run_at(service: Service) -> None:
    task = post(service, **LATER).json()
    assert moment(task["run_at"]) - moment(task["created_at"]) == timedelta(hours=1)
    assert task["status"] == "queued"


def test_run_at_is_kept_in_utc(service: Service) -> None:
    task = post(service, type="echo", run_at="2100-01-01T02:00:00.25+02:00").json()
    assert task["run_at"] == "2100-01-01T00:00:00.250Z"


def test_run_at_in_the_past_means_now_and_jumps_no_queue(service: Service) -> None:
    answer = post(service, type="echo", run_at="0900-01-01T00:00:00Z", wait=20)
    assert answer.status_code == 200
    assert answer.json()["run_at"] == answer.json()["created_at"]


def test_a_delayed_task_runs_when_it_is_due_and_not_before(service: Service) -> None:
    task = service.run("echo", {}, delay=0.4)
    late = moment(task["started_at"]) - moment(task["run_at"])
    assert timedelta(0) <= late < timedelta(seconds=2)


def test_the_longest_delay_is_thirty_days(service: Service) -> None:
    assert post(service, type="echo", delay=30 * 86400).status_code == 202
    assert faults(post(service, type="echo", delay=30 * 86400 + 1)).keys() == {"/delay"}


def test_higher_priority_runs_first_then_who_came_first(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service(WORKER_PROCESSES="1")
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    holder = service.submit("progress", {"path": str(gate)})  # a `def` task: the only child is busy
    while service.result(holder["task_id"])["status"] != "running":
        pass
    order = [("low", -100), ("first", 0), ("second", 0), ("high", 100)]
    ids = [service.submit("note", {"path": str(notes), "text": text}, priority=p)["task_id"] for text, p in order]
    gate.touch()
    for task_id in ids:
        service.ended(task_id)
    started = [line.split()[3] for line in notes.read_text().splitlines() if line.startswith("start")]
    assert started == ["high", "first", "second", "low"]


def test_the_tasks_own_timeout_may_be_shortened(service: Service) -> None:
    task = service.run("note", {"path": "/dev/null", "seconds": 20}, timeout=1, max_attempts=1)
    assert task["error"] == {"code": "timeout", "type": None, "message": "stopped after 1 seconds"}


REFUSED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"/type"}),
    ({"type": "no.such"}, {"/type"}),
    ({"type": None}, {"/type"}),
    ({"type": 1}, {"/type"}),
    ({"type": "Text.Stats", "payload": {"text": ""}}, {"/type"}),
    ({"type": "text.stats"}, {"/payload/text"}),
    ({"type": "text.stats", "payload": {}}, {"/payload/text"}),
    ({"type": "text.stats", "payload": {"text": 5}}, {"/payload/text"}),
    ({"type": "text.stats", "payload": {"text": None}}, {"/payload/text"}),
    ({"type": "text.stats", "payload": {"text": "", "other": 1}}, {"/payload/other"}),
    ({"type": "text.stats", "payload": {"text": "", "top": -1}}, {"/payload/top"}),
    ({"type": "text.stats", "payload": {"text": "", "top": 1.5}}, {"/payload/top"}),
    ({"type": "text.stats", "payload": {"text": "", "top": True}}, {"/payload/top"}),
    (
        {"type": "text.stats", "payload": {"top": "x", "a/b~c": 1}},
        {"/payload/text", "/payload/top", "/payload/a~1b~0c"},
    ),
    ({"type": "echo", "payload": []}, {"/payload"}),
    ({"type": "echo", "payload": None}, {"/payload"}),
    ({"type": "shapes", "payload": {"count": 1, "mode": "slowest"}}, {"/payload/mode"}),
    ({"type": "shapes", "payload": {"count": 1, "name": 1}}, {"/payload/name"}),
    ({"type": "shapes", "payload": {"count": 1, "ratio": "1"}}, {"/payload/ratio"}),
    ({"type": "shapes", "payload": {"count": 1, "tags": ["a", 2]}}, {"/payload/tags/1"}),
    ({"type": "shapes", "payload": {"count": 1, "weights": {"a": "b"}}}, {"/payload/weights/a"}),
    ({"type": "shapes", "payload": {"count": 1, "points": [{"x": 1}, {"y": 2}]}}, {"/payload/points/1/x"}),
    ({"type": "shapes", "payload": {"count": 1, "points": [{"x": 1, "z": 2}]}}, {"/payload/points/0/z"}),
    ({"type": "shapes", "payload": {"count": 1, "context": {}}}, {"/payload/context"}),
    ({**STATS, "surplus": 1}, {"/surplus"}),
    ({**STATS, "task_id": "mine"}, {"/task_id"}),
    ({**STATS, "delay": -1}, {"/delay"}),
    ({**STATS, "delay": "1"}, {"/delay"}),
    ({**STATS, "delay": None}, {"/delay"}),
    ({**STATS, "delay": 1, "run_at": "2100-01-01T00:00:00Z"}, {"/run_at"}),
    ({**STATS, "run_at": "tomorrow"}, {"/run_at"}),
    ({**STATS, "run_at": "2100-01-01"}, {"/run_at"}),
    ({**STATS, "run_at": "2100-01-01T00:00:00"}, {"/run_at"}),
    ({**STATS, "run_at": "2100-02-30T00:00:00Z"}, {"/run_at"}),
    ({**STATS, "run_at": "0001-01-01T00:00:00+23:59"}, {"/run_at"}),
    ({**STATS, "run_at": "9999-12-31T23:59:59-23:59"}, {"/run_at"}),
    ({**STATS, "run_at": 4102444800}, {"/run_at"}),
    ({**STATS, "priority": 101}, {"/priority"}),
    ({**STATS, "priority": -101}, {"/priority"}),
    ({**STATS, "priority": 0.5}, {"/priority"}),
    ({**STATS, "timeout": 31}, {"/timeout"}),
    ({**STATS, "timeout": 0.999}, {"/timeout"}),
    ({**STATS, "timeout": 10**400}, {"/timeout"}),
    ({**STATS, "max_attempts": 0}, {"/max_attempts"}),
    ({**STATS, "max_attempts": 26}, {"/max_attempts"}),
    ({**STATS, "wait": 25.1}, {"/wait"}),
    ({**STATS, "wait": -1}, {"/wait"}),
    ({"type": 1, "wait": "x", "surplus": 0}, {"/type", "/wait", "/surplus"}),
]


@pytest.mark.parametrize(("body", "pointers"), REFUSED, ids=[str(body)[:60] for body, _ in REFUSED])
def test_a_task_of_the_wrong_shape_is_refused_where_it_is_wrong(
    service: Service, body: dict[str, Any], pointers: set[str]
) -> None:
    assert faults(service.post("/api/task", body)).keys() == pointers


def test_limits_themselves_are_accepted(service: Service) -> None:
    assert post(service, **LATER, priority=100, timeout=30, max_attempts=25).status_code == 202
    assert post(service, **LATER, priority=-100, timeout=1, max_attempts=1).status_code == 202


def test_wait_answers_200_with_the_finished_task(service: Service) -> None:
    answer = post(service, **STATS, wait=20)
    assert answer.status_code == 200
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["result"]["words"] == 2


def test_wait_answers_200_for_a_task_that_failed(service: Service) -> None:
    answer = post(service, type="fail", wait=20)
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")


def test_wait_answers_202_when_the_time_is_up_first(service: Service) -> None:
    started = time.monotonic()
    answer = post(service, **LATER, wait=0.4)
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    assert 0.4 <= time.monotonic() - started < 2


@pytest.fixture(scope="module")
def small_queue(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with settings_of(storage) as database:
        service = Service(tmp_path_factory.mktemp("small"), {"MAX_QUEUED": "3", "WORKER_PROCESSES": "0", **database})
        yield service
        service.kill()


def waiting(service: Service) -> int:
    items = service.post("/api/tasks", {"status": "queued"}).json()["items"]
    return len(items)


def test_a_full_queue_refuses_with_503_and_retry_after_and_keeps_no_key(small_queue: Service) -> None:
    over = keyed(small_queue, "batch-of-four", {"tasks": [{"type": "echo"}] * 4}, "/api/batch")
    problem(over, 503, "queue_full")
    assert waiting(small_queue) == 0
    for body in ({"type": "echo"}, LATER, {"type": "echo"}):
        assert small_queue.post("/api/task", body).status_code == 202
    refused = keyed(small_queue, "one-more", {"type": "echo"})
    problem(refused, 503, "queue_full")
    assert int(refused.headers["Retry-After"]) >= 1
    cancelled = small_queue.post("/api/tasks", {}).json()["items"][0]["task_id"]
    assert small_queue.post("/api/cancel", {"task_id": cancelled}).status_code == 200
    # It is counted again once that pays: soon, on a machine that is not busy.
    again = eventually(
        lambda: (answer := keyed(small_queue, "one-more", {"type": "echo"})).status_code == 202 and answer
    )
    assert "Idempotency-Replayed" not in again.headers
    assert waiting(small_queue) == 3


def batch(service: Service, tasks: Any, **more: Any) -> requests.Response:
    return service.post("/api/batch", {"tasks": tasks, **more})


def test_a_batch_is_answered_in_its_own_order(service: Service) -> None:
    answer = batch(service, [{"type": "echo", "payload": {"n": n}} for n in range(20)])
    assert answer.status_code == 202
    results = [service.ended(item["task_id"])["result"]["n"] for item in answer.json()["items"]]
    assert results == list(range(20))


def test_a_thousand_tasks_fit_in_a_batch(service: Service) -> None:
    items = batch(service, [LATER] * 1000).json()["items"]
    assert len({item["task_id"] for item in items}) == 1000
    assert service.result(items[-1]["task_id"])["status"] == "queued"


@pytest.mark.parametrize("tasks", [[LATER] * 1001, [], {}, None, "x"], ids=["1001", "none", "object", "null", "text"])
def test_a_batch_of_another_size_or_kind_is_refused(service: Service, tasks: Any) -> None:
    assert faults(batch(service, tasks)).keys() == {"/tasks"}


def test_a_batch_is_refused_as_a_whole_with_every_fault(service: Service) -> None:
    marker = {"type": "echo", "payload": {"marker": "all or none"}, "delay": 3600}
    newest = service.post("/api/tasks", {"limit": 1}).json()["items"]
    bad = [marker, {"type": "no.such"}, marker, {"type": "text.stats", "payload": {"text": 5}, "delay": -1}, marker]
    assert faults(batch(service, bad)).keys() == {"/tasks/1/type", "/tasks/3/delay", "/tasks/3/payload/text"}
    assert service.post("/api/tasks", {"limit": 1}).json()["items"] == newest


def test_all_faults_of_a_batch_are_told_beside_entries_that_are_no_objects(service: Service) -> None:
    refused = batch(service, [LATER, 5, {"type": "no.such"}, None], wait=1)
    assert faults(refused).keys() == {"/wait", "/tasks/1", "/tasks/2/type", "/tasks/3"}


@pytest.mark.parametrize(
    ("tasks", "pointer"), [([LATER, 5], "/tasks/1"), ([LATER, {**LATER, "wait": 1}], "/tasks/1/wait")]
)
def test_an_entry_of_a_batch_is_a_task_without_wait(service: Service, tasks: Any, pointer: str) -> None:
    assert faults(batch(service, tasks)).keys() == {pointer}


def test_wait_and_other_members_beside_the_tasks_are_refused(service: Service) -> None:
    assert faults(batch(service, [LATER], wait=1)).keys() == {"/wait"}


def test_the_same_key_and_body_replay_the_first_answer(service: Service) -> None:
    first, second = keyed(service, "replay", LATER), keyed(service, "replay", LATER)
    assert (first.status_code, second.status_code) == (202, 202)
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.content == first.content


def test_the_order_of_members_makes_no_other_body(service: Service) -> None:
    first = keyed(service, "order", {"type": "echo", "delay": 3600})
    assert keyed(service, "order", {"delay": 3600, "type": "echo"}).content == first.content


def test_a_replay_stays_the_same_after_the_task_has_ended(service: Service) -> None:
    first = keyed(service, "ended", STATS)
    service.ended(first.json()["task_id"])
    assert keyed(service, "ended", STATS).content == first.content


def test_a_key_with_another_body_is_refused(service: Service) -> None:
    keyed(service, "reused", LATER)
    problem(keyed(service, "reused", {**LATER, "priority": 1}), 422, "idempotency_key_reused")


def test_twenty_that_race_with_one_key_make_one_task(service: Service) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: keyed(service, "race", {**LATER, "priority": 7}), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19


def test_a_key_with_wait_replays_the_same_finished_task(service: Service) -> None:
    first, second = (keyed(service, "wait", {**STATS, "wait": 20}) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.content == first.content


def test_a_key_on_a_batch_replays_the_same_tasks(service: Service) -> None:
    first, second = (keyed(service, "batch", {"tasks": [LATER, LATER]}, "/api/batch") for _ in range(2))
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.content == first.content


def test_a_key_is_of_one_route(service: Service) -> None:
    keyed(service, "route", LATER)
    other = keyed(service, "route", {"tasks": [LATER]}, "/api/batch")
    assert other.status_code == 202
    assert "Idempotency-Replayed" not in other.headers


def test_a_quoted_key_is_the_same_as_a_bare_one(service: Service) -> None:
    first = keyed(service, '"quoted"', LATER)
    assert keyed(service, "quoted", LATER).content == first.content


def test_a_refused_request_keeps_no_key(service: Service) -> None:
    problem(keyed(service, "refused", {"type": "no.such"}), 422, "invalid_request")
    assert keyed(service, "refused", LATER).status_code == 202


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, "\xe9"], ids=["empty", "quotes", "space", "long", "latin"])
def test_a_malformed_key_is_refused(service: Service, key: str) -> None:
    problem(keyed(service, key.encode("latin-1"), LATER), 400, "invalid_idempotency_key")  # type: ignore[arg-type]


def test_keys_and_tasks_survive_a_restart(start_service: Callable[..., Service]) -> None:
    service = start_service(WORKER_PROCESSES="0")
    first = keyed(service, "restart", LATER)
    service.kill()
    restarted = start_service(WORKER_PROCESSES="0")
    again = keyed(restarted, "restart", LATER)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.content == first.content
    assert restarted.result(first.json()["task_id"])["status"] == "queued"


@ON_A_FILE
def test_requests_above_the_rate_limit_are_refused_until_it_refills(start_service: Callable[..., Service]) -> None:
    service = start_service(RATE_LIMITS="other=20/hour", WORKER_PROCESSES="0")  # /health counts, too
    codes = [post(service, **LATER).status_code for _ in range(21)]
    assert codes == sorted(codes) and set(codes) == {202, 429}
    refused = service.post("/api/tasks")
    problem(refused, 429, "rate_limited")
    assert 0 < int(refused.headers["Retry-After"]) <= 180


def test_times_are_utc_with_milliseconds(service: Service) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    created_at = post(service, **LATER).json()["created_at"]
    assert before <= moment(created_at) <= datetime.now(UTC)


def test_the_last_moment_of_the_year_9999_is_a_time_like_any_other(service: Service) -> None:
    answer = post(service, type="echo", run_at="9999-12-31T23:59:59.999999Z")
    assert (answer.status_code, answer.json()["run_at"]) == (202, "9999-12-31T23:59:59.999Z")
    service.post("/api/cancel", {"task_id": answer.json()["task_id"]})


def test_the_faults_of_a_payload_are_told_beside_those_of_the_request(service: Service) -> None:
    wrong = {"type": "text.stats", "payload": {"txt": 1}, "priority": 1000}
    found = faults(service.post("/api/task", wrong)).keys()
    assert found == {"/priority", "/payload/text", "/payload/txt"}
    assert faults(batch(service, [LATER, wrong])).keys() == {f"/tasks/1{pointer}" for pointer in found}


ALL_WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({"type": "no.such", "run_at": "soon", "delay": -1}, {"/type", "/run_at", "/delay"}),
    (
        {"type": "echo", "timeout": 1e9, "replace": True, "notify": "x", "q": 1},
        {"/timeout", "/replace", "/notify", "/q"},
    ),
    ({"payload": 5, "replace": True, "timeout": True}, {"/type", "/payload", "/replace", "/timeout"}),
    ({"type": ["echo"], "run_at": "soon", "delay": 5}, {"/type", "/run_at"}),
    ({"type": "text.stats", "payload": None, "unique": "", "replace": True}, {"/payload", "/unique"}),
]


@pytest.mark.parametrize(("wrong", "pointers"), ALL_WRONG)
def test_all_that_is_wrong_with_a_task_is_told(service: Service, wrong: dict[str, Any], pointers: set[str]) -> None:
    assert faults(service.post("/api/task", wrong)).keys() == pointers
    assert faults(batch(service, [LATER, wrong])).keys() == {f"/tasks/1{pointer}" for pointer in pointers}
