"""Runs that were given up for dead and come back, and what is left when a worker dies."""

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.chaos.traces import is_alive, lines, runners_in, start_of
from tests.databases import ON_A_FILE, rows
from tests.processes import TASKS, Process, Service, Worker, eventually

LEASE_SECONDS = 2
AGAIN_SECONDS = LEASE_SECONDS + 15  # CONTRACT: a killed worker's tasks run again within 45 s, for a lease of 30
STOPPED_SECONDS = 15  # generous: the next renewal or look at the leases, and the grace of a second
ORPHAN_SECONDS = 5

Start = Callable[..., Any]


@pytest.fixture
def web(tmp_path: Path, database: dict[str, str]) -> Iterator[Service]:
    """A service that runs no tasks itself."""
    settings = {"TASK_MODULES": TASKS, "LEASE_SECONDS": str(LEASE_SECONDS), "WORKER_PROCESSES": "0"}
    service = Service(tmp_path, settings | database)
    yield service
    service.kill()


@pytest.fixture
def start(tmp_path: Path, database: dict[str, str]) -> Iterator[Start]:
    """Starts a worker: `start("first", processes=2)`."""
    started: list[Process] = []

    def start(name: str, processes: int = 1) -> Worker:
        settings = {"LEASE_SECONDS": str(LEASE_SECONDS), "WORKER_PROCESSES": str(processes), **database}
        worker = Worker(tmp_path, {"TASK_MODULES": TASKS, **settings}, name=name)
        started.append(worker)
        return worker

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def open_gate(gate: Path, attempt: int, word: str = "return") -> None:
    (ready := gate.with_name("opening")).write_text(word)
    ready.rename(f"{gate}.{attempt}")


def wait_for_start(gate: Path, attempt: int, seconds: float = 10) -> int:
    """The process id of that attempt's run."""
    return int(eventually(lambda: start_of(gate, attempt), seconds).mark)


def has_logged(process: Process, event: str) -> bool:
    return event in process.log.read_text()


def has_discarded(process: Process, task_id: str) -> bool:
    return has_logged(process, f"run.discarded task_id={task_id}")


def progress_of(web: Service, task_id: str) -> Any:
    return web.result(task_id)["progress"]


def freeze(worker: Worker, web: Service) -> None:
    """SIGSTOP, though on a file not in the middle of a commit: it has one writer, and nobody else can write until the
    one that was stopped there goes on or is killed."""
    while True:
        worker.send(signal.SIGSTOP)
        if "DATABASE_URL" in web.env or eventually_free(web.file):
            return
        worker.send(signal.SIGCONT)


def eventually_free(file: Path) -> bool:
    """Whether others get a turn to write."""
    with Path(f"{file}-lock").open() as lock, contextlib.suppress(AssertionError):
        return bool(eventually(lambda: is_free(lock), 1))
    return False


