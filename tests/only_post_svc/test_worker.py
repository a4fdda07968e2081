"""Workers beside web processes, many of either, and fairness between kinds of tasks."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from only_post_svc.worker.upkeep import LOOK_SECONDS
from tests.chaos.traces import is_alive
from tests.databases import ON_A_FILE, rows, shared_by_tests
from tests.processes import TASKS, Process, Service, Worker, eventually, free_port

StartService = Callable[..., Service]
StartWorker = Callable[[], Worker]
ROUNDS = 12


def starts(path: Path) -> Counter[str]:
    """How often each task has begun."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith("start"))


def batch(service: Service, count: int, path: Path, seconds: float = 0.01) -> list[str]:
    payload = {"path": str(path), "seconds": seconds}
    tasks = [{"type": type, "payload": payload} for type in ("note", "note.async")] * (count // 2)
    return [item["task_id"] for item in service.post("/api/batch", {"tasks": tasks}).json()["items"]]


@pytest.fixture
def start_beside(idle: Service, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker process beside it."""
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker(idle.log.parent, {**idle.env, "WORKER_PROCESSES": "1"}, name=tmp_path.name))
        return started[-1]

    yield start
    for worker in started:
        if worker.is_running:
            worker.terminate()


def test_a_worker_runs_the_tasks_of_a_web_process_that_runs_none(idle: Service, start_beside: StartWorker) -> None:
    assert idle.children() == []
    task_id = idle.submit("text.stats", {"text": "a b"})["task_id"]
    assert idle.result(task_id, wait=0.3)["status"] == "queued"
    start_beside()
    assert idle.ended(task_id)["result"]["words"] == 2


def test_a_task_is_claimed_by_the_transaction_that_stores_it_where_a_hand_is_free(start_service: StartService) -> None:
    """So it starts at the time at which it is made: a transaction has one time."""
    service = start_service(WORKER_PROCESSES="1")

    def start_when_made() -> bool:
        """All but those that met a claim under way. (Separate transactions often have the same millisecond.)"""
        tasks = [service.post("/api/task", {"type": "echo", "payload": {"n": n}, "wait": 20}).json() for n in range(40)]
        assert {task["status"] for task in tasks} == {"succeeded"}
        return [task["started_at"] == task["created_at"] for task in tasks].count(True) >= 36

    eventually(start_when_made, 20)


@ON_A_FILE
def test_where_no_hint_arrives_the_end_of_a_run_has_the_worker_claim(
    start_service: StartService, start_worker: Callable[..., Worker], tmp_path: Path, storage: str
) -> None:
    """Each task is submitted while the one before it runs, and no child is ever idle for long."""
    (tmp_path / "tasks.sqlite-hints").touch()  # where the directory of the hints would be
    env = {"DATABASE_URL": f"sqlite:///{tmp_path}/tasks.sqlite"}
    service = start_service(WORKER_PROCESSES="0", **env)

    def submit() -> str:
        payload = {"path": str(tmp_path / "notes"), "seconds": 0.4}
        return str(service.submit("note.async", payload)["task_id"])

    def has_started(count: int) -> bool:
        return len(starts(tmp_path / "notes")) == count

    submit()
    start_worker(WORKER_PROCESSES="1", **env)
    eventually(partial(has_started, 1), LOOK_SECONDS * 2)
    started = time.monotonic()
    for count in range(2, 8):
        submit()
        eventually(partial(has_started, count), LOOK_SECONDS * 2)
    assert time.monotonic() - started < 6 * LOOK_SECONDS / 2  # as long as it takes by the looks alone


@ON_A_FILE
def test_a_task_that_no_hint_tells_of_is_found(start_service: StartService) -> None:
    service = start_service()
    service.run("echo")  # there is a lane for its caller, of which to learn would be news as well
    task_id = service.submit("echo", delay=3600)["task_id"]
    rows(service, "UPDATE task SET status = 'queued', run_at = 0 WHERE id = ?", task_id)
    assert service.ended(task_id)["status"] == "succeeded"


def test_news_travel_between_the_processes_faster_than_they_poll(idle: Service, start_beside: StartWorker) -> None:
    start_beside()
    idle.run("echo")
    taken = []
    for _ in range(5):
        started = time.monotonic()
        assert idle.submit("echo", wait=20)["status"] == "succeeded"
        taken.append(time.monotonic() - started)
    assert sorted(taken)[2] < 0.4  # two polls would take a second on average


def test_a_cancelled_task_is_stopped_in_the_other_process(
    idle: Service, start_beside: StartWorker, tmp_path: Path
) -> None:
    worker = start_beside()
    path = tmp_path / "gate"
    task_id = idle.submit("gate", {"path": str(path), "stubborn": 1})["task_id"]
    eventually(path.exists)
    (child,) = worker.children()
    assert idle.post("/api/cancel", {"task_id": task_id}).status_code == 200
    eventually(lambda: child not in worker.children(), 2.5)


def test_web_and_worker_share_the_tasks_and_run_each_once(
    start_service: StartService, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    service = start_service(WORKER_PROCESSES="1")
    start_worker(WORKER_PROCESSES="1")
    path = tmp_path / "notes"
    ids = batch(service, 60, path)
    assert {service.ended(task_id)["status"] for task_id in ids} == {"succeeded"}
    assert starts(path) == Counter(ids)


@pytest.fixture(scope="module")
def hands(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two children."""
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "2", "TASK_CONCURRENCY": "2"}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("hands"), **env) as service:
        yield service


