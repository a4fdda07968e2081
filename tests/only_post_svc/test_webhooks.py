"""Webhooks: every end is told, however it comes, at least once, signed, and one receiver delays no other."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from only_post_svc import queue, webhooks
from only_post_svc.main import SCHEMA
from only_post_svc.settings import Settings
from only_post_svc.webhooks import AGAIN_SECONDS, HELD_SECONDS, Hands, Webhook
from shared.settings import Secret, SettingsError
from tests.commands import command, said
from tests.databases import rows
from tests.only_post_svc.store import ERROR, LOST, Store
from tests.processes import Service, Worker, eventually
from tests.receivers import Receiver, receiving
from tests.shared.engines import ENGINES
from tests.tokens import private_key
from tests.transactions import opened

KEYS = [f"whsec_{base64.b64encode(bytes([number]) * 24).decode()}" for number in (1, 2)]
URL = "http://receiver.example/path"
ENDS = int(os.environ.get("WEBHOOK_ENDS", "60"))  # that are told while everything is killed


class Telling(Store):
    """`slow` are the hosts whose last delivery failed."""

    def submit(self, type: str = "a", caller: str = "", **options: Any) -> str:
        return super().submit(type, caller, **{"notify": URL, **options})

    def cancel(self, task_id: str) -> str:
        assert self.do(lambda tx: queue.cancel(tx, "", task_id))
        return task_id

    def take(self, hands: int = 100, of_a_host: int = 100, after: str = "", slow: list[str] = []) -> list[Webhook]:  # noqa: B006
        free = Hands([], slow, of_a_host, 1)
        return self.do(lambda tx: webhooks.take(tx, after, hands, free))[0]

    def note(self, webhook: Webhook, error: str | None, *, is_final: bool = False) -> None:
        self.do(lambda tx: webhooks.note(tx, webhook, error, is_final=is_final))

    def shown(self, task_id: str) -> Any:
        return json.loads(self.find(task_id).notify or "null")


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Telling]:
    with opened(Telling, request.param, tmp_path, {"only_post": SCHEMA}) as store:
        yield store


def succeed(store: Telling) -> str:
    run = store.run()
    assert store.finish(run, result="1")
    return run.id


def succeed_together(store: Telling) -> str:
    run = store.run()
    store.do(lambda tx: queue.succeed(tx, [(run, queue.Ending(result="1"))]))
    return run.id


def fail(store: Telling) -> str:
    run = store.run(max_attempts=1)
    assert store.finish(run, error=ERROR)
    return run.id


def cancel(store: Telling) -> str:
    return store.cancel(store.submit())


def cancel_running(store: Telling) -> str:
    return store.cancel(store.run().id)


def lose(store: Telling) -> str:
    run = store.run(max_attempts=1)
    store.later(31)
    assert store.do(lambda tx: queue.recover(tx, LOST, 30)) == [run.id]
    return run.id


@pytest.mark.parametrize("end", [succeed, succeed_together, fail, cancel, cancel_running, lose])
def test_however_a_task_ends_there_is_news_of_it(store: Telling, end: Callable[[Telling], str]) -> None:
    assert store.do(webhooks.seconds_to_next) is None
    task_id = end(store)
    assert store.do(webhooks.seconds_to_next) == 0
    (news,) = store.take()
    assert (news.task_id, news.message_id, news.url, news.attempts) == (task_id, task_id, URL, 0)


def test_there_is_none_while_it_has_not_ended_or_has_no_webhook(store: Telling) -> None:
    run = store.run()
    assert store.finish(run, error=ERROR)  # it waits for another try
    other = store.run(notify=None)
    assert store.finish(other, result="1")
    assert store.take() == []
    assert store.find(other.id).notify is None
    assert store.shown(run.id) == {"url": URL, "status": "pending", "attempts": 0, "last_error": None}


def test_what_was_sent_is_not_sent_again(store: Telling) -> None:
    task_id = cancel(store)
    (news,) = store.take()
    store.note(news, None)
    store.later(10 * HELD_SECONDS)
    assert store.take() == []
    assert store.shown(task_id) == {"url": URL, "status": "sent", "attempts": 1, "last_error": None}


def test_a_failure_is_tried_again_later_each_time_and_then_given_up(store: Telling) -> None:
    task_id = cancel(store)
    for attempt, seconds in enumerate(AGAIN_SECONDS, 1):
        (news,) = store.take()
        store.note(news, "answered 500")
        assert store.shown(task_id) == {
            "url": URL,
            "status": "pending",
            "attempts": attempt,
            "last_error": "answered 500",
        }
        store.later(seconds - 0.001)
        assert store.take() == []
        store.later(0.001)
    (news,) = store.take()
    store.note(news, "x" * 1000)
    assert store.shown(task_id) == {"url": URL, "status": "failed", "attempts": 8, "last_error": "x" * 200}
    store.later(30 * 86400)
    assert store.take() == []


def test_410_ends_it(store: Telling) -> None:
    task_id = cancel(store)
    store.note(store.take()[0], "answered 410", is_final=True)
    assert (store.shown(task_id)["status"], store.shown(task_id)["attempts"]) == ("failed", 1)


def test_what_a_dead_worker_took_is_sent_by_another(store: Telling) -> None:
    cancel(store)
    (first,) = store.take()
    assert store.take() == []
    store.later(HELD_SECONDS)
    (second,) = store.take()
    store.note(first, "too late")  # it was given up, and writes nothing
    store.note(second, None)
    assert store.shown(second.task_id)["attempts"] == 1


def test_an_end_after_a_retry_is_news_of_its_own(store: Telling) -> None:
    task_id = cancel(store)
    (first,) = store.take()
    assert store.do(lambda tx: queue.retry(tx, "", task_id))
    store.note(first, None)  # of an end that is taken back
    store.later(HELD_SECONDS)
    assert (store.take(), store.shown(task_id)["status"]) == ([], "pending")
    store.cancel(task_id)
    assert [news.message_id for news in store.take()] == [f"{task_id}.2"]


def test_hosts_take_turns_however_much_there_is_for_one(store: Telling) -> None:
    for number in range(30):
        store.cancel(store.submit(notify=f"http://many.example/{number}"))
    for name in ("a", "z"):
        store.cancel(store.submit(notify=f"http://{name}.example/"))
    hosts = [news.host for news in store.take(hands=8, of_a_host=4)]
    assert hosts == ["a.example", *["many.example"] * 4, "z.example"]
    assert [news.host for news in store.take(hands=8, slow=["many.example"])] == ["many.example"]
    assert len(store.take(hands=3, after="m")) == 3


def test_a_pruned_task_leaves_nothing(store: Telling) -> None:
    cancel(store)
    store.later(100)
    assert store.do(lambda tx: queue.prune(tx, 10)) == 1
    assert store.do(lambda tx: tx.all("SELECT * FROM webhook")) == []


def test_an_operator_sends_it_again(store: Telling) -> None:
    task_id = cancel(store)
    store.note(store.take()[0], "answered 410", is_final=True)
    assert store.do(lambda tx: webhooks.send_again(tx, task_id))
    assert [news.task_id for news in store.take()] == [task_id]
    waiting = store.submit()
    assert not store.do(lambda tx: webhooks.send_again(tx, waiting))


def test_a_signature_is_what_standard_webhooks_verifies_with_each_secret() -> None:
    given = Settings.from_env({"SECRET_KEY": "s" * 32, "WEBHOOK_SECRET": ",".join(KEYS)}).webhook_secret
    secrets = webhooks.signing_secrets(given, [b"s" * 32])
    signed = webhooks.signature(secrets, "id", 1_800_000_000, b'{"a":1}')
    assert len(signed.split(" ")) == 2
    for key, one in zip(KEYS, signed.split(" "), strict=True):
        moment = datetime.fromtimestamp(1_800_000_000, UTC)
        assert standardwebhooks.Webhook(key).sign("id", moment, '{"a":1}') == one


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_short", f"whsec_{'A' * 23}", f"{KEYS[0]},plain"])
def test_a_secret_that_is_none_ends_the_start(secret: str) -> None:
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET: must be whsec_"):
        Settings.from_env({"SECRET_KEY": "s" * 32, "WEBHOOK_SECRET": secret})


@pytest.mark.parametrize("hosts", ["https://hooks.internal", "hooks.internal:8080", "a b", "hooks.internal/x"])
def test_a_host_that_is_none_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="WEBHOOK_HOSTS: must be"):
        Settings.from_env({"SECRET_KEY": "s" * 32, "WEBHOOK_HOSTS": hosts})


def test_hosts_are_named_in_any_case_and_addresses_in_brackets_too() -> None:
    given = {"SECRET_KEY": "s" * 32, "APP_ENV": "production", "WEBHOOK_HOSTS": "Hooks.Internal, [::1]"}
    receivers = Settings.from_env(given).receivers
    assert [receivers.fault(f"http://{host}/x") for host in ("hooks.internal", "[::1]")] == [None, None]


def test_without_a_secret_of_its_own_it_signs_with_one_of_each_lasting_secret() -> None:
    lasting = [b"s" * 32, b"t" * 32]
    secrets = webhooks.signing_secrets((), lasting)
    assert len({secret.value for secret in secrets} - set(lasting)) == 2
    assert all(isinstance(secret, Secret) for secret in secrets)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def told(service: Service, task_id: str, status: str = "sent") -> Any:
    """The task, once its webhook is so."""

    def task() -> Any:
        found = service.result(task_id)
        return found if found["notify"]["status"] == status else None

    return eventually(task, 30)


def test_a_receiver_gets_the_task_signed(start_service: Callable[..., Service], receiver: Receiver) -> None:
    service = start_service(WEBHOOK_SECRET=",".join(KEYS), WORKER_PROCESSES="1")
    url = f"{receiver.url}/hook?a=1"
    submitted = service.submit("echo", {"n": 1.0}, notify=url)
    assert submitted["notify"] == {"url": url, "status": "pending", "attempts": 0, "last_error": None}
    task = told(service, submitted["task_id"])
    assert task["notify"] == {"url": url, "status": "sent", "attempts": 1, "last_error": None}
    (news,) = receiver.of("/hook?a=1")
    for key in KEYS:
        assert standardwebhooks.Webhook(key).verify(news.body, news.headers) == {
            name: value for name, value in task.items() if name != "notify"
        }
    assert news.headers["webhook-id"] == task["task_id"]
    assert news.headers["Content-Type"] == "application/json"
    assert b'"n":1.0' in news.body

    service.post("/api/batch", {"tasks": [{"type": "fail", "notify": f"{receiver.url}/batch"}]})
    eventually(lambda: receiver.of("/batch"))
    assert json.loads(receiver.of("/batch")[0].body)["status"] == "failed"

    again = json.loads(receiver.of("/batch")[0].body)["task_id"]
    assert service.post("/api/retry", {"task_id": again}).status_code == 202
    eventually(lambda: len(receiver.of("/batch")) == 2)
    assert receiver.of("/batch")[1].headers["webhook-id"] == f"{again}.2"

    body = {"name": "told", "type": "echo", "every": 1, "notify": f"{receiver.url}/tick"}
    assert service.post("/api/schedule", body).json()["notify"] == f"{receiver.url}/tick"
    eventually(lambda: receiver.of("/tick"))


def test_where_tokens_are_only_verified_webhooks_are_signed_too(
    start_service: Callable[..., Service], receiver: Receiver, tmp_path: Path
) -> None:
    keys = command(tmp_path, "token_svc", "keys", "public", SIGNING_KEY=private_key()).stdout
    service = start_service(WORKER_PROCESSES="1", JWKS=keys, TASK_AUTH="off")
    told(service, service.submit("echo", notify=receiver.url)["task_id"])
    done = command(service.log.parent, "only_post_svc", "webhooks", "secret", **service.env)
    (news,) = receiver.got
    standardwebhooks.Webhook(done.stdout.strip()).verify(news.body, news.headers)


def test_one_slow_receiver_delays_no_other(start_service: Callable[..., Service], receiver: Receiver) -> None:
    service = start_service(WORKER_PROCESSES="1")
    slow = [{"type": "echo", "notify": f"{receiver.url}/hang"} for _ in range(200)]
    assert service.post("/api/batch", {"tasks": slow}).status_code == 202
    eventually(lambda: receiver.of("/hang"))
    with receiving() as other:
        for _ in range(20):
            service.submit("echo", notify=f"{other.url}/fast")
        eventually(lambda: len(other.of("/fast")) == 20, 8)  # less than a slow one is given
    assert len(receiver.of("/hang")) < 50


def test_a_failure_is_shown_and_tried_again(service: Service, receiver: Receiver) -> None:
    task_id = service.submit("echo", notify=f"{receiver.url}/first/500")["task_id"]
    gone = service.submit("echo", notify=f"{receiver.url}/answer/410")["task_id"]
    failed = eventually(lambda: one if (one := service.result(task_id)["notify"])["attempts"] == 1 else None)
    assert (failed["status"], failed["last_error"]) == ("pending", "answered 500")
    assert told(service, gone, "failed")["notify"]["last_error"] == "answered 410"
    assert told(service, task_id)["notify"]["attempts"] == 2
    first, second = receiver.of("/first/500")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert second.at - first.at >= AGAIN_SECONDS[0]


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_in_production_a_receiver_inside_is_not_asked(
    start_service: Callable[..., Service], receiver: Receiver
) -> None:
    service = start_service(
        APP_ENV="production",
        SHIPPED_TASKS="on",
        SECRET_KEY="s" * 32,
        TASK_AUTH="off",
        HOST="127.0.0.1",
        WORKER_PROCESSES="1",
    )
    answer = service.post("/api/task", {"type": "echo", "notify": f"{receiver.url}/inside"})
    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"pointer": "/notify", "detail": "must be https:// in production"}],
    )
    task_id = service.submit("echo", notify=f"https://localhost:{receiver.port}/inside")["task_id"]
    shown = eventually(lambda: one if (one := service.result(task_id)["notify"])["attempts"] else None)
    assert (shown["status"], shown["last_error"]) == ("pending", "no connection (not a public address)")
    assert receiver.got == []


def test_every_end_is_told_though_everything_is_killed(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker], receiver: Receiver
) -> None:
    """WEBHOOK_ENDS says of how many."""
    service = start_service(WORKER_PROCESSES="0")
    workers = [start_worker(WORKER_PROCESSES="1") for _ in range(2)]
    tasks = [{"type": "note.async", "payload": {"path": "/dev/null"}, "notify": f"{receiver.url}/hook"}] * ENDS
    answer = service.post("/api/batch", {"tasks": tasks})
    wanted = {task["task_id"] for task in answer.json()["items"]}
    eventually(lambda: len(receiver.got) >= ENDS // 6, 60)
    for process in (*workers, service):
        process.kill()
    rows(service, "UPDATE webhook SET next_at = 0 WHERE next_at IS NOT NULL")  # as it would be a minute later
    rows(service, "UPDATE task SET lease_until = 0 WHERE lease_until IS NOT NULL")
    service = start_service(WORKER_PROCESSES="2")

    def are_all_told() -> bool:
        return {json.loads(news.body)["task_id"] for news in list(receiver.got)} == wanted

    eventually(are_all_told, 60)
    eventually(lambda: not rows(service, "SELECT 1 FROM webhook WHERE status <> 'sent'"), 30)


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_operator_lists_and_retries(start_service: Callable[..., Service], receiver: Receiver) -> None:
    service = start_service(WEBHOOK_SECRET=",".join(KEYS), WORKER_PROCESSES="1")
    task_id = service.submit("echo", notify=f"{receiver.url}/first/410")["task_id"]
    told(service, task_id, "failed")

    def operate(*arguments: str) -> str:
        done = command(service.log.parent, "only_post_svc", "webhooks", *arguments, **service.env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [one["task_id"] for one in json.loads(operate("list", "--status", "failed", "--json"))["items"]] == [task_id]
    assert "answered 410" in operate("list")
    assert json.loads(operate("list", "--status", "sent", "--json"))["items"] == []
    operate("retry", task_id)
    told(service, task_id)
    assert operate("secret").split() == KEYS
    gone = command(service.log.parent, "only_post_svc", "webhooks", "retry", "none", **service.env)
    assert "there is no task" in said(gone, 1)
