"""Both services together: a token of the one, a task on the other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.databases import ON_A_FILE, rows, tables
from tests.processes import Service, TokenService, eventually, free_port
from tests.token_svc.machines import Machine
from tests.token_svc.users import User, refresh
from tests.tokens import SECRET, token

OTHER_SECRET = "another secret of the tests as long as it has to be"


def post(service: Service, path: str, body: object, user: User) -> requests.Response:
    return service.post(path, body, headers={"Authorization": str(user.headers["Authorization"])})


def submitted(service: Service, user: User, text: str, **options: str) -> str:
    task = {"type": "text.stats", "payload": {"text": text}, "wait": 20, **options}
    answer = post(service, "/api/task", task, user)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["words"] == len(text.split())
    return str(answer.json()["task_id"])


@pytest.fixture
def start_tasks(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., Service]]:
    """Starts the POST-only service that wants a token. Where there is a server, both share a database."""
    started: list[Service] = []

    def start(**env: str) -> Service:
        settings = {"TASK_AUTH": "required", "WORKER_PROCESSES": "1", **database, **env}
        started.append(Service(tmp_path / "tasks", settings))
        return started[-1]

    yield start
    for service in started:
        service.kill()


def assert_tasks_are_their_owners(tasks: Service, tokens: TokenService) -> None:
    ada, bob = User(tokens), User(tokens)
    task_id = submitted(tasks, ada, "one two three")
    assert post(tasks, "/api/result", {"task_id": task_id}, ada).status_code == 200
    assert post(tasks, "/api/result", {"task_id": task_id}, bob).json()["code"] == "task_not_found"
    assert post(tasks, "/api/tasks", {}, bob).json()["items"] == []
    assert len(post(tasks, "/api/tasks", {}, ada).json()["items"]) == 1
    assert tasks.post("/api/task", {"type": "echo"}).status_code == 401
    ada.take(ada.login(scope="data").json())
    refused = post(tasks, "/api/tasks", {}, ada)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")


@ON_A_FILE
def test_one_secret_lets_the_users_of_one_service_submit_to_the_other(
    start_tokens: Callable[..., TokenService], start_tasks: Callable[..., Service]
) -> None:
    assert_tasks_are_their_owners(start_tasks(SECRET_KEY=SECRET), start_tokens(SECRET_KEY=SECRET))


def test_tasks_and_schedules_are_exported_and_deleted_with_their_user_where_the_database_is_shared(
    start_tokens: Callable[..., TokenService],
    start_tasks: Callable[..., Service],
    tmp_path: Path,
    database: dict[str, str],
) -> None:
    shared = {"SECRET_KEY": SECRET, "DATABASE_URL": database.get("DATABASE_URL", f"sqlite:///{tmp_path}/shared.db")}
    tokens, tasks = start_tokens(**shared), start_tasks(**shared)
    ada, bob = User(tokens), User(tokens)
    for user in (ada, bob):
        submitted(tasks, user, "one two")
        schedule = {"name": "nightly", "every": 3600, "type": "echo"}
        assert post(tasks, "/api/schedule", schedule, user).status_code == 201
        keyed = {"Authorization": str(user.headers["Authorization"]), "Idempotency-Key": "k"}
        assert tasks.post("/api/task", {"type": "echo", "delay": 3600}, headers=keyed).status_code == 202
    exported = ada.get("/me/export").json()
    kinds = [(task["type"], task["status"]) for task in exported["tasks"]]
    assert kinds == [("text.stats", "succeeded"), ("echo", "queued")]
    assert exported["tasks"][0]["payload"] == {"text": "one two"} and exported["tasks"][0]["result"]["words"] == 2
    assert [(one["name"], one["task"]["type"]) for one in exported["schedules"]] == [("nightly", "echo")]
    assert ada.delete("/me", json={"current_password": ada.password}).status_code == 204

    def left(user: User) -> tuple[int, int]:
        listed = post(tasks, "/api/tasks", {}, user).json()["items"]
        return len(listed), len(post(tasks, "/api/schedules", {}, user).json()["items"])

    eventually(lambda: left(ada) == (0, 0), seconds=30)  # its token is good there until it expires
    assert left(bob) == (2, 1)


# Each table that has something about a user or a machine, and where an export has it.
EXPORTED = {
    "account": "user id",
    "session": "sessions id",
    "refresh_token": "sessions refreshed_at",
    "attempt": "attempts at",
    "event": "events at",
    "item": "items data",
    "deleted_item": "deleted_items deleted_at",
    "idempotency_key": "kept_answers body",
    "mail": "mails due_at",
    "mail_token": "mail_tokens expires_at",
    "client_secret": "client_secrets created_at",
    "task": "tasks task_id",
    "task_payload": "tasks payload",
    "task_result": "tasks result",
    "task_checkpoint": "tasks checkpoint",
    "task_failure": "task_failures error",
    "webhook": "tasks notify_url",
    "schedule": "schedules name",
}
NOT_EXPORTED = {
    "kept_answers": "the sum of what idempotency_key has",
    "departure": "only owners who are deleted",
    "revoked_token": "random ids of tokens, which name no client",
    "gate": "types and keys that tasks have, and whose turn was last",
    "stopping": "permits of cancelled tasks, whose types and keys the tasks have",
    "lane": "task types",
    "worker": "the operator's processes",
    "secret": "the services' own",
    "probe": "writes of /health",
    "exported": "the views of an export",
    "migration": "the schema",
}

DIGESTS = ("refresh_token", "mail_token", "client_secret")


def test_each_table_is_in_the_export_or_has_nothing_to_export(
    start_tokens: Callable[..., TokenService],
    start_tasks: Callable[..., Service],
    database: dict[str, str],
) -> None:
    tokens = start_tokens(SECRET_KEY=SECRET, MAIL_URL=f"smtp://127.0.0.1:{free_port()}?from=hello@example.org")
    shared = {"DATABASE_URL": f"sqlite:///{tokens.file}"} | database
    tasks = start_tasks(SECRET_KEY=SECRET, TASK_MODULES="tests.ordinary", **shared)
    assert set(tables(tokens)) == EXPORTED.keys() | NOT_EXPORTED.keys()

    ada, machine = User(tokens), Machine(tokens)
    ada.take(refresh(tokens, ada.refresh_token).json())
    item = ada.add("kept", **{"Idempotency-Key": "a-key"})
    assert ada.delete(f"/data/{item['id']}").status_code == 204
    ada.add("stored")
    submitted(tasks, ada, "one two", notify="http://localhost:9/told")
    unfinished = {"type": "count.down", "payload": {"until": 100}, "max_attempts": 25, "unique": "one"}
    assert post(tasks, "/api/task", unfinished, ada).status_code == 202
    assert post(tasks, "/api/schedule", {"name": "nightly", "every": 3600, "type": "echo"}, ada).status_code == 201

    def exported() -> dict[str, Any]:
        of_machine = tokens.get("/me/export", headers=machine.bearer()).json()
        return {**ada.get("/me/export").json(), "client_secrets": of_machine["client_secrets"]}

    def absent() -> list[str]:
        found = exported()
        lists = {member: value if isinstance(value, list) else [value] for member, value in found.items()}
        return [
            table
            for table, (member, column) in ((table, where.split()) for table, where in EXPORTED.items())
            if not any(entry[column] is not None for entry in lists[member])
        ]

    eventually(lambda: absent() == [], seconds=30)  # a mail is tried, and a task fails
    found = exported()
    (answer,) = found["kept_answers"]
    assert answer.pop("expires_at") > item["created_at"]
    assert answer == {"route": "POST /data", "key": "a-key", "status": 201, "body": item, "headers": None}
    assert [one["id"] for one in found["deleted_items"]] == [item["id"]]
    digests = [one for table in DIGESTS for (one,) in rows(tokens, f"SELECT digest FROM {table}")]
    assert not any(digest in str(found) for digest in digests)


@ON_A_FILE
def test_with_a_key_pair_the_other_service_needs_the_public_half_alone(
    start_tokens: Callable[..., TokenService], start_tasks: Callable[..., Service], tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    tokens = start_tokens(SIGNING_KEY_FILE="key.pem")
    (tmp_path / "jwks.json").write_bytes(tokens.get("/.well-known/jwks.json").content)
    tasks = start_tasks(JWKS_FILE=str(tmp_path / "jwks.json"), SECRET_KEY=SECRET)
    assert_tasks_are_their_owners(tasks, tokens)
    forged = {"Authorization": f"Bearer {token()}"}  # signed with the secret, which is for cursors here
    assert tasks.post("/api/tasks", {}, headers=forged).status_code == 401


@ON_A_FILE
def test_a_token_of_another_secret_is_refused(
    start_tokens: Callable[..., TokenService], start_tasks: Callable[..., Service]
) -> None:
    tasks, user = start_tasks(SECRET_KEY=SECRET), User(start_tokens(SECRET_KEY=OTHER_SECRET))
    answer = post(tasks, "/api/task", {"type": "echo"}, user)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
