"""Workers in any language: the same runs as those of the service's own workers, claimed over HTTP."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from only_post_svc import elsewhere, hints, queue
from only_post_svc.elsewhere import RunElsewhere
from only_post_svc.main import SCHEMA
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import NewTask
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from shared.database import Database, Transaction, connection
from tests.databases import rows, settings_of
from tests.processes import ROOT, Process, Service, Worker, end_family, eventually
from tests.receivers import receiving
from tests.shared.engines import ENGINES
from tests.tokens import SECRET, bearer

MODULES = "tests.tasks,tests.elsewhere_tasks"
TYPE = "thumbs.make"
PAYLOAD = {"url": "https://a.example/1.0.png", "sizes": [1]}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECONDS = float(os.environ.get("ELSEWHERE_SECONDS", "3"))
PAGE = ROOT / "docs" / "workers-elsewhere.md"


@pytest.fixture(scope="module")
def env(storage: str) -> dict[str, str]:
    return {"TASK_MODULES": MODULES, "WORKER_PROCESSES": "1"}


@pytest.fixture(scope="module")
def served(storage: str, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with settings_of(storage) as database:
        service = Service(tmp_path_factory.mktemp("service"), {**env, **database})
        yield service
        service.kill()


@pytest.fixture
def service(served: Service) -> Iterator[Service]:
    """One on which no task is left to claim."""
    yield served
    while served.post("/api/cancel", {"filter": {}}).json()["has_more"]:
        pass


def claim(
    service: Service, limit: int = 1, wait: float = 0, types: tuple[str, ...] = (TYPE,), **options: Any
) -> list[Any]:
    answer = service.post("/api/claim", {"types": list(types), "limit": limit, "wait": wait}, **options)
    assert answer.status_code == 200, answer.text
    items: list[Any] = answer.json()["items"]
    return items


def held(run: Any, **more: Any) -> Any:
    return {"task_id": run["task_id"], "lease": run["lease"], **more}


def finish(service: Service, *runs: Any) -> list[bool]:
    answer = service.post("/api/finish", {"runs": list(runs)})
    assert answer.status_code == 200, answer.text
    return [one["is_held"] for one in answer.json()["items"]]


def renew(service: Service, *runs: Any) -> list[Any]:
    answer = service.post("/api/renew", {"runs": list(runs)})
    assert answer.status_code == 200, answer.text
    items: list[Any] = answer.json()["items"]
    return items


def lose(service: Service, run: Any) -> None:
    """The lease of the run is over."""
    rows(service, "UPDATE task SET lease_until = 0 WHERE id = ?", run["task_id"])
    eventually(lambda: service.result(run["task_id"])["status"] != "running", 30)


class Store:
    """A queue of TYPE, and the requests that wait for its tasks."""

    def __init__(self, database: Database, url: str) -> None:
        types = [TaskType(TYPE, "", {}, timeout=60, max_attempts=3, is_async=True, elsewhere=True)]
        settings = Settings.from_env({"DATABASE_URL": url}, makes_files=False)
        self._database = database
        self._claimants = elsewhere.Claimants(database, settings, types, TaskCounts(), lambda *about: None)
        self.looks = 0
        self._look, self._claimants._take = self._claimants._take, self._count_look  # type: ignore[method-assign]

    async def _count_look(self, types: tuple[str, ...], limit: int) -> list[RunElsewhere]:
        runs = await self._look(types, limit)
        self.looks += 1
        return runs

    async def claim(self, seconds: float) -> list[str]:
        async def never() -> bool:
            return False

        return [run.claim.type for run in await self._claimants.claim([TYPE], 1, seconds, never)]

    async def take_no_pause(self, looks: int) -> None:
        """Once so many requests have looked and found nothing: as if that were long ago."""
        while self.looks < looks:
            await asyncio.sleep(0.01)
        self._claimants._tried_at.clear()

    async def submit(self, hint: str = hints.QUEUED) -> None:
        new = NewTask(type=TYPE, payload="{}", timeout_ms=60_000, max_attempts=3, lane=TYPE)

        def unit(tx: Transaction) -> None:
            queue.submit(tx, "", new)
            tx.publish(hint)

        await self._database.write(unit)


@pytest.fixture(params=ENGINES)
def on_a_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Does some work over one whose requests hear of tasks by hints alone."""
    monkeypatch.setattr(elsewhere, "POLL_SECONDS", 1000.0)

    def do(work: Callable[[Store], Awaitable[Any]]) -> Any:
        async def connected(url: str) -> Any:
            database = await connection.connect(url, {"only_post": SCHEMA})
            async with asyncio.timeout(20):
                done = await work(Store(database, url))
            await database.close()
            return done

        with ENGINES[request.param](tmp_path) as engine:
            return asyncio.run(connected(engine.url))

    return do


