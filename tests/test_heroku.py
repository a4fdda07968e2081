"""Two Heroku apps from one clone: each starts the Procfile's `web` line with what its dyno has in the environment."""

import dataclasses
import itertools
import json
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from only_post_svc.settings import Settings as TaskSettings
from shared import settings
from tests.postgres import new_database
from tests.processes import ROOT, START_SECONDS, ProcfileLine, end_family, eventually, family, free_port
from token_svc.settings import Settings as TokenSettings

APP = json.loads((ROOT / "app.json").read_text())
LINES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
HEALTH = {"only_post_svc": "POST", "token_svc": "GET"}
PASSWORD = "correct horse battery staple"
GRACE_SECONDS = 30  # between SIGTERM and SIGKILL
PATIENCE_SECONDS = 60
CLIENTS = 3
RESTARTS = 3

# https://devcenter.heroku.com/articles/app-json-schema
MEMBERS = {"name", "description", "keywords", "env", "formation", "addons", "buildpacks"}


def generated(service: str) -> dict[str, str]:
    """The config vars that app.json gives a new app."""
    values = {name: entry.get("value") or secrets.token_hex(32) for name, entry in APP["env"].items()}
    return values | {"SERVICE": service}


class App:
    """One app, on a port that it keeps from dyno to dyno."""

    def __init__(self, directory: Path, service: str, database_url: str, secret: str) -> None:
        self._directory = directory
        self._method = HEALTH[service]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **generated(service),
            "DYNO": "web.1",
            "PORT": str(self.port),
            "HOST": "127.0.0.1",  # not the network of whoever runs the tests
            "DATABASE_URL": database_url,
            "SECRET_KEY": secret,
            "WORKER_PROCESSES": "1",
            "WEB_CONCURRENCY": "4",  # these two come with Heroku's Python buildpack
            "FORWARDED_ALLOW_IPS": "*",
            "SHIPPED_TASKS": "on",
        }
        self.start()

    def start(self) -> None:
        self.dyno = ProcfileLine(self._directory, LINES["web"], self._env)

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.dyno.is_running, self.dyno.log.read_text()
            try:
                return requests.request(self._method, f"{self.url}/health", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        eventually(is_up, START_SECONDS, every=0.05)

    def restart(self) -> None:
        self.dyno.terminate(GRACE_SECONDS)
        self.start()
        self.wait_until_up()


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[tuple[App, App]]:
    """The app of the tasks and that of the tokens, each with a database of its own, and one secret for both."""
    secret = generated("token_svc")["SECRET_KEY"]
    with new_database() as for_tasks, new_database() as for_tokens:
        tasks = App(tmp_path / "tasks", "only_post_svc", for_tasks, secret)
        tokens = App(tmp_path / "tokens", "token_svc", for_tokens, secret)
        try:
            tasks.wait_until_up()
            tokens.wait_until_up()
            yield tasks, tokens
        finally:
            for app in (tasks, tokens):
                app.dyno.kill()
                end_family(app.dyno.log.parent)


class Client(threading.Thread):
    """A user who stores items and submits tasks, in turn. While a dyno is gone it comes back later, as the router's
    clients do."""

    def __init__(self, number: int, tasks: App, tokens: App, done: threading.Event) -> None:
        super().__init__(daemon=True)
        self._name = f"client-{number}"
        self._tasks, self._tokens, self._done = tasks, tokens, done
        self._session = requests.Session()
        self._session.headers["X-Forwarded-Proto"] = "https"  # the router's word
        self.faults: list[str] = []
        self.item_ids: list[str] = []
        self.task_ids: list[str] = []
        user = {"username": self._name, "password": PASSWORD, "email": f"{self._name}@example.org"}
        self._session.headers["Authorization"] = f"Bearer {self.post(tokens, '/register', user)['access_token']}"

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._done.wait(0.01):
                    return
                key = f"{self._name}-{number}"
                self.item_ids.append(self.post(self._tokens, "/data", {"data": number}, key)["id"])
                task = {"type": "echo", "payload": {"number": number}, "max_attempts": 1}
                self.task_ids.append(self.post(self._tasks, "/api/task", task, key)["task_id"])
        except Exception as error:
            self.faults.append(repr(error))

    def post(self, app: App, path: str, body: Any, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._session.post(f"{app.url}{path}", json=body, headers=headers, timeout=40)
            except requests.ConnectionError:
                assert time.monotonic() < deadline, "nobody answers"
                time.sleep(0.05)
                continue
            assert answer.status_code in (200, 201, 202), answer.text
            return answer.json()

    def stored(self) -> list[str]:
        """The ids of all its items."""
        found: list[str] = []
        query: dict[str, Any] = {"limit": 200}
        while True:
            page = self._session.get(f"{self._tokens.url}/data", params=query, timeout=40).json()
            found += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    def ended(self, task_id: str) -> tuple[str, int]:
        task = self.post(self._tasks, "/api/result", {"task_id": task_id, "wait": 25})
        return task["status"], task["attempt"]


def wait_for_load(clients: list[Client]) -> None:
    """Until each has got another task in."""
    before = [len(client.task_ids) for client in clients]
    eventually(
        lambda: all(len(client.task_ids) > count for client, count in zip(clients, before, strict=True)),
        PATIENCE_SECONDS,
    )


def test_restarts_in_the_middle_of_load_lose_nothing_on_either_app(apps: tuple[App, App]) -> None:
    tasks, tokens = apps
    done = threading.Event()
    clients = [Client(number, tasks, tokens, done) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for number in range(RESTARTS):
        wait_for_load(clients)
        apps[number % 2].restart()
    done.set()
    for client in clients:
        client.join(PATIENCE_SECONDS)
        assert client.faults == []
        assert client.stored() == client.item_ids
        assert {client.ended(task_id) for task_id in client.task_ids} == {("succeeded", 1)}


def test_a_dyno_is_one_web_process_whatever_web_concurrency_says(apps: tuple[App, App]) -> None:
    _, tokens = apps
    assert family(tokens.dyno.log.parent) == [tokens.dyno.pid]


def test_the_caller_does_not_choose_the_address_that_is_believed(apps: tuple[App, App]) -> None:
    """The router adds the address that it saw; what stands before that, the caller wrote."""
    _, tokens = apps
    sent = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Request-ID": "who-is-asking"}
    requests.get(f"{tokens.url}/health", headers=sent, timeout=9)
    line = eventually(lambda: re.search(r"request_id=who-is-asking .*", tokens.dyno.log.read_text()))[0]
    assert line.endswith("client=203.0.113.9")


def test_a_second_sigterm_changes_nothing(apps: tuple[App, App]) -> None:
    """https://devcenter.heroku.com/articles/dyno-shutdown-behavior: there may be more than one."""
    for app in apps:
        app.dyno.send(signal.SIGTERM)
        app.dyno.send(signal.SIGTERM)
        assert app.dyno.wait(GRACE_SECONDS) in (0, -signal.SIGTERM)
        assert "Traceback" not in app.dyno.log.read_text()


def test_app_json_has_only_what_heroku_knows() -> None:
    assert set(APP) <= MEMBERS
    assert set(APP["formation"]) <= set(LINES)
    assert {"generator": "secret", "description": APP["env"]["SECRET_KEY"]["description"]} == APP["env"]["SECRET_KEY"]
    assert not any("value" in entry and "generator" in entry for entry in APP["env"].values())


def test_app_json_sets_only_what_is_read() -> None:
    fields = [*dataclasses.fields(TaskSettings), *dataclasses.fields(TokenSettings)]
    assert set(APP["env"]) - {"SERVICE"} <= {field.name.upper() for field in fields}


@pytest.mark.parametrize(("service", "cls"), [("only_post_svc", TaskSettings), ("token_svc", TokenSettings)])
def test_a_new_app_has_what_the_start_asks_for(service: str, cls: type[settings.Settings]) -> None:
    dyno = {"DYNO": "web.1", "PORT": "5000", "DATABASE_URL": "sqlite:////data/app.db"}
    made = cls.from_env(generated(service) | dyno)
    assert (made.app_env, made.host, made.port) == ("production", "0.0.0.0", 5000)
    assert len(made.secret_key[0].value) >= 32
