"""Many processes that meet an empty database at once, and older ones that live on with the schema of a newer one."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from only_post_svc.main import SCHEMA as TASK_SCHEMA
from shared.database.connection import SHARED_SCHEMA
from tests.postgres import execute, new_database
from tests.processes import ROOT, TASKS, HTTPService, Service, TokenService, eventually
from tests.token_svc.users import User
from token_svc.main import SCHEMA as TOKEN_SCHEMA

STARTS = 8
SERVICES = 3  # of each kind
ROUNDS = 10  # more than it takes psycopg to prepare a statement
CLIENTS = 4

# Long enough for all to be there before the first is done, and to outlast a try to get the lock.
SLOW = """
SELECT pg_sleep(2);
CREATE TABLE made (by BIGINT);
INSERT INTO made VALUES (pg_backend_pid());
"""

CONNECT = """
import asyncio, json, sys
from pathlib import Path
from shared.database import connection

async def main(url, schemas):
    print("ready", flush=True)
    sys.stdin.readline()
    database = await connection.connect(url, {name: Path(path) for name, path in schemas.items()})
    await database.close()

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


@pytest.fixture
def url() -> Iterator[str]:
    with new_database() as url:
        yield url


def start_to_connect(url: str, schemas: dict[str, Path]) -> "subprocess.Popen[str]":
    """A process that stands before the door of the database until it gets a line."""
    command = [sys.executable, "-c", CONNECT, url, json.dumps({name: str(path) for name, path in schemas.items()})]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def connect_at_once(url: str, number: int, **schemas: Path) -> list[tuple[int, str]]:
    """The exit status of that many processes, and what they had to say."""
    processes = [start_to_connect(url, schemas) for _ in range(number)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def applied(url: str) -> list[str]:
    return [name for (name,) in execute(url, "SELECT name FROM migration ORDER BY name")]


def test_many_that_start_at_once_make_the_tables_once(url: str, tmp_path: Path) -> None:
    (tmp_path / "0001.sql").write_text(SLOW)
    schemas = {"only_post": TASK_SCHEMA, "token": TOKEN_SCHEMA, "once": tmp_path}
    assert connect_at_once(url, STARTS, **schemas) == [(0, "")] * STARTS
    assert len(execute(url, "SELECT by FROM made")) == 1
    schemas["shared"] = SHARED_SCHEMA
    assert applied(url) == sorted(
        f"{name}/{file.stem}"
        for name, path in schemas.items()
        for file in path.glob("*.sql")
        if not file.match("*.sqlite.sql")
    )


@contextmanager
def running(*services: HTTPService) -> Iterator[None]:
    try:
        yield
    finally:
        for service in services:
            service.kill()


def test_services_that_start_at_once_on_an_empty_database_all_come_up(url: str, tmp_path: Path) -> None:
    env = {"DATABASE_URL": url, "WORKER_PROCESSES": "0"}
    kinds = [Service, TokenService] * SERVICES
    services = [kind(tmp_path / str(number), env, wait=False) for number, kind in enumerate(kinds)]
    with running(*services):
        for service in services:
            service.wait_until_up()


def move_on(url: str, name: str, schema: Path, directory: Path, change: str) -> None:
    """Starts a process whose schema is one version on."""
    later = shutil.copytree(schema, directory / "later")
    (later / "9999.sql").write_text(f"{change};\nCREATE TABLE later (id TEXT PRIMARY KEY);\n")
    assert connect_at_once(url, 1, **{name: later}) == [(0, "")]
    assert f"{name}/9999" in applied(url)


def through_a_migration(use: Callable[[], None], migrate: Callable[[], None]) -> None:
    """`use` again and again by several clients, before, while and after the schema moves on."""
    is_migrated, rounds = threading.Event(), [0] * CLIENTS

    def client(number: int) -> None:
        while not is_migrated.is_set() or rounds[number] < 2 * ROUNDS:
            use()
            rounds[number] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            eventually(lambda: min(rounds) >= ROUNDS or any(each.done() for each in clients), 60)
            migrate()
            rounds[:] = [ROUNDS] * CLIENTS  # as many again
        finally:
            is_migrated.set()
    for each in clients:
        each.result()


def ok(answer: requests.Response) -> Any:
    assert answer.ok, answer.text
    return answer.json() if answer.content else None


def test_an_older_post_only_service_goes_on_and_starts_again_beside_a_newer_schema(url: str, tmp_path: Path) -> None:
    env = {"TASK_MODULES": TASKS, "DATABASE_URL": url}
    service = Service(tmp_path, env)

    def use() -> None:
        entry = {"type": "echo", "payload": {"a": 1}, "wait": 20, "max_attempts": 1}
        assert ok(requests.post(f"{service.url}/api/task", json=entry, timeout=60))["status"] == "succeeded"
        ok(requests.post(f"{service.url}/api/tasks", json={"limit": 5}, timeout=60))

    change = "ALTER TABLE task ADD COLUMN colour TEXT"
    with running(service):
        through_a_migration(use, lambda: move_on(url, "only_post", TASK_SCHEMA, tmp_path, change))
    service = Service(tmp_path, env)
    with running(service):
        use()


def test_an_older_token_service_goes_on_and_starts_again_beside_a_newer_schema(url: str, tmp_path: Path) -> None:
    tokens = TokenService(tmp_path, {"DATABASE_URL": url})
    change = "ALTER TABLE account ADD COLUMN colour TEXT;\nALTER TABLE item ADD COLUMN colour TEXT"
    with running(tokens):
        user = User(tokens)
        headers = {"Authorization": str(user.headers["Authorization"])}

        def use() -> None:
            ok(tokens.post("/data", {"data": 1}, headers=headers))
            for path in ("/me", "/data"):
                ok(tokens.get(path, headers=headers))

        through_a_migration(use, lambda: move_on(url, "token", TOKEN_SCHEMA, tmp_path, change))
        ok(user.login())
    tokens = TokenService(tmp_path, tokens.env)
    with running(tokens):
        ok(User.login_as(tokens, user.username))