def is_free(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_late_result_or_failure_changes_nothing(web: Service, start: Start, tmp_path: Path) -> None:
    gates = {word: tmp_path / word for word in ("return", "raise")}
    zombie = start("zombie", processes=2)
    ids = {word: web.submit("gate", {"path": str(gate)}, max_attempts=3)["task_id"] for word, gate in gates.items()}
    for gate in gates.values():
        wait_for_start(gate, 1)
    freeze(zombie, web)
    start("other", processes=2)
    for gate in gates.values():
        wait_for_start(gate, 2, AGAIN_SECONDS)
        open_gate(gate, 2)
    finals = {word: web.ended(task_id) for word, task_id in ids.items()}
    for final in finals.values():
        assert (final["status"], final["attempt"], final["result"]) == ("succeeded", 2, 2)

    for word, gate in gates.items():
        open_gate(gate, 1, word)
    zombie.send(signal.SIGCONT)
    for word, task_id in ids.items():
        eventually(partial(has_discarded, zombie, task_id), STOPPED_SECONDS)
        assert web.result(task_id) == finals[word]


TAKE = """
UPDATE task SET lease = 'another', lease_until = lease_until + 3600000, attempt = 2, progress = NULL WHERE id = ?
"""


def test_a_run_writes_nothing_between_the_loss_of_its_lease_and_the_moment_it_is_noticed(
    web: Service, start: Start, tmp_path: Path
) -> None:
    gates = {word: tmp_path / word for word in ("return", "raise", "wait")}
    worker = start("worker", processes=3)
    ids = {word: web.submit("gate", {"path": str(gate)}, max_attempts=2)["task_id"] for word, gate in gates.items()}
    late = {word: wait_for_start(gate, 1) for word, gate in gates.items()}
    assert len(set(late.values())) == len(late)  # each in a child of its own
    for task_id in ids.values():
        eventually(partial(progress_of, web, task_id))
        rows(web, TAKE, task_id)
    for word in ("return", "raise"):
        open_gate(gates[word], 1, word)

    def is_over(word: str) -> bool:
        return has_discarded(worker, ids[word]) or not is_alive(late[word])

    for word, task_id in ids.items():
        eventually(partial(is_over, word), STOPPED_SECONDS)
        task = web.result(task_id)
        assert (task["status"], task["attempt"]) == ("running", 2)
        assert (task["progress"], task["result"], task["error"]) == (None, None, None)


def test_a_run_that_comes_back_is_stopped_and_neither_reports_nor_renews(
    web: Service, start: Start, gate: Path
) -> None:
    zombie = start("zombie")
    task_id = web.submit("gate", {"path": str(gate)})["task_id"]
    late = wait_for_start(gate, 1)
    freeze(zombie, web)
    start("other")
    current = wait_for_start(gate, 2, AGAIN_SECONDS)
    eventually(lambda: web.result(task_id)["progress"] == {"fraction": 0.5, "message": "attempt 2"})

    zombie.send(signal.SIGCONT)
    seen = []

    def is_stopped() -> bool:
        seen.append(web.result(task_id))
        return not is_alive(late)

    eventually(is_stopped, STOPPED_SECONDS)
    assert {(task["status"], task["attempt"], task["progress"]["message"]) for task in seen} == {
        ("running", 2, "attempt 2")
    }
    assert is_alive(current)
    open_gate(gate, 2)
    assert web.ended(task_id)["result"] == 2


def test_a_worker_that_takes_its_own_task_again_keeps_the_two_runs_apart(
    web: Service, start: Start, gate: Path
) -> None:
    worker = start("worker", processes=2)
    task_id = web.submit("gate", {"path": str(gate), "stubborn": 1})["task_id"]
    late = wait_for_start(gate, 1)
    freeze(worker, web)
    eventually(lambda: web.result(task_id)["status"] == "queued", AGAIN_SECONDS)

    worker.send(signal.SIGCONT)
    wait_for_start(gate, 2)
    open_gate(gate, 1)
    eventually(lambda: not is_alive(late) or has_logged(worker, "run.discarded"), STOPPED_SECONDS)
    open_gate(gate, 2)
    final = web.ended(task_id)
    assert (final["attempt"], final["result"]) == (2, 2)


def test_a_stopped_worker_that_was_not_replaced_ends_the_tasks_that_it_holds(
    web: Service, start: Start, gate: Path
) -> None:
    worker = start("worker", processes=2)
    task_id = web.submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"]
    wait_for_start(gate, 1)
    web.kill()
    freeze(worker, web)
    time.sleep(2 * LEASE_SECONDS)  # the lease is over, and there is nobody else to take the task
    worker.send(signal.SIGCONT)
    eventually(lambda: not start_of(gate, 2), 1)
    open_gate(gate, 1)
    again = Service(web.log.parent, web.env)
    try:
        final = again.ended(task_id)
    finally:
        again.kill()
    assert (final["status"], final["attempt"], final["result"]) == ("succeeded", 1, 1)


def test_a_killed_workers_task_runs_again_in_time_and_the_kill_counts(web: Service, start: Start, gate: Path) -> None:
    worker = start("killed")
    task_id = web.submit("gate", {"path": str(gate)})["task_id"]
    wait_for_start(gate, 1)
    start("other")
    worker.kill()
    killed_at = time.monotonic()
    wait_for_start(gate, 2, AGAIN_SECONDS)
    assert time.monotonic() - killed_at < AGAIN_SECONDS
    assert web.result(task_id)["error"]["code"] == "worker_lost"
    open_gate(gate, 2)
    final = web.ended(task_id)
    assert (final["status"], final["attempt"], final["error"]) == ("succeeded", 2, None)


def test_a_task_whose_workers_are_killed_in_every_attempt_fails_as_lost(web: Service, start: Start, gate: Path) -> None:
    task_id = web.submit("gate", {"path": str(gate)}, max_attempts=2)["task_id"]
    for attempt in (1, 2):
        worker = start(f"worker{attempt}")
        wait_for_start(gate, attempt, AGAIN_SECONDS)
        worker.kill()
    final = web.ended(task_id, AGAIN_SECONDS)
    assert (final["status"], final["attempt"], final["error"]["code"]) == ("failed", 2, "worker_lost")
    assert [line.attempt for line in lines(gate)] == [1, 2]


def test_a_sigterm_does_not_count(web: Service, start: Start, gate: Path) -> None:
    worker = start("stopped")
    task_id = web.submit("gate", {"path": str(gate)}, max_attempts=1)["task_id"]
    late = wait_for_start(gate, 1)
    start("other")
    worker.terminate(5)
    assert not is_alive(late)
    eventually(lambda: len(lines(gate)) == 2, AGAIN_SECONDS)
    open_gate(gate, 1)
    final = web.ended(task_id)
    assert (final["status"], final["attempt"], final["result"]) == ("succeeded", 1, 1)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def has_signals_blocked(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("SigBlk:")[2].split()[0], 16) > 2**32


@ON_A_FILE
@pytest.mark.parametrize("types", [["zoo.hold", "zoo.blocked_signals"], ["zoo.spin"], ["zoo.spin.async"]], ids=" ".join)
def test_a_killed_coordinator_leaves_no_child_behind(
    web: Service, start: Start, tmp_path: Path, types: list[str]
) -> None:
    worker = start("killed", processes=len(types))
    children = eventually(lambda: has_logged(worker, "worker.started") and worker.children())
    assert len(children) == len(types)
    ids = [web.submit(type)["task_id"] for type in types]
    for task_id in ids:
        eventually(partial(is_running, web, task_id), every=0.01)
    for child in children:
        if "zoo.hold" in types:
            eventually(partial(has_signals_blocked, child), every=0.01)
        else:
            spent = cpu_seconds(child) + 0.1
            eventually(partial(has_spent, child, spent))
    worker.kill()
    for child in children:
        eventually(partial(is_dead, child), ORPHAN_SECONDS)
    assert not runners_in(tmp_path)


def is_running(web: Service, task_id: str) -> bool:
    return bool(web.result(task_id)["status"] == "running")


def has_spent(pid: int, seconds: float) -> bool:
    return cpu_seconds(pid) > seconds


def is_dead(pid: int) -> bool:
    return not is_alive(pid)
