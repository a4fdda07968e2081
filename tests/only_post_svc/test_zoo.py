"""What user code can do to a worker, all of it at once, with good tasks beside it.

Each bad task ends in its documented error within its timeout and two seconds; nobody else notices.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.databases import ON_A_FILE
from tests.processes import TASKS, Service, end_family, eventually

GRACE_SECONDS = 2.0
MAX_LOG_BYTES = 2_000_000  # zoo.print alone writes 4 MB

# Type: its timeout, and how it ends: the error's code and the exception's class, or None for a success.
ZOO: dict[str, tuple[float, tuple[str, str | None] | None]] = {
    "zoo.exit": (1, ("worker_lost", None)),
    "zoo.exit.async": (1, ("worker_lost", None)),
    "zoo.segfault": (1, ("worker_lost", None)),
    "zoo.spin": (1, ("timeout", None)),
    "zoo.spin.async": (1, ("timeout", None)),
    "zoo.hold": (1, ("timeout", None)),
    "zoo.stubborn": (1, ("timeout", None)),
    "zoo.stubborn.async": (1, ("timeout", None)),
    "zoo.blocked_signals": (1, ("timeout", None)),
    "zoo.memory": (10, ("task_error", "MemoryError")),
    "zoo.print": (10, None),
    "zoo.grandchild": (5, None),
    "zoo.grandchild.exit": (5, ("worker_lost", None)),
    "zoo.subprocess": (1, ("timeout", None)),
    "zoo.unserialisable": (5, ("invalid_result", "TypeError")),
    "zoo.nan": (5, ("invalid_result", "ValueError")),
    "zoo.surrogate": (5, ("invalid_result", "UnicodeEncodeError")),
    "zoo.circular": (5, ("invalid_result", "ValueError")),
    "zoo.huge": (10, ("result_too_large", None)),
    "zoo.unspeakable": (5, ("task_error", "Unspeakable")),
    "zoo.system_exit": (5, ("task_error", "SystemExit")),
    "zoo.system_exit.async": (5, ("task_error", "SystemExit")),
    "zoo.keyboard_interrupt": (5, ("task_error", "KeyboardInterrupt")),
    "zoo.close_all": (5, ("worker_lost", None)),
    "zoo.garble": (5, ("worker_lost", None)),
    "zoo.kill_group": (5, ("worker_lost", None)),
    "zoo.suicide": (5, ("worker_lost", None)),
    "popen.terminate": (5, None),
    "process.terminate": (5, None),
    "pool": (5, None),
    "pool.kept": (5, None),
    "subprocess.async": (5, None),
    "signal.40": (5, ("worker_lost", None)),
    "fork.return": (5, None),
    "fork.raise": (5, None),
    "fork.return.async": (5, None),
    "orphan": (5, None),
    "thread.quick": (5, None),
    "spoil": (10, None),
    "leave.stubborn": (10, None),
}


class Visit(NamedTuple):
    """What became of everybody."""

    service: Service
    bad: dict[str, Any]
    good: list[Any]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    directory = tmp_path_factory.mktemp("zoo")
    env = {"TASK_MODULES": f"{TASKS},tests.ordinary", "TASK_MEMORY_BYTES": str(256 * 1024**2), "WORKER_PROCESSES": "3"}
    service = Service(directory, env)
    try:
        bad = [{"type": type, "max_attempts": 1} for type in ZOO]
        payload = {"path": str(directory / "notes"), "seconds": 0.05}
        good = [{"type": type, "payload": payload, "max_attempts": 1} for type in ("note", "note.async")] * 25
        mixed = [task for pair in zip(good, bad + [None] * 50, strict=False) for task in pair if task]
        items = service.post("/api/batch", {"tasks": mixed}).json()["items"]
        ended = [service.ended(item["task_id"]) for item in items]
        yield Visit(
            service,
            {task["type"]: task for task in ended if task["type"] in ZOO},
            [task for task in ended if task["type"] not in ZOO],
        )
    finally:
        service.kill()
        end_family(directory)  # a pool that a task keeps outlives the kill of a coordinator


def seconds_of(task: Any) -> float:
    started, finished = (datetime.fromisoformat(task[name]) for name in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


@pytest.mark.parametrize("type", ZOO)
def test_a_bad_task_ends_in_its_documented_error(visit: Visit, type: str) -> None:
    task, expected = visit.bad[type], ZOO[type][1]
    if expected is None:
        assert (task["status"], task["error"]) == ("succeeded", None)
    else:
        assert task["status"] == "failed"
        assert (task["error"]["code"], task["error"]["type"]) == expected
    assert task["attempt"] == 1


@pytest.mark.parametrize("type", ZOO)
def test_a_bad_task_ends_within_its_timeout_and_two_seconds(visit: Visit, type: str) -> None:
    assert seconds_of(visit.bad[type]) < ZOO[type][0] + GRACE_SECONDS


def test_an_exception_that_can_not_be_shown_says_so(visit: Visit) -> None:
    assert "can't be shown" in visit.bad["zoo.unspeakable"]["error"]["message"]


def test_fifty_good_tasks_beside_them_succeed_in_their_first_attempt(visit: Visit) -> None:
    assert [(task["status"], task["attempt"], task["result"]) for task in visit.good] == [("succeeded", 1, 1)] * 50


def test_the_service_is_well_afterwards(visit: Visit) -> None:
    assert visit.service.post("/health").status_code == 200
    assert visit.service.run("text.stats", {"text": "still here"})["result"]["words"] == 2
    eventually(lambda: len(visit.service.children()) == 3)


def test_what_tasks_print_does_not_fill_the_log(visit: Visit) -> None:
    log = visit.service.log.read_bytes()
    assert log.count(b"task.output ") > 1
    assert b"task.output_dropped" in log
    assert len(log) < MAX_LOG_BYTES


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just gone
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def lonely(ruined: Service) -> Service:
    """A service with one child that is well."""
    assert ruined.run("echo")["status"] == "succeeded"
    eventually(lambda: len(ruined.children()) == 1)
    return ruined


@ON_A_FILE
@pytest.mark.parametrize("type", ["zoo.grandchild.exit", "zoo.hold", "zoo.blocked_signals", "zoo.suicide"])
def test_nothing_of_a_killed_tasks_process_group_is_left(lonely: Service, type: str) -> None:
    (group,) = lonely.children()
    assert lonely.run(type, max_attempts=1)["status"] == "failed"
    eventually(lambda: members(group) == [], 3)


@ON_A_FILE
def test_a_child_that_a_timeout_kills_takes_its_own_children_along(lonely: Service) -> None:
    (group,) = lonely.children()
    task_id = lonely.submit("zoo.subprocess", max_attempts=1)["task_id"]
    eventually(lambda: len(members(group)) == 2)
    assert lonely.ended(task_id)["error"]["code"] == "timeout"
    eventually(lambda: members(group) == [], 3)


@ON_A_FILE
@pytest.mark.parametrize("type", ["zoo.exit.async", "zoo.spin.async"])
def test_a_neighbour_in_the_same_process_is_not_charged_an_attempt(lonely: Service, tmp_path: Path, type: str) -> None:
    path = tmp_path / "notes"
    neighbour = lonely.submit("note.async", {"path": str(path), "seconds": 1.0}, max_attempts=1)["task_id"]
    eventually(path.exists)  # it is in the one child that there is, and stays there for a while
    culprit = lonely.submit(type, max_attempts=1)["task_id"]
    assert lonely.ended(culprit)["status"] == "failed"
    ended = lonely.ended(neighbour)
    assert (ended["status"], ended["attempt"], ended["result"]) == ("succeeded", 1, 1)
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["start", "start", "end"]


@ON_A_FILE
def test_a_neighbour_whose_own_timeout_passes_meanwhile_is_not_charged_either(lonely: Service, tmp_path: Path) -> None:
    """While another run has the event loop nobody in it can be in time."""
    path = tmp_path / "notes"
    options = {"timeout": 1.5, "max_attempts": 1}
    neighbour = lonely.submit("note.async", {"path": str(path), "seconds": 0.5}, **options)["task_id"]
    eventually(path.exists)
    culprit = lonely.submit("zoo.spin.async", max_attempts=1)["task_id"]
    assert lonely.ended(culprit)["error"]["code"] == "timeout"
    ended = lonely.ended(neighbour)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)


@ON_A_FILE
def test_a_neighbour_that_overruns_by_itself_is_timed_out(lonely: Service) -> None:
    started = time.monotonic()
    good = lonely.submit("sleep", {"seconds": 2}, max_attempts=1)["task_id"]
    late = lonely.submit("sleep", {"seconds": 60}, timeout=1, max_attempts=1)["task_id"]
    assert lonely.ended(late)["error"]["code"] == "timeout"
    assert time.monotonic() - started < 1 + GRACE_SECONDS
    assert (lonely.ended(good)["status"], lonely.ended(good)["attempt"]) == ("succeeded", 1)


@ON_A_FILE
def test_a_run_that_is_alone_after_its_neighbours_crash_is_stopped_as_politely_as_others(
    lonely: Service, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    task = lonely.submit("note.cancelled", {"path": str(note)}, timeout=3, max_attempts=1)
    eventually(lambda: lonely.result(task["task_id"])["status"] == "running")
    lonely.run("zoo.exit.async", max_attempts=1)
    ended = lonely.ended(task["task_id"])
    assert (ended["status"], ended["error"]["code"], ended["attempt"]) == ("failed", "timeout", 1)
    assert note.read_text() == "cancelled\n"