@pytest.mark.parametrize("types", [["note"], ["note.async"], ["note", "note.async"]], ids=" ".join)
def test_a_hand_that_gets_free_takes_what_is_queued(hands: Service, tmp_path: Path, types: list[str]) -> None:
    payload = {"path": str(tmp_path / "notes"), "seconds": 0.001}
    started = time.monotonic()
    for count in range(1, ROUNDS + 1):
        tasks = [{"type": type, "payload": payload} for type in types] * count
        ids = [item["task_id"] for item in hands.post("/api/batch", {"tasks": tasks}).json()["items"]]
        assert {hands.ended(task_id)["status"] for task_id in ids} == {"succeeded"}
    # Whoever waits for a look waits for half of its interval, and every round would.
    assert time.monotonic() - started < ROUNDS * LOOK_SECONDS * 0.4


def test_a_worker_that_is_told_to_stop_gives_its_task_back_at_no_cost(idle: Service, start_beside: StartWorker) -> None:
    worker = start_beside()
    task_id = idle.submit("sleep", {"seconds": 60})["task_id"]
    eventually(lambda: idle.result(task_id)["status"] == "running")
    child = worker.children()[0]
    started = time.monotonic()
    worker.terminate()
    assert time.monotonic() - started < 5
    task = idle.result(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    idle.post("/api/cancel", {"task_id": task_id})
    eventually(lambda: not is_alive(child), 3)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Process]]:
    """`uvicorn --workers 4`: its address and its supervisor."""
    port = free_port()
    arguments = ("-m", "uvicorn", "only_post_svc.main:app", "--port", str(port), "--workers", "4")
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1"}
    process = Process(tmp_path_factory.mktemp("four"), *arguments, env=env)

    def are_up() -> bool:
        assert process.is_running, process.log.read_text()
        return process.log.read_text().count("Application startup complete") == 4

    try:
        eventually(are_up, 60, every=0.1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.is_running:
            process.send(signal.SIGTERM)
            process.wait(20)


def ask(url: str, path: str, body: Any, **headers: str) -> requests.Response:
    """Over a connection of its own: whichever process takes it."""
    return requests.post(f"{url}{path}", json=body, headers=headers, timeout=60)


def test_four_web_processes_run_each_task_once_and_know_each_others_results(
    four: tuple[str, Process], tmp_path: Path
) -> None:
    url, path = four[0], tmp_path / "notes"

    def run(number: int) -> Any:
        type = "note" if number % 2 else "note.async"
        task = ask(url, "/api/task", {"type": type, "payload": {"path": str(path)}}).json()
        return ask(url, "/api/result", {"task_id": task["task_id"], "wait": 25}).json()

    with ThreadPoolExecutor(8) as pool:
        tasks = list(pool.map(run, range(40)))
    assert {(task["status"], task["attempt"]) for task in tasks} == {("succeeded", 1)}
    assert starts(path) == Counter(task["task_id"] for task in tasks)


def test_a_key_that_races_over_four_processes_makes_one_task(four: tuple[str, Process]) -> None:
    body = {"type": "echo", "payload": {"n": 1}, "delay": 3600}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(four[0], "/api/task", body, **{"Idempotency-Key": "race"}), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1


def test_a_cursor_of_one_process_is_good_in_another(four: tuple[str, Process]) -> None:
    body = {"tasks": [{"type": "echo", "delay": 3600}] * 20}
    ids = [item["task_id"] for item in ask(four[0], "/api/batch", body).json()["items"]]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while len(seen) < 20:
        page = ask(four[0], "/api/tasks", {"status": "queued", "limit": 2, **cursor}).json()
        seen += [item["task_id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert seen == sorted(ids, reverse=True)


def test_sigterm_ends_all_four_and_their_children(four: tuple[str, Process]) -> None:
    _, supervisor = four
    webs = supervisor.children()
    children = [int(pid) for web in webs for pid in Path(f"/proc/{web}/task/{web}/children").read_text().split()]
    assert len(children) >= 4
    supervisor.send(signal.SIGTERM)
    supervisor.wait(10)
    eventually(lambda: not any(map(is_alive, (*webs, *children))), 3)


@pytest.fixture(scope="module")
def one_child(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "TASK_CONCURRENCY": "4"}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("one"), **env) as service:
        yield service


@pytest.mark.parametrize(("stream", "other"), [("note.async", "note"), ("note", "note.async")])
def test_a_stream_of_one_kind_does_not_starve_the_other(one_child: Service, stream: str, other: str) -> None:
    """Never a moment without a task of the stream waiting for the child."""
    stop = threading.Event()

    def flow() -> None:
        session = requests.Session()
        body = {"type": stream, "payload": {"path": "/dev/null", "seconds": 0.1}, "wait": 20}
        while not stop.is_set():
            session.post(f"{one_child.url}/api/task", json=body, timeout=60)

    threads = [threading.Thread(target=flow) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: one_child.post("/api/tasks", {"type": stream, "status": "succeeded"}).json()["items"])
        for _ in range(3):
            started = time.monotonic()
            assert one_child.submit(other, {"path": "/dev/null"}, wait=20)["status"] == "succeeded"
            assert time.monotonic() - started < 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
