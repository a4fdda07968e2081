"""Many at once: the service stays answerable, refuses what it has no time for, and loses nothing."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.databases import rows, settings_of
from tests.processes import TokenService
from tests.token_svc.users import User, form_of, fresh_name, refresh
from token_svc.passwords import WAITING_PER_THREAD

CLIENTS = 14 + (os.cpu_count() or 1) * (1 + WAITING_PER_THREAD)  # more than there is room for
WORKERS = 4


class Workers(TokenService):
    """The same application under uvicorn's own supervisor."""

    def command(self) -> list[str]:
        return ["-m", "uvicorn", "token_svc.main:app", "--workers", str(WORKERS), "--port", str(self.port)]


def test_under_a_storm_of_logins_everything_else_goes_on(tokens: TokenService) -> None:
    user = User(tokens)
    user.add("still here")
    over = threading.Event()

    def storm(_: int) -> list[requests.Response]:
        found = []
        with requests.Session() as session:
            body = {"username": user.username, "password": user.password}
            while not over.is_set():
                found.append(session.post(f"{tokens.url}/token", json=body, timeout=60))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        storming = [pool.submit(storm, n) for n in range(CLIENTS)]
        try:
            served = [user.get(path).status_code for _ in range(25) for path in ("/health", "/data")]
        finally:
            over.set()
        answers = [answer for client in storming for answer in client.result()]
    assert served == [200] * 50
    found = Counter(answer.status_code for answer in answers)
    assert found.keys() == {200, 503}
    for refused in (answer for answer in answers if answer.status_code == 503):
        assert refused.json()["code"] == "busy"
        assert int(refused.headers["Retry-After"]) >= 1
    assert user.login().status_code == 200


@pytest.fixture(scope="module")
def workers(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with settings_of(storage) as database:
        service = Workers(tmp_path_factory.mktemp("workers"), database)
        yield service
        service.terminate()


def in_parallel(work: Any, times: int) -> list[Any]:
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(work, range(times)))


def patiently(send: Callable[[], requests.Response]) -> requests.Response:
    """What comes after as many `busy` as the machine is slow."""
    while (answer := send()).json().get("code") == "busy":
        pass
    return answer


def test_four_processes_register_everybody_once(workers: Workers) -> None:
    names = [fresh_name() for _ in range(8)]

    def one(n: int) -> int:
        body = form_of(username=names[n % 8])
        return patiently(lambda: workers.post("/register", body)).status_code

    assert Counter(in_parallel(one, 24)) == {201: 8, 409: 16}
    kept = {name for (name,) in rows(workers, "SELECT username FROM account")}
    assert set(names) <= kept


def test_four_processes_agree_on_one_writer_for_each_version(workers: Workers) -> None:
    user = User(workers)
    item = user.add([])
    headers = dict(user.headers)

    def one(n: int) -> int:
        """Adds `n`, trying again as long as another was quicker: how often another was."""
        lost = 0
        while True:
            read = workers.get(f"/data/{item['id']}", headers=headers)
            if_match = {**headers, "If-Match": read.headers["ETag"]}
            body = {"data": [*read.json()["data"], n]}
            answer = workers.request("PUT", f"/data/{item['id']}", json=body, headers=if_match)
            if answer.status_code == 200:
                return lost
            assert answer.status_code == 412, answer.text
            lost += 1

    in_parallel(one, 24)
    found = user.get(f"/data/{item['id']}").json()
    assert sorted(found["data"]) == list(range(24))
    assert found["version"] == 25


def test_four_processes_rotate_one_session(workers: Workers) -> None:
    user = User(workers)
    answers = in_parallel(lambda _: refresh(workers, user.refresh_token), 20)
    assert Counter(answer.status_code for answer in answers) == {200: 20}
    for answer in answers[::5]:
        assert refresh(workers, answer.json()["refresh_token"]).status_code == 200
    assert rows(workers, "SELECT count(*) FROM session WHERE account_id = ?", user.profile["id"]) == [(1,)]


def test_a_session_that_one_process_ends_is_over_in_all(workers: Workers) -> None:
    user = User(workers)
    workers.post("/revoke", {"token": user.refresh_token})
    headers = dict(user.headers)
    assert set(in_parallel(lambda _: workers.get("/me", headers=headers).status_code, 24)) == {401}


def test_a_key_makes_one_item_whichever_process_has_it(workers: Workers) -> None:
    user = User(workers)
    headers = {**user.headers, "Idempotency-Key": "once"}
    found = in_parallel(lambda _: workers.post("/data", {"data": 1}, headers=headers), 20)
    assert {answer.status_code for answer in found} == {201}
    assert len({answer.text for answer in found}) == 1
    assert len(user.get("/data").json()["items"]) == 1


def test_no_process_met_a_locked_database_or_an_error(workers: Workers) -> None:
    log = Path(workers.log).read_text()
    assert "database is locked" not in log
    assert "Traceback" not in log
    assert "status=500" not in log
