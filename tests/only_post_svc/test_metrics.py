"""POST /metrics, and `python -m only_post_svc metrics`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests import numbers
from tests.commands import command
from tests.databases import ON_A_FILE, rows
from tests.only_post_svc.answers import problem
from tests.processes import Service, Worker, eventually
from tests.tokens import SECRET, bearer

TOKEN = "a-token-of-the-collector"
PRODUCTION = {"APP_ENV": "production", "HOST": "127.0.0.1", "SECRET_KEY": SECRET, "WORKER_PROCESSES": "0"}


def ask(service: Service, **headers: str) -> requests.Response:
    return service.request("POST", "/metrics", headers=headers)


def shown(service: Service) -> dict[str, float]:
    answer = ask(service)
    assert answer.status_code == 200, answer.text
    return numbers.summed(numbers.read(answer.text), "worker")


def printed(service: Service) -> dict[str, float]:
    """What the command says of the database of a service."""
    done = command(service.log.parent, "only_post_svc", "metrics", **service.env)
    assert (done.returncode, done.stderr) == (0, "")
    return numbers.summed(numbers.read(done.stdout), "worker")


@pytest.fixture
def fresh(start_service: Callable[..., Service]) -> Service:
    return start_service(WORKER_PROCESSES="1", LEASE_SECONDS="3")


@ON_A_FILE
def test_it_is_the_text_format_of_prometheus(service: Service) -> None:
    answer = ask(service)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert numbers.read(answer.text)["only_post_database_up"] == 1


@ON_A_FILE
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_it_is_no_exception_from_post_only(idle: Service, method: str) -> None:
    answer = requests.request(method, f"{idle.url}/metrics", timeout=9)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


@ON_A_FILE
def test_requests_are_counted_by_route_and_status(idle: Service) -> None:
    before = shown(idle)
    idle.post("/api/task", {"type": "echo"})
    idle.post("/api/task", {"type": "nothing of the kind"})
    idle.post("/api/tasks/0190a0b0-secret")
    after = shown(idle)
    for route, status in (("/api/task", 202), ("/api/task", 422), ("-", 404)):
        key = f'http_requests_total{{method="POST",route="{route}",status="{status}"}}'
        assert after[key] == before.get(key, 0) + 1
    for name in ('count{route="/api/task"}', 'bucket{route="/api/task",le="+Inf"}'):
        key = f"http_request_duration_seconds_{name}"
        assert after[key] == before.get(key, 0) + 2
    assert after['http_request_duration_seconds_sum{route="/api/task"}'] > 0
    assert "secret" not in str(after)


@ON_A_FILE
def test_a_method_that_a_caller_made_up_makes_no_series(idle: Service) -> None:
    key = 'http_requests_total{method="-",route="-",status="405"}'
    before = shown(idle).get(key, 0)
    requests.request("PROPFIND", f"{idle.url}/api/task", timeout=9)  # one that the parser knows
    requests.request("HUNTER", f"{idle.url}/api/task", timeout=9)  # one that it refuses itself
    after = shown(idle)
    assert after[key] == before + 2
    assert not any("PROPFIND" in key or "HUNTER" in key for key in after)


def test_the_queue_is_shown_as_it_is(start_service: Callable[..., Service]) -> None:
    service = start_service(WORKER_PROCESSES="0")
    service.post("/api/batch", {"tasks": [{"type": "echo"}, {"type": "echo"}, {"type": "echo", "delay": 3600}]})
    rows(service, "UPDATE task SET run_at = run_at - 60000 WHERE status = 'queued'")
    seen = shown(service)
    assert (seen['only_post_tasks{state="queued"}'], seen['only_post_tasks{state="scheduled"}']) == (2, 1)
    assert seen['only_post_tasks{state="running"}'] == 0
    assert 60 <= seen["only_post_oldest_queued_seconds"] < 90
    assert seen["only_post_workers"] == 0


def test_what_happens_to_tasks_is_counted_by_type(fresh: Service, tmp_path: Path) -> None:
    fresh.run("echo")
    fresh.run("echo")
    fresh.run("raise", {"message": "no"}, max_attempts=1)
    gate = tmp_path / "gate"
    cancelled = fresh.submit("gate", {"path": str(gate)})["task_id"]
    eventually(gate.exists)  # a worker that has not begun it yet hears of its end when it renews the lease
    fresh.post("/api/cancel", {"task_id": cancelled})
    expected = {
        'only_post_tasks_submitted_total{type="echo"}': 2,
        'only_post_runs_ended_total{type="echo",outcome="succeeded"}': 2,
        'only_post_runs_ended_total{type="raise",outcome="task_error"}': 1,
        'only_post_runs_ended_total{type="gate",outcome="cancelled"}': 1,
        "only_post_leases_lost_total": 0,
    }
    eventually(lambda: expected.items() <= shown(fresh).items())
    assert not any("retried_total{" in key for key in shown(fresh))


def test_a_failure_with_another_try_to_come_is_a_retry(fresh: Service) -> None:
    fresh.run("raise", {"message": "no"}, max_attempts=2)
    expected = {
        'only_post_runs_ended_total{type="raise",outcome="task_error"}': 2,
        'only_post_runs_retried_total{type="raise"}': 1,
    }
    eventually(lambda: expected.items() <= shown(fresh).items())


def test_a_replayed_submit_is_not_counted_again(fresh: Service) -> None:
    for _ in range(3):
        fresh.post("/api/task", {"type": "echo"}, headers={"Idempotency-Key": "once"})
    fresh.submit("sleep", {"seconds": 0})
    eventually(lambda: shown(fresh).get('only_post_tasks_submitted_total{type="sleep"}') == 1)
    assert shown(fresh)['only_post_tasks_submitted_total{type="echo"}'] == 1


def test_each_worker_is_a_series_of_its_own_and_ends_with_it(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker]
) -> None:
    """A worker has no port to be asked on."""
    service = start_service(WORKER_PROCESSES="0", LEASE_SECONDS="3")
    worker = start_worker(WORKER_PROCESSES="1", LEASE_SECONDS="3")
    service.run("echo")
    # /health may give an answer from before the worker came.
    worker_id = eventually(
        lambda: [one["id"] for one in service.post("/health").json()["workers"] if one["processes"]]
    )[0]
    key = f'only_post_runs_ended_total{{worker="{worker_id}",type="echo",outcome="succeeded"}}'
    eventually(lambda: numbers.read(ask(service).text).get(key) == 1)
    assert worker.terminate() == 0
    assert key not in numbers.read(ask(service).text)


def test_a_lease_that_ran_out_is_counted(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker]
) -> None:
    service = start_service(WORKER_PROCESSES="0", LEASE_SECONDS="1")
    worker = start_worker(WORKER_PROCESSES="1", LEASE_SECONDS="1")
    task_id = service.submit("sleep", {"seconds": 600})["task_id"]
    eventually(lambda: service.result(task_id)["status"] == "running")
    worker.kill()
    eventually(lambda: shown(service)["only_post_leases_lost_total"] == 1, 20)


def test_the_command_prints_what_the_database_knows_and_nothing_of_a_process(fresh: Service) -> None:
    fresh.run("echo")
    eventually(lambda: 'only_post_tasks_submitted_total{type="echo"}' in shown(fresh))
    seen = printed(fresh)
    assert seen['only_post_tasks{state="queued"}'] == 0
    assert seen['only_post_tasks_submitted_total{type="echo"}'] == 1
    assert not any(key.startswith("http_") for key in seen)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("guarded"), {**PRODUCTION, "METRICS_TOKEN": TOKEN})
    yield service
    service.kill()


def test_the_collector_shows_its_token(guarded: Service) -> None:
    assert ask(guarded, Authorization=f"Bearer {TOKEN}").status_code == 200
    problem(ask(guarded), 401, "unauthorized")
    assert ask(guarded).headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("sent", [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", f"Basic {TOKEN}", "Bearer ä"])
def test_another_token_is_a_bad_one(guarded: Service, sent: str) -> None:
    problem(ask(guarded, Authorization=sent), 401, "invalid_token")


def test_a_token_of_a_user_opens_nothing(guarded: Service) -> None:
    problem(ask(guarded, **bearer()), 401, "invalid_token")


def test_the_token_is_in_no_log(guarded: Service) -> None:
    ask(guarded, Authorization=f"Bearer {TOKEN}")
    assert TOKEN not in guarded.log.read_text()


@ON_A_FILE
def test_production_shows_nothing_until_a_token_is_set(start_service: Callable[..., Service]) -> None:
    service = start_service(**PRODUCTION)
    problem(ask(service), 403, "metrics_closed")
    problem(ask(service, Authorization="Bearer "), 403, "metrics_closed")
