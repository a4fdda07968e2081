"""The database is away for a while: whoever asks is told so, nothing is lost, and all goes on by itself."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.chaos.traces import lines
from tests.postgres import Cluster, new_cluster, new_database
from tests.processes import TASKS, HTTPService, Service, TokenService, eventually
from tests.proxy import Proxy, proxied
from tests.token_svc.users import PASSWORD, User, form_of, operate

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "3"))
HANG_SECONDS = 10  # it should be two; a machine under load is slower, and what hangs takes for ever
PAUSE_SECONDS = 0.2
BACK_SECONDS = 30


class Outage(NamedTuple):
    url: str
    begin: Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """Every connection is closed, and refused from now on."""
    cluster.stop()
    try:
        yield
    finally:
        cluster.start()


@contextlib.contextmanager
def swallowed(proxy: Proxy) -> Iterator[None]:
    """Nothing is refused, and nothing answers."""
    proxy.swallow()
    try:
        yield
    finally:
        proxy.heal()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = new_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(params=["stopped", "silent"])
def outage(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Outage]:
    with new_database(cluster.url) as url, proxied(url) as proxy:
        if request.param == "stopped":
            yield Outage(url, lambda: stopped(cluster))
        else:
            yield Outage(proxy.url, lambda: swallowed(proxy))


@contextlib.contextmanager
def running(service: HTTPService) -> Iterator[HTTPService]:
    try:
        yield service
    finally:
        service.kill()


class Call(NamedTuple):
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012

    def send(self, service: HTTPService) -> requests.Response:
        url = f"{service.url}{self.path}"
        return requests.request(self.method, url, json=self.body, headers=self.headers, timeout=HANG_SECONDS)


def send_until(call: Call, service: HTTPService, end: float) -> list[requests.Response]:
    answers = []
    while time.monotonic() < end:
        answers.append(call.send(service))
        time.sleep(PAUSE_SECONDS)
    return answers


def check_told(service: HTTPService, calls: list[Call]) -> None:
    """Each of them gets an answer, and the right one, as often as it is sent until the outage is over."""
    health = Call(service.health_method, "/health")
    eventually(lambda: health.send(service).status_code == 503)  # what it has just found out it says for a moment
    end = time.monotonic() + OUTAGE_SECONDS
    with ThreadPoolExecutor(len(calls)) as pool:
        sent = [pool.submit(send_until, call, service, end) for call in calls]
    for call, answers in zip(calls, (each.result() for each in sent), strict=True):
        slowest = max(answer.elapsed.total_seconds() for answer in answers)
        print(f"{call.method} {call.path}: {len(answers)} answers, the slowest after {slowest:.2f} s")
        for answer in answers:
            check_unavailable(answer)


def check_unavailable(answer: requests.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    body = answer.json()
    if answer.url.endswith("/health"):
        assert (body["status"], body["database"]["status"]) == ("degraded", "unavailable")
    else:
        assert (body["status"], body["code"]) == (503, "database_unavailable")


def check_back(service: HTTPService, calls: list[Call]) -> None:
    """Each does what it always did, in the same process."""
    since = time.monotonic()
    for call in calls:
        eventually(lambda call=call: call.send(service).ok, BACK_SECONDS)  # type: ignore[misc]
    print(f"all was well {time.monotonic() - since:.1f} s after it was back")
    assert service.is_running


def test_the_post_only_service_waits_for_its_database(outage: Outage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    service = Service(tmp_path, {"TASK_MODULES": TASKS, "DATABASE_URL": outage.url})
    with running(service):
        held = service.submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"]
        for_later = service.submit("echo", delay=3600)["task_id"]
        eventually(lambda: lines(gate))
        echo = {"type": "echo", "payload": {"a": 1}}
        calls = [
            Call("POST", "/api/task", echo),
            Call("POST", "/api/task", echo, {"Idempotency-Key": "once"}),
            Call("POST", "/api/task", echo | {"wait": 1}),
            Call("POST", "/api/batch", {"tasks": [echo, echo]}),
            Call("POST", "/api/result", {"task_id": for_later}),
            Call("POST", "/api/result", {"task_id": for_later, "wait": 1}),
            Call("POST", "/api/tasks", {}),
            Call("POST", "/api/types"),
            Call("POST", "/api/cancel", {"task_id": for_later}),
            Call("POST", "/api/retry", {"task_id": for_later}),
            Call("POST", "/health"),
        ]
        accepted = [service.submit("echo", {"n": n})["task_id"] for n in range(30)]
        with outage.begin():
            (tmp_path / "gate.1").write_text("return")
            check_told(service, calls)
        check_back(service, calls)
        for task_id in [held, *accepted]:
            task = service.ended(task_id)
            assert (task["status"], task["attempt"]) == ("succeeded", 1)
        assert len(lines(gate)) == 1


def bearer(user: User) -> dict[str, str]:
    return {"Authorization": str(user.headers["Authorization"])}


def test_the_token_service_waits_for_its_database(outage: Outage, tmp_path: Path) -> None:
    tokens = TokenService(tmp_path, {"DATABASE_URL": outage.url})
    with running(tokens):
        user, doomed = User(tokens), User(tokens)
        operate(tokens, "grant", user.username, "data", "tasks", "introspect").check_returncode()
        user.take(user.login().json())
        token, item = user.refresh_token, user.add(1)
        headers = bearer(user)
        path = f"/data/{item['id']}"
        login = {"username": user.username, "password": PASSWORD}
        calls = [
            Call("POST", "/token", login),
            Call("POST", "/token", {"grant_type": "refresh_token", "refresh_token": token}),
            Call("POST", "/register", form_of()),
            Call("POST", "/introspect", {"token": token}, headers),
            Call("GET", "/me", None, headers),
            Call("PATCH", "/me", {"email": "a@example.org", "current_password": PASSWORD}, headers),
            Call("GET", "/me/export", None, headers),
            Call("GET", "/data", None, headers),
            Call("POST", "/data", {"data": 2}, headers),
            Call("POST", "/data", {"data": 3}, headers | {"Idempotency-Key": "once"}),
            Call("GET", path, None, headers),
            Call("PUT", path, {"data": 4}, headers),
            Call("PATCH", path, {"data": 5}, headers),
            Call("DELETE", path, None, headers),
            Call("DELETE", "/me", {"current_password": PASSWORD}, bearer(doomed)),
            Call("POST", "/revoke", {"token": token}),
            Call("GET", "/health"),
        ]
        with outage.begin():
            check_told(tokens, calls)
            assert tokens.get("/.well-known/jwks.json").status_code == 200
        check_back(tokens, calls)
