"""Both services behind PgBouncer in transaction mode, where no session is anybody's own."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from tests.pgbouncer import POOL_SIZE, PgBouncer, pooled
from tests.postgres import new_database
from tests.processes import HTTPService, Process, Service, TokenService, Worker, eventually
from tests.token_svc.users import User, refresh
from tests.tokens import SECRET

ROUNDS = 8  # psycopg prepares a statement on its sixth use
RECOVERY_SECONDS = 45


@pytest.fixture
def pooler() -> Iterator[PgBouncer]:
    with new_database() as url, pooled(url) as pooler:
        yield pooler


class Site:
    """Two processes of each kind."""

    def __init__(self, directory: Path, url: str, undo: contextlib.ExitStack) -> None:
        env = {"DATABASE_URL": url, "SECRET_KEY": SECRET, "TASK_AUTH": "required", "WORKER_PROCESSES": "0"}

        def started(make: Callable[..., Any], name: str, **more: Any) -> list[Any]:
            processes: list[Process] = [make(directory / f"{name}{number}", env, **more) for number in range(2)]
            for process in processes:
                undo.callback(process.kill)
            return processes

        self.webs: list[Service] = started(Service, "web", wait=False)
        self.tokens: list[TokenService] = started(TokenService, "tokens", wait=False)
        self.workers: list[Worker] = started(Worker, "worker")
        for service in (*self.webs, *self.tokens):
            service.wait_until_up()

    @property
    def processes(self) -> list[Process]:
        return [*self.webs, *self.workers, *self.tokens]


@pytest.fixture
def site(tmp_path: Path, pooler: PgBouncer) -> Iterator[Site]:
    with contextlib.ExitStack() as undo:
        yield Site(tmp_path, pooler.url, undo)


def one_round(site: Site, number: int) -> None:
    """What a user does, each step on another process than the one before."""
    one, other = (site.tokens[(number + step) % 2] for step in range(2))
    user = User(one)
    user.service = other
    item = user.add({"number": number})
    user.service = one
    assert answered(user.get(f"/data/{item['id']}")) == item
    user.take(answered(refresh(other, user.refresh_token)))
    user.take(answered(user.login()))
    run_tasks(site.webs[number % 2], user, number)


def run_tasks(web: Service, user: User, number: int) -> None:
    def post(path: str, body: Any, **more: str) -> Any:
        headers = {"Authorization": str(user.headers["Authorization"]), **more}
        return answered(web.post(path, body, headers=headers))

    task, key = {"type": "echo", "payload": {"number": number}}, {"Idempotency-Key": f"round-{number}"}
    task_id = post("/api/task", task, **key)["task_id"]
    assert post("/api/task", task, **key)["task_id"] == task_id
    result = {"task_id": task_id, "wait": 20}
    assert eventually(lambda: post("/api/result", result)["result"], RECOVERY_SECONDS) == {"number": number}
    sleeper = {"task_id": post("/api/task", {"type": "sleep", "payload": {"seconds": 600}})["task_id"]}
    post("/api/cancel", sleeper)
    assert post("/api/result", sleeper)["status"] == "cancelled"


def answered(answer: requests.Response) -> Any:
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def goes_through(site: Site, number: int) -> bool:
    """Whether nobody was told to come back later: where few sessions are shared by many, one may have to wait."""
    try:
        one_round(site, number)
    except AssertionError as error:
        if "database_unavailable" not in str(error):
            raise
        return False
    return True


def insist(site: Site, number: int) -> None:
    eventually(partial(goes_through, site, number), RECOVERY_SECONDS, every=1)


def test_both_services_work_in_several_processes(site: Site) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(partial(insist, site), range(ROUNDS)))
    for process in site.processes:
        assert "Traceback" not in process.log.read_text()
        assert "prepared statement" not in process.log.read_text()


def sessions(url: str) -> Iterator[psycopg.Connection]:
    """A connection to each session of the pool, as long as all of them are in a transaction."""
    with contextlib.ExitStack() as undo:
        for _ in range(POOL_SIZE):
            connection = undo.enter_context(psycopg.connect(url))
            connection.execute("SELECT 1")
            yield connection


def test_no_session_is_left_otherwise_than_it_was_found(site: Site, pooler: PgBouncer) -> None:
    """Whoever gets it next would commit without waiting for the disk, or hear what it has not asked for."""
    insist(site, 0)
    for process in site.processes:
        process.kill()
    found = set()
    for connection in sessions(pooler.url):
        found.add(connection.execute("SELECT pg_backend_pid()").fetchone())
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert connection.execute("SELECT pg_listening_channels()").fetchall() == []
    assert len(found) == POOL_SIZE


def test_all_goes_on_after_a_restart_of_the_pooler(site: Site, pooler: PgBouncer) -> None:
    insist(site, 0)
    pooler.kill()
    for service in (*site.webs, *site.tokens):
        eventually(partial(has_health, service, 503), RECOVERY_SECONDS)
    pooler.start()
    for service in (*site.webs, *site.tokens):
        eventually(partial(has_health, service, 200), RECOVERY_SECONDS)
    insist(site, 1)
    assert all(process.is_running for process in site.processes)


def has_health(service: HTTPService, status: int) -> bool:
    return requests.request(service.health_method, f"{service.url}/health", timeout=20).status_code == status