@pytest.mark.parametrize("hint", [hints.QUEUED, hints.queued_but_for("a worker here")])
def test_a_claim_hears_of_what_is_submitted_while_it_looks(on_a_store: Callable[..., Any], hint: str) -> None:
    """They are one group, and the claim's unit is the first."""

    async def work(store: Store) -> list[str]:
        claimed, _ = await asyncio.gather(store.claim(25), store.submit(hint))
        return claimed

    assert on_a_store(work) == [TYPE]


def test_a_hint_that_comes_to_a_request_which_does_not_wait_is_passed_on(on_a_store: Callable[..., Any]) -> None:
    async def work(store: Store) -> tuple[list[str], list[str]]:
        at_once, later, _ = await asyncio.gather(store.claim(0), store.claim(25), store.submit())
        return at_once, later

    assert on_a_store(work) == ([], [TYPE])


def test_claims_that_find_tasks_follow_each_other_without_a_pause(
    on_a_store: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submits of one transaction have one hint, which each passes on."""
    monkeypatch.setattr(elsewhere, "PAUSE_SECONDS", 1000.0)

    async def work(store: Store) -> list[list[str]]:
        waiting = [asyncio.create_task(store.claim(25)) for _ in range(4)]
        await store.take_no_pause(looks=4)
        await asyncio.gather(*(store.submit() for _ in range(4)))
        return await asyncio.gather(*waiting)

    assert on_a_store(work) == [[TYPE]] * 4


def test_the_life_of_a_run(service: Service) -> None:
    submitted = service.submit(TYPE, PAYLOAD)
    (run,) = claim(service)
    assert claim(service) == []
    assert run["task_id"] == submitted["task_id"]
    assert (run["type"], run["payload"], run["attempt"], run["max_attempts"]) == (TYPE, PAYLOAD, 1, 3)
    assert (run["key"], run["traceparent"]) == (None, None)
    assert run["deadline"] > run["lease_until"] > submitted["created_at"]

    (renewed,) = renew(service, held(run, progress={"fraction": 0.5, "message": "half"}))
    assert (renewed["task_id"], renewed["is_held"]) == (run["task_id"], True)
    assert renewed["lease_until"] >= run["lease_until"]
    task = service.result(run["task_id"])
    assert (task["status"], task["progress"]) == ("running", {"fraction": 0.5, "message": "half"})

    assert finish(service, held(run, result={"n": 1.0})) == [True]
    task = service.result(run["task_id"])
    assert (task["status"], task["result"], task["attempt"]) == ("succeeded", {"n": 1.0}, 1)
    assert finish(service, held(run, result=2)) == [False]
    assert renew(service, held(run)) == [{"task_id": run["task_id"], "is_held": False, "lease_until": None}]
    assert service.result(run["task_id"]) == task


def test_runs_are_claimed_and_finished_in_bulk(service: Service) -> None:
    tasks = [{"type": TYPE, "payload": PAYLOAD, "priority": number % 3} for number in range(40)]
    assert service.post("/api/batch", {"tasks": tasks}).status_code == 202
    runs = claim(service, limit=30)
    assert len(runs) == 30
    good, bad = runs[:20], runs[20:]
    endings = [held(run, result=None) for run in good] + [
        held(run, error={"message": "no"}, retry=False) for run in bad
    ]
    strange = {"task_id": good[0]["task_id"], "lease": "no such lease"}
    assert finish(service, *endings, strange, held(bad[0], result=1)) == [True] * 30 + [False, True]
    assert [service.result(run["task_id"])["status"] for run in (good[0], bad[0], bad[-1])] == [
        "succeeded",
        *["failed"] * 2,
    ]
    assert len(claim(service, limit=100)) == 10


def test_a_failure_is_tried_again_unless_it_says_not(service: Service) -> None:
    again, never = service.submit(TYPE, PAYLOAD)["task_id"], service.submit(TYPE, PAYLOAD)["task_id"]
    runs = {run["task_id"]: run for run in claim(service, limit=2)}
    error = {"message": "no" * 5000, "type": "ValueError"}
    finish(service, held(runs[again], error=error, retry_after=0.1), held(runs[never], error=error, retry=False))
    task = service.result(never)
    assert (task["status"], task["error"]["code"], task["error"]["type"]) == ("failed", "task_error", "ValueError")
    assert len(task["error"]["message"]) == 2000
    (run,) = claim(service, wait=20)
    assert (run["task_id"], run["attempt"]) == (again, 2)


def test_what_a_lost_lease_reports_changes_nothing(service: Service) -> None:
    service.submit(TYPE, PAYLOAD)
    (zombie,) = claim(service)
    lose(service, zombie)
    (run,) = claim(service, wait=20)
    assert (run["task_id"], run["attempt"]) == (zombie["task_id"], 2)
    assert not renew(service, held(zombie, progress={"fraction": 1}))[0]["is_held"]
    assert finish(service, held(zombie, result="zombie"), held(zombie, error={"message": "zombie"})) == [False, False]
    task = service.result(run["task_id"])
    assert (task["status"], task["progress"]) == ("running", None)
    assert finish(service, held(run, result="alive")) == [True]
    assert service.result(run["task_id"])["result"] == "alive"


def test_the_next_attempt_finds_the_latest_checkpoint(service: Service) -> None:
    service.submit(TYPE, PAYLOAD)
    (run,) = claim(service)
    assert run["saved"] is None
    renew(service, held(run, checkpoint={"done": 1.0}), {"task_id": run["task_id"], "lease": "other", "checkpoint": 0})
    lose(service, run)
    renew(service, held(run, checkpoint="zombie"))
    (run,) = claim(service, wait=20)
    assert run["saved"] == {"done": 1.0}
    finish(service, held(run, error={"message": "no"}, retry_after=0, checkpoint=[2]))
    (run,) = claim(service, wait=20)
    assert run["saved"] == [2]
    finish(service, held(run, result=3))
    task = service.result(run["task_id"])
    assert [failure["error"]["code"] for failure in task["failures"]] == ["worker_lost", "task_error"]
    assert rows(service, "SELECT * FROM task_checkpoint") == []


def test_a_cancelled_run_is_told_to_stop(service: Service) -> None:
    service.submit(TYPE, PAYLOAD)
    (run,) = claim(service)
    assert service.post("/api/cancel", {"task_id": run["task_id"]}).status_code == 200
    assert not renew(service, held(run))[0]["is_held"]
    assert finish(service, held(run, result=1)) == [False]


def test_no_lease_goes_beyond_the_deadline(service: Service) -> None:
    service.submit("thumbs.brief")
    (run,) = claim(service, types=("thumbs.brief",))
    assert run["lease_until"] == run["deadline"]
    eventually(lambda: not renew(service, held(run))[0]["is_held"])
    (again,) = claim(service, types=("thumbs.brief",), wait=25)  # it is recovered without a renewal that fails
    assert (again["task_id"], again["attempt"]) == (run["task_id"], 2)
    task = service.result(run["task_id"])
    assert [failure["error"]["code"] for failure in task["failures"]] == ["timeout"]
    assert task["run_at"] > run["deadline"]  # it has waited for its retry


def test_a_lease_is_good_for_its_own_task_alone(service: Service) -> None:
    first, second = (service.submit(TYPE, PAYLOAD)["task_id"] for _ in range(2))
    run, other = claim(service, limit=2)
    assert [run["task_id"], other["task_id"]] == [first, second]
    wrong = {"task_id": second, "lease": run["lease"]}
    assert [one["is_held"] for one in renew(service, wrong, held(run))] == [False, True]
    assert finish(service, {**wrong, "result": "of another"}, held(run, result="its own")) == [False, True]
    assert service.result(first)["result"] == "its own"
    assert finish(service, held(other, result=None)) == [True]
    assert service.result(second)["status"] == "succeeded"


def test_a_claim_waits_for_a_task(service: Service) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(claim(service, wait=20, limit=2))) for _ in range(5)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    while any(thread.is_alive() for thread in threads):  # one claim may get two
        service.submit(TYPE, PAYLOAD)
        time.sleep(0.05)  # another client's pace
        assert time.monotonic() - started < 15
    assert len(found) >= 5
    assert len({run["lease"] for run in found}) == len(found)
    assert claim(service, types=("thumbs.brief",), wait=0.1) == []


def test_a_client_that_has_gone_gets_none(service: Service) -> None:
    body = json.dumps({"types": [TYPE], "wait": 25}).encode()
    head = f"POST /api/claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", service.port)) as gone:
            gone.sendall(head.encode() + body)
            time.sleep(0.3)  # it waits by then
    submitted = service.submit(TYPE, PAYLOAD)
    (run,) = claim(service, wait=20)
    assert (run["task_id"], run["attempt"]) == (submitted["task_id"], 1)


def test_own_workers_leave_it_alone_and_others_are_not_held_up(
    start_service: Callable[..., Service], start_worker: Callable[..., Worker], env: dict[str, str]
) -> None:
    service = start_service(**env)
    start_worker(TASK_MODULES=MODULES, WORKER_PROCESSES="1")
    for _ in range(50):
        service.submit(TYPE, PAYLOAD, priority=100)
    assert service.run("echo", {"a": 1})["status"] == "succeeded"
    runs = claim(service, limit=100)
    assert len(runs) == 50
    retried = runs[0]["task_id"]
    finish(service, held(runs[0], error={"message": "no"}, retry=False))
    assert service.post("/api/retry", {"task_id": retried}).status_code == 202
    assert [run["task_id"] for run in claim(service, wait=20)] == [retried]


def test_callers_take_turns_here_too(start_service: Callable[..., Service], env: dict[str, str]) -> None:
    service = start_service(**env, TASK_AUTH="required", SECRET_KEY=SECRET)
    for caller, count in (("ann", 20), ("bob", 2)):
        tasks = [{"type": TYPE, "payload": {"url": caller}} for _ in range(count)]
        assert service.post("/api/batch", {"tasks": tasks}, headers=bearer(sub=caller)).status_code == 202
    refused = service.post("/api/claim", {"types": [TYPE]}, headers=bearer(sub="ann"))
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    runs = claim(service, limit=4, headers=bearer(sub="worker", scope="work"))
    assert sorted(run["payload"]["url"] for run in runs) == ["ann", "ann", "bob", "bob"]


def test_no_caller_has_more_running_than_it_may(start_service: Callable[..., Service], env: dict[str, str]) -> None:
    service = start_service(**env, TASK_AUTH="required", SECRET_KEY=SECRET, MAX_RUNNING_PER_CALLER="2")
    for caller, count in (("ann", 5), ("bob", 1)):
        tasks = [{"type": TYPE, "payload": {"url": caller}} for _ in range(count)]
        assert service.post("/api/batch", {"tasks": tasks}, headers=bearer(sub=caller)).status_code == 202
    worker = bearer(sub="worker", scope="work")
    runs = claim(service, limit=10, headers=worker)
    assert sorted(run["payload"]["url"] for run in runs) == ["ann", "ann", "bob"]
    assert claim(service, limit=10, headers=worker) == []
    (first, *_) = [run for run in runs if run["payload"]["url"] == "ann"]
    assert service.post("/api/finish", {"runs": [held(first, result=1)]}, headers=worker).status_code == 200
    (run,) = claim(service, limit=10, wait=20, headers=worker)
    assert run["payload"]["url"] == "ann"


GOOD = {"task_id": "a", "lease": "b", "result": 0}


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/api/claim", {"types": ["echo"]}, "/types/0"),
        ("/api/claim", {"types": [TYPE, "nothing"]}, "/types/1"),
        ("/api/claim", {"types": []}, "/types"),
        ("/api/claim", {"types": [TYPE], "limit": 101}, "/limit"),
        ("/api/claim", {"types": [TYPE], "wait": 26}, "/wait"),
        ("/api/renew", {"runs": []}, "/runs"),
        ("/api/renew", {"runs": [{"task_id": "a"}]}, "/runs/0/lease"),
        (
            "/api/renew",
            {"runs": [{"task_id": "a", "lease": "b", "progress": {"fraction": 2}}]},
            "/runs/0/progress/fraction",
        ),
        ("/api/finish", {"runs": [{"task_id": "a", "lease": "b", "error": {}}]}, "/runs/0/error/message"),
        ("/api/finish", {"runs": [{"task_id": "a", "lease": "b", "retry_after": -1}]}, "/runs/0/retry_after"),
        ("/api/finish", {"runs": [{"task_id": "a", "lease": "b"}] * 101}, "/runs"),
        ("/api/finish", {"runs": [GOOD, GOOD | {"error": {"message": "no"}}]}, "/runs/1/result"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(of_module: Service, path: str, body: Any, pointer: str) -> None:
    answer = of_module.post(path, body)
    assert (answer.status_code, [fault["pointer"] for fault in answer.json()["errors"]]) == (422, [pointer])


BOTH = GOOD | {"error": {"message": "no"}}


@pytest.mark.parametrize(
    ("path", "body", "pointers"),
    [
        ("/api/claim", {"types": ["echo", 5], "limit": 0}, ["/types/1", "/limit", "/types/0"]),
        ("/api/finish", {"runs": [BOTH, {"task_id": "a"}, 5]}, ["/runs/1/lease", "/runs/2", "/runs/0/result"]),
    ],
)
def test_all_that_is_wrong_is_told(of_module: Service, path: str, body: Any, pointers: list[str]) -> None:
    answer = of_module.post(path, body)
    assert (answer.status_code, [fault["pointer"] for fault in answer.json()["errors"]]) == (422, pointers)


@pytest.fixture(scope="module")
def of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("elsewhere"), {"TASK_MODULES": MODULES, "WORKER_PROCESSES": "1"})
    yield service
    service.kill()


def test_a_traceparent_goes_all_the_way(of_module: Service) -> None:
    with receiving() as receiver:
        body = {"type": "trace.seen", "wait": 20, "notify": f"{receiver.url}/traced"}
        task = of_module.post("/api/task", body, headers={"traceparent": PARENT}).json()
        assert task["result"] == PARENT
        (news,) = eventually(lambda: receiver.of("/traced"))
        assert news.headers["traceparent"] == PARENT
    body = {"tasks": [{"type": TYPE, "payload": PAYLOAD}]}
    assert of_module.post("/api/batch", body, headers={"traceparent": PARENT}).status_code == 202
    (run,) = claim(of_module)
    assert run["traceparent"] == PARENT
    finish(of_module, held(run, error={"message": "traced"}, retry=False))
    (line,) = [
        line for line in of_module.log.read_text().splitlines() if "run.failed" in line and run["task_id"] in line
    ]
    assert f"traceparent={PARENT}" in line


@pytest.mark.parametrize(
    "sent",
    ["", "00", PARENT.upper(), PARENT.replace("00-", "ff-"), f"00-{'0' * 32}-b7ad6b7169203331-01", f"{PARENT}-x", "é"],
    ids=ascii,
)
def test_a_bad_traceparent_is_left_out(of_module: Service, sent: str) -> None:
    answer = of_module.post(
        "/api/task", {"type": "trace.seen", "wait": 20}, headers={"traceparent": sent.encode("latin-1")}
    )
    assert (answer.status_code, answer.json()["result"]) == (200, None)


def program(name: str, directory: Path) -> Path:
    """One of the page's, as a reader would copy it."""
    (text,) = re.findall(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = directory / name
    file.write_text(text)
    return file


class Program(Process):
    def __init__(self, command: str, file: Path, service: Service, name: str = "elsewhere") -> None:
        self.program = command  # type: ignore[misc]
        super().__init__(file.parent, str(file), env={"ONLY_POST_URL": service.url}, name=name)


PROGRAMS = [("sh", "worker.sh"), ("node", "worker.mjs")]


@pytest.mark.parametrize(("command", "name"), PROGRAMS)
def test_the_workers_of_the_page_work(of_module: Service, tmp_path: Path, command: str, name: str) -> None:
    if shutil.which(command) is None or (command == "sh" and shutil.which("jq") is None):
        pytest.skip(f"{command} or jq is not installed")
    worker = Program(command, program(name, tmp_path), of_module)
    try:
        for number in range(3):
            task = of_module.run(TYPE, {"url": f"https://a.example/{number}", "sizes": [number]})
            assert task["result"] == {"made": [number], "of": f"https://a.example/{number}"}, worker.log.read_text()
    finally:
        worker.kill()
        end_family(tmp_path)  # a curl that claims would take the next test's task


def test_the_shell_worker_has_about_forty_lines() -> None:
    (text,) = re.findall(r"^```sh worker.sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert text.count("\n") <= 40


def test_every_task_ends_once_though_node_workers_are_killed(
    start_service: Callable[..., Service], env: dict[str, str], tmp_path: Path
) -> None:
    """ELSEWHERE_SECONDS says for how long; each is killed, or stopped for two leases and continued."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    service = start_service(**env, LEASE_SECONDS="2")
    file = program("worker.mjs", tmp_path)
    file.write_text(file.read_text().replace("await types[type]", "await sleep(0.2), await types[type]"))
    workers = [Program("node", file, service, f"node-{number}") for number in range(2)]
    chance, ids, until = random.Random(1), [], time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            tasks = [{"type": TYPE, "payload": PAYLOAD, "max_attempts": 25} for _ in range(20)]
            ids += [task["task_id"] for task in service.post("/api/batch", {"tasks": tasks}).json()["items"]]
            unlucky = workers.pop(0)
            if chance.random() < 0.5:
                unlucky.kill()
                workers.append(Program("node", file, service, f"node-{len(ids)}"))
            else:
                unlucky.send(signal.SIGSTOP)
                time.sleep(4)  # two leases, the length of the fault itself
                unlucky.send(signal.SIGCONT)
                workers.append(unlucky)
        tasks_by_id = {task_id: service.ended(task_id, 60) for task_id in ids}
    finally:
        for worker in workers:
            worker.kill()
    assert {task["status"] for task in tasks_by_id.values()} == {"succeeded"}
    assert {task_id: service.result(task_id) for task_id in ids} == tasks_by_id
