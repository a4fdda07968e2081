"""From a file to PostgreSQL with all that there is: what clients hold goes on working, and tasks go on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from tests.commands import Done, command, said
from tests.databases import rows
from tests.mail import mail_server
from tests.postgres import new_database
from tests.processes import TASKS, HTTPService, Service, TokenService, eventually, free_port
from tests.receivers import receiving
from tests.token_svc.machines import Machine
from tests.token_svc.users import User, operate, refresh

KEY = "0123456789"
ALL_TASKS = {"TASK_MODULES": f"{TASKS},tests.fair_tasks,tests.scheduled_tasks", "WORKER_PROCESSES": "2"}
Start = Callable[..., Any]


@pytest.fixture
def url() -> Iterator[str]:
    with new_database() as url:
        yield url


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(Service, LEASE_SECONDS="2")`: all in one directory, where the development secret is."""
    with ExitStack() as stack:

        def start(kind: type[HTTPService], **env: str) -> HTTPService:
            service = kind(tmp_path, env)
            stack.callback(service.kill)
            return service

        yield start


def copy(service: HTTPService, url: str) -> Done:
    return command(service.log.parent, service.module, "copy", url)


def test_users_go_on(start: Start, url: str) -> None:
    before = start(TokenService, MAIL_URL=f"smtp://127.0.0.1:{free_port()}")  # where no server takes them
    user, other, disabled = User(before), User(before), User(before)
    gone, to_change, *items = [
        user.add({"number": number}, **{"Idempotency-Key": f"{KEY}{number}"}) for number in range(5)
    ]
    page = user.get("/data", params={"limit": 2}).json()
    user.delete(f"/data/{gone['id']}")
    changed = user.put(f"/data/{to_change['id']}", json={"data": "changed"}).json()
    used = other.refresh_token
    other.take(refresh(before, used).json())
    operate(before, "disable", disabled.username)
    machine = Machine(before)
    revoked = machine.access_token()
    before.post("/revoke", {"token": revoked})
    export = user.get("/me/export").json()

    assert "stop the services" in said(copy(before, url), 1)
    before.terminate()
    assert copy(before, url).returncode == 0
    with mail_server() as server:
        after = start(TokenService, MAIL_URL=f"smtp://127.0.0.1:{server.port}", DATABASE_URL=url)
        user.service = machine.service = after
        assert user.get("/me/export").json() == export
        news = user.get("/data", params={"since": page["since"]}).json()
        assert news["items"] == [{"id": gone["id"], "deleted": True}, changed]
        assert user.get("/data", params={"limit": 2, "cursor": page["next_cursor"]}).json()["items"] == items[:2]
        again = user.post("/data", json={"data": {"number": 4}}, headers={"Idempotency-Key": f"{KEY}4"})
        assert (again.json(), again.headers["Idempotency-Replayed"]) == (items[2], "true")
        made = user.add("new")
        assert user.get("/data", params={"since": news["since"]}).json()["items"] == [made]
        assert refresh(after, user.refresh_token).status_code == 200
        assert refresh(after, other.refresh_token).status_code == 200
        assert user.login().status_code == 200
        assert User.login_as(after, disabled.username).status_code == 401
        assert machine.access_token()
        assert after.get("/me", headers={"Authorization": f"Bearer {revoked}"}).status_code == 401
        assert server.mail_to(user.profile["email"])


def test_tasks_go_on(start: Start, url: str, tmp_path: Path) -> None:
    before = start(Service, **ALL_TASKS, LEASE_SECONDS="2")
    ended = [before.run("text.stats", {"text": "a b"})["task_id"], before.run("raise", max_attempts=1)["task_id"]]
    ended.append(before.submit("echo", delay=600)["task_id"])
    before.post("/api/cancel", {"task_id": ended[-1]})
    once = {"json": {"type": "echo", "payload": {"n": 1}, "delay": 600}, "headers": {"Idempotency-Key": KEY}}
    later = before.request("POST", "/api/task", **once).json()
    page = before.post("/api/tasks", {"type": "echo", "limit": 1}).json()
    before.post("/api/pause", {"type": "who"})
    paused = before.submit("who")["task_id"]
    before.post("/api/schedule", {"name": "hourly", "every": 3600, "type": "echo"})
    schedule = hourly(before)
    secret = command(tmp_path, "only_post_svc", "webhooks", "secret").stdout.strip()
    with receiving() as receiver:
        told = before.submit("echo", notify=f"{receiver.url}/first/500")["task_id"]
        eventually(lambda: before.result(told)["notify"]["attempts"] == 1)
        running = before.submit("progress", {"path": str(tmp_path / "gate")})["task_id"]
        bound = [before.submit("keyed", {"seconds": 2}, key="one")["task_id"] for _ in range(2)]
        eventually(lambda: before.result(running)["status"] == before.result(bound[0])["status"] == "running")
        results = {task_id: before.result(task_id) for task_id in (*ended, later["task_id"], paused, bound[1])}
        assert results[bound[1]]["held"] == "max_running_per_key"
        before.kill()
        assert copy(before, url).returncode == 0

        after = start(Service, **ALL_TASKS, LEASE_SECONDS="2", DATABASE_URL=url)
        ((kept,),) = rows(after, "SELECT count(*) FROM task WHERE type = 'tidy'")
        for task_id in (*ended, later["task_id"], paused):
            assert after.result(task_id) == results[task_id]
        again = after.request("POST", "/api/task", **once)
        assert (again.json(), again.headers["Idempotency-Replayed"]) == (later, "true")
        rest = after.post("/api/tasks", {"type": "echo", "limit": 2, "cursor": page["next_cursor"]}).json()
        assert [task["task_id"] for task in rest["items"]] == ended[-1:]
        assert hourly(after) == schedule
        (tmp_path / "gate").touch()
        lost = after.ended(running)
        assert (lost["status"], lost["attempt"]) == ("succeeded", 2)
        assert [after.ended(task_id)["status"] for task_id in bound] == ["succeeded", "succeeded"]
        eventually(lambda: len(receiver.got) == 2)
        for news in receiver.got:
            standardwebhooks.Webhook(secret).verify(
                news.body, {name.lower(): value for name, value in news.headers.items()}
            )
        assert eventually(lambda: after.result(told)["notify"]["status"] == "sent")
        eventually(lambda: rows(after, "SELECT count(*) FROM task WHERE type = 'tidy'") > [(kept + 2,)])


def hourly(service: Service) -> Any:
    schedules = service.post("/api/schedules").json()["items"]
    return next(one for one in schedules if one["name"] == "hourly")
