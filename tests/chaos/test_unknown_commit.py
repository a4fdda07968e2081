"""A connection that is cut between COMMIT and its answer: nobody can know whether the row is there.

Whatever was being written, the client is told 503 and never 2xx without the row, and gets on by sending it again.
"""

import hashlib
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.chaos.traces import lines
from tests.databases import rows
from tests.postgres import new_database
from tests.processes import TASKS, Process, Service, TokenService, Worker, eventually
from tests.proxy import Loss, Proxy, proxied
from tests.token_svc.users import PASSWORD, User, fresh_name, refresh

MAX_COMMITS = 10  # of one request
NEW_PASSWORD = "another horse, another battery"

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with new_database() as url, proxied(url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that runs nothing."""
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "0", "DATABASE_URL": proxy.url}
    service = Service(tmp_path_factory.mktemp("service"), env)
    yield service
    service.kill()


@pytest.fixture(scope="module")
def tokens(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """With limits, which are writes of their own, though none that is reached."""
    env = {"RATE_LIMITS": "login=100000/minute,register=100000/minute", "DATABASE_URL": proxy.url}
    service = TokenService(tmp_path_factory.mktemp("tokens"), env)
    yield service
    service.kill()


@dataclass
class Write:
    """A request that writes, and what it has among its values and no other has."""

    mark: str
    send: Callable[[], requests.Response]
    again: set[int]  # what it may be answered when it is sent again
    check: Callable[[], None]  # what there has to be in the end


def losing_each_commit(proxy: Proxy, make: Callable[[], Write]) -> int:
    """Sends the same kind of request again and again, and loses the answer to its first commit, its second, and so
    on: how many it has."""
    for number in range(MAX_COMMITS):
        write = make()
        loss = proxy.lose(Loss(write.mark.encode(), skip=number))
        answer = write.send()
        if not loss.has_happened:
            loss.has_happened = True  # nor will it
            assert answer.ok, answer.text
            write.check()
            return number
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "database_unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
        again = sent_again(write.send)
        assert again.status_code in write.again, again.text
        write.check()
    raise AssertionError(f"more than {MAX_COMMITS} commits")


def sent_again(send: Callable[[], requests.Response]) -> requests.Response:
    """The answer, once the service has found its database again."""
    answers: list[requests.Response] = []

    def is_answered() -> bool:
        answers.append(send())
        return answers[-1].status_code != 503

    eventually(is_answered)
    return answers[-1]


def task_write(service: Service, kind: str) -> Write:
    mark = uuid.uuid4().hex
    entry = {"type": "echo", "payload": {"mark": mark}, "delay": 3600}
    headers = {"Idempotency-Key": mark} if "key" in kind else {}
    path, body = ("/api/batch", {"tasks": [entry, entry]}) if "batch" in kind else ("/api/task", entry)
    number = 2 if "batch" in kind else 1

    def check() -> None:
        kept = len(rows(service, "SELECT 1 FROM task_payload WHERE body LIKE ?", f"%{mark}%"))
        assert kept in ({number} if headers else {number, 2 * number})

    return Write(mark, lambda: service.post(path, body, headers=headers), {202}, check)


def ending_write(service: Service, kind: str) -> Write:
    task_id = service.submit("echo", delay=3600)["task_id"]
    if kind == "retry":
        assert service.post("/api/cancel", {"task_id": task_id}).status_code == 200
    status, again = {"cancel": ("cancelled", {200}), "retry": ("queued", {409})}[kind]

    def check() -> None:
        assert service.result(task_id)["status"] == status

    return Write(task_id, lambda: service.post(f"/api/{kind}", {"task_id": task_id}), again, check)


@pytest.mark.parametrize("kind", ["submit", "submit with a key", "batch", "batch with a key"])
def test_what_was_submitted_is_there_once_for_each_key(proxy: Proxy, service: Service, kind: str) -> None:
    assert losing_each_commit(proxy, lambda: task_write(service, kind)) == 1


@pytest.mark.parametrize("kind", ["cancel", "retry"])
def test_a_task_is_as_it_was_told_to_be(proxy: Proxy, service: Service, kind: str) -> None:
    assert losing_each_commit(proxy, lambda: ending_write(service, kind)) == 1


def registering(tokens: TokenService, mark: str = "") -> Write:
    name = fresh_name()
    body = {"username": name, "password": PASSWORD, "email": f"{name}@example.org"}

    def check() -> None:
        assert rows(tokens, "SELECT count(*) FROM account WHERE username = ?", name) == [(1,)]
        assert User.login_as(tokens, name).status_code == 200

    return Write(mark or name, lambda: tokens.post("/register", body), {201, 409}, check)


def logging_in(tokens: TokenService) -> Write:
    user = User(tokens)

    def check() -> None:
        assert refresh(tokens, user.login().json()["refresh_token"]).status_code == 200

    return Write(user.username, user.login, {200}, check)


def refreshing(tokens: TokenService) -> Write:
    user = User(tokens)
    digest = hashlib.sha256(user.refresh_token.encode()).hexdigest()
    sent: list[requests.Response] = []

    def send() -> requests.Response:
        sent.append(refresh(tokens, user.refresh_token))
        return sent[-1]

    def check() -> None:
        assert refresh(tokens, sent[-1].json()["refresh_token"]).status_code == 200
        assert rows(tokens, "SELECT count(*) FROM session WHERE account_id = ?", user.profile["id"]) == [(1,)]

    return Write(digest, send, {200}, check)


def revoking(tokens: TokenService) -> Write:
    user = User(tokens)
    digest = hashlib.sha256(user.refresh_token.encode()).hexdigest()

    def check() -> None:
        assert user.get("/me").status_code == 401
        assert refresh(tokens, user.refresh_token).status_code == 401

    return Write(digest, lambda: tokens.post("/revoke", {"token": user.refresh_token}), {200}, check)


def changing_the_password(tokens: TokenService) -> Write:
    user = User(tokens)
    body = {"current_password": PASSWORD, "password": NEW_PASSWORD}

    def check() -> None:
        assert User.login_as(tokens, user.username, NEW_PASSWORD).status_code == 200
        assert User.login_as(tokens, user.username, PASSWORD).status_code == 401
        assert refresh(tokens, user.refresh_token).status_code == 401  # its successor was in the answer

    return Write(user.username, lambda: user.patch("/me", json=body), {200, 401}, check)


def changing_the_email(tokens: TokenService) -> Write:
    user = User(tokens)
    email = f"{uuid.uuid4().hex}@example.org"

    def check() -> None:
        assert user.get("/me").json()["email"] == email

    body = {"current_password": PASSWORD, "email": email}
    return Write(user.username, lambda: user.patch("/me", json=body), {200}, check)


def deleting_the_account(tokens: TokenService) -> Write:
    user = User(tokens)
    user.add(1)

    def check() -> None:
        assert rows(tokens, "SELECT count(*) FROM account WHERE id = ?", user.profile["id"]) == [(0,)]
        left = "SELECT count(*) FROM item WHERE account_id = ?"
        eventually(lambda: rows(tokens, left, user.profile["id"]) == [(0,)], 30)  # the next sweep is a minute away
        assert user.login().status_code == 401

    send = lambda: user.delete("/me", json={"current_password": PASSWORD})  # noqa: E731
    return Write(user.username, send, {204, 401}, check)


def adding(tokens: TokenService, **headers: str) -> Write:
    user = User(tokens)
    mark = uuid.uuid4().hex

    def check() -> None:
        kept = user.get("/data").json()["items"]
        assert {item["data"] for item in kept} == {mark}
        assert len(kept) in ({1} if headers else {1, 2})
        assert rows(tokens, "SELECT item_count FROM account WHERE id = ?", user.profile["id"]) == [(len(kept),)]

    return Write(mark, lambda: user.post("/data", json={"data": mark}, headers=headers), {201}, check)


def changing_an_item(tokens: TokenService, method: str, **headers: str) -> Write:
    user = User(tokens)
    path = f"/data/{user.add({})['id']}"
    mark = uuid.uuid4().hex

    def check() -> None:
        item = user.get(path).json()
        assert item["data"] == {"mark": mark}
        assert item["version"] in ({2} if headers else {2, 3})

    body = {"data": {"mark": mark}}
    again = {200, 412} if headers else {200}
    return Write(mark, lambda: user.request(method, path, json=body, headers=headers), again, check)


def deleting_an_item(tokens: TokenService, **headers: str) -> Write:
    user = User(tokens)
    item_id = user.add(1)["id"]

    def check() -> None:
        assert user.get("/data").json()["items"] == []
        assert rows(tokens, "SELECT item_count FROM account WHERE id = ?", user.profile["id"]) == [(0,)]

    return Write(item_id, lambda: user.delete(f"/data/{item_id}", headers=headers), {204, 404}, check)


IF_MATCH = {"If-Match": '"1"'}

WRITES: dict[str, tuple[Callable[[TokenService], Write], int]] = {
    "a registration's count": (lambda tokens: registering(tokens, "register 127.0.0.1"), 1),
    "register": (registering, 1),
    "login": (logging_in, 2),
    "refresh": (refreshing, 1),
    "revoke": (revoking, 1),
    "a new password": (changing_the_password, 3),
    "a new email": (changing_the_email, 2),
    "an account's end": (deleting_the_account, 3),
    "a new item": (adding, 1),
    "a new item with a key": (lambda tokens: adding(tokens, **{"Idempotency-Key": "once"}), 1),
    "PUT": (lambda tokens: changing_an_item(tokens, "PUT"), 1),
    "PUT with If-Match": (lambda tokens: changing_an_item(tokens, "PUT", **IF_MATCH), 1),
    "PATCH": (lambda tokens: changing_an_item(tokens, "PATCH"), 1),
    "PATCH with If-Match": (lambda tokens: changing_an_item(tokens, "PATCH", **IF_MATCH), 1),
    "DELETE": (deleting_an_item, 1),
    "DELETE with If-Match": (lambda tokens: deleting_an_item(tokens, **IF_MATCH), 1),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_user_who_tries_again_gets_on(proxy: Proxy, tokens: TokenService, kind: str) -> None:
    make, commits = WRITES[kind]
    assert losing_each_commit(proxy, lambda: make(tokens)) == commits


@pytest.fixture
def apart() -> Iterator[Proxy]:
    """To a database without anybody else's tasks."""
    with new_database() as url, proxied(url) as proxy:
        yield proxy


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Process] = []

    def start(make: Callable[..., Process], *arguments: Any) -> Process:
        started.append(make(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()


# What of a statement no other transaction has. A claim may be made by the transaction that stores its task.
RUN = {
    "claim": "SET status = 'running'",
    "claim with its submit": "SET status = 'running'",
    "progress": "SET progress =",
    "renewal": "SET lease_until =",
    "result": "INSERT INTO task_result",
}


@pytest.mark.parametrize("what", RUN)
def test_a_run_is_counted_once_and_its_result_kept(apart: Proxy, tmp_path: Path, start: Start, what: str) -> None:
    gate = tmp_path / "gate"
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "LEASE_SECONDS": "3", "DATABASE_URL": apart.url}
    service = start(Service, tmp_path, env)
    if "submit" in what:
        service.run("echo")  # the worker has a hand free from here on, and knows that nothing waits
    loss = apart.lose(Loss(RUN[what].encode()))
    new = {"type": "gate", "payload": {"path": str(gate)}, "max_attempts": 1}
    submitted = sent_again(lambda: service.post("/api/task", new, headers={"Idempotency-Key": "once"}))
    task_id = submitted.json()["task_id"]
    eventually(lambda: lines(gate))
    if what != "result":
        eventually(lambda: loss.has_happened)
    (tmp_path / "gate.1").write_text("return")
    task = service.ended(task_id)
    assert loss.has_happened
    assert (task["status"], task["attempt"], task["result"]) == ("succeeded", 1, 1)
    assert len(lines(gate)) == 1


def test_a_run_that_is_to_be_tried_again_is_scheduled_once(apart: Proxy, tmp_path: Path, start: Start) -> None:
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "DATABASE_URL": apart.url}
    service = start(Service, tmp_path, env)
    for statement in ("SET status = 'scheduled'", "SET status = 'queued', lane"):
        loss = apart.lose(Loss(statement.encode()))
        task = service.run("retry", {"until": 2}, max_attempts=2)
        assert loss.has_happened
        assert (task["status"], task["attempt"]) == ("succeeded", 2)


def test_a_run_that_is_given_back_by_a_deploy_costs_no_attempt(apart: Proxy, tmp_path: Path, start: Start) -> None:
    gate = tmp_path / "gate"
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "DATABASE_URL": apart.url}
    web = start(Service, tmp_path, env | {"WORKER_PROCESSES": "0"})
    worker = start(Worker, tmp_path, env)
    task_id = web.submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"]
    eventually(lambda: lines(gate))
    loss = apart.lose(Loss(b"DELETE FROM worker WHERE id"))
    worker.send(signal.SIGTERM)
    worker.wait()
    assert loss.has_happened
    (tmp_path / "gate.1").write_text("return")
    start(Worker, tmp_path, env)
    task = web.ended(task_id)
    assert (task["status"], task["attempt"], task["result"]) == ("succeeded", 1, 1)
