"""A disk that has no room, refuses to be written, or does not answer: the service says so, and goes on when it can."""

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from shared.database.sqlite import SQLite
from tests.chaos.traces import lines
from tests.processes import TASKS, Service, eventually

DISK_BYTES = 4 * 1024 * 1024
IMAGE_BYTES = 16 * 1024 * 1024
ANSWER_SECONDS = 15  # a write waits up to 5 for its turn; generous, but no hanging
THAW_SECONDS = 8
LARGE = "x" * 100_000
EXIT_FAILURE = 3

Start = Callable[..., Service]


def run_as_root(*command: str | Path) -> None:
    """Skips the test where this machine does not let it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} is not permitted here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(directory: Path, *command: str | Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a disk for the test needs root")
    directory.mkdir()
    run_as_root(*command, directory)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB for the database alone."""
    with mounted(tmp_path / "disk", "mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs") as disk:
        yield disk


@pytest.fixture
def image_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of the usual kind, in a file."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, IMAGE_BYTES)
    run_as_root("mkfs.ext4", "-q", image)
    with mounted(tmp_path / "disk", "mount", "-o", "loop", image) as disk:
        yield disk


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service whose database, and nothing else, is on that disk."""
    started: list[Service] = []

    def start(disk: Path, **env: str) -> Service:
        settings = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1", "DATABASE_URL": f"sqlite:///{disk}/only_post.db"}
        started.append(Service(tmp_path, settings | env))
        return started[-1]

    yield start
    for service in started:
        service.kill()


def submit(service: Service, text: str = LARGE) -> requests.Response:
    """An answer that is one of the two that may be."""
    started = time.monotonic()
    answer = service.post("/api/task", {"type": "echo", "payload": {"text": text}, "delay": 3600})
    assert time.monotonic() - started < ANSWER_SECONDS
    assert answer.status_code in (202, 503), answer.text
    if answer.status_code == 503:
        assert answer.json()["code"] == "database_unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
    return answer


def submit_until_refused(service: Service, text: str = LARGE) -> list[str]:
    """The ids that were accepted before."""
    accepted = []
    while (answer := submit(service, text)).status_code == 202:
        accepted.append(answer.json()["task_id"])
        assert len(accepted) < 5000
    return accepted


def check_reads_go_on(service: Service, task_ids: list[str]) -> None:
    for task_id in task_ids:
        assert service.result(task_id)["task_id"] == task_id
    page = service.post("/api/tasks", {"limit": 200})
    assert page.status_code == 200
    assert {item["task_id"] for item in page.json()["items"]} >= set(task_ids)
    assert service.post("/api/types").status_code == 200


def check_service_as_before(service: Service, task_ids: list[str]) -> None:
    """Every task that was acknowledged is there, and ends when it is told to."""
    eventually(lambda: submit(service, "small").status_code == 202, ANSWER_SECONDS)
    assert service.run("echo", {"a": 1})["result"] == {"a": 1}
    eventually(lambda: service.post("/health").status_code == 200)
    for task_id in task_ids:
        assert service.post("/api/cancel", {"task_id": task_id}).status_code == 200


def check_file(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class RunningTask:
    """A task that runs when the disk fails, and ends while it has failed."""

    def __init__(self, service: Service, gate: Path, max_attempts: int = 1) -> None:
        self._service = service
        self._gate = gate
        self.task_id = service.submit("gate", {"path": str(gate)}, max_attempts=max_attempts)["task_id"]
        eventually(lambda: lines(gate))

    def end(self) -> None:
        Path(f"{self._gate}.1").write_text("return")

    def check_result(self) -> None:
        task = self._service.ended(self.task_id)
        assert (task["status"], task["attempt"], task["result"]) == ("succeeded", 1, 1)
        assert len(lines(self._gate)) == 1


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_refuses_writes_and_keeps_all_that_was_accepted(
    small_disk: Path, start: Start, tmp_path: Path
) -> None:
    service = start(small_disk)
    task = RunningTask(service, tmp_path / "gate")
    (small_disk / "ballast").write_bytes(bytes(DISK_BYTES // 4))
    accepted = submit_until_refused(service)
    fill(small_disk / "rest")
    accepted += submit_until_refused(service, "small")  # what the log of the database has room for already
    batch = {"tasks": [{"type": "echo", "payload": {"text": LARGE}}] * 3}
    refused = service.post("/api/batch", batch)
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    check_reads_go_on(service, [*accepted, task.task_id])
    eventually(lambda: service.post("/health").status_code == 503)
    task.end()
    assert service.result(task.task_id, wait=2)["status"] in ("running", "succeeded")  # a checkpoint may have made room

    (small_disk / "ballast").unlink()
    task.check_result()
    check_service_as_before(service, accepted)
    assert service.is_running
    service.terminate()
    check_file(small_disk / "only_post.db")


def limit_file_size(service: Service, limit: int) -> None:
    _, hard = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (limit, hard))


def wait_refused(services: list[Service], seconds: float) -> None:
    since = time.monotonic()

    def is_over() -> bool:
        assert {submit(service, "small").status_code for service in services} == {503}
        return time.monotonic() - since > seconds

    eventually(is_over, 2 * seconds + ANSWER_SECONDS, every=0.2)


def test_no_run_is_lost_while_nothing_can_be_written_for_longer_than_a_lease(start: Start, tmp_path: Path) -> None:
    service = start(tmp_path / "disk", LEASE_SECONDS="2")
    task = RunningTask(service, tmp_path / "gate")
    limit_file_size(service, 4096)
    task.end()
    wait_refused([service], seconds=5)
    limit_file_size(service, resource.RLIM_INFINITY)
    task.check_result()


def test_whoever_can_write_first_takes_nothing_from_those_who_could_not_renew(start: Start, tmp_path: Path) -> None:
    """Nobody could, so that the end of a lease says nothing of its worker."""
    lease_seconds = 6
    service = start(tmp_path / "disk", LEASE_SECONDS=str(lease_seconds))
    task = RunningTask(service, tmp_path / "gate")
    other = start(tmp_path / "disk", LEASE_SECONDS=str(lease_seconds), WORKER_PROCESSES="0")
    for one in (service, other):
        limit_file_size(one, 4096)
    task.end()
    wait_refused([service, other], seconds=lease_seconds + 1)
    limit_file_size(other, resource.RLIM_INFINITY)
    free_at = time.monotonic()
    eventually(lambda: time.monotonic() - free_at > lease_seconds / 3 + 0.5)  # it looks at the leases in this time
    assert other.result(task.task_id)["status"] == "running"
    limit_file_size(service, resource.RLIM_INFINITY)
    task.check_result()


def test_a_limit_on_the_size_of_files_refuses_writes_until_it_is_lifted(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    service = start(disk)
    task = RunningTask(service, tmp_path / "gate")
    accepted = [submit(service).json()["task_id"] for _ in range(5)]
    limit = max(path.stat().st_size for path in disk.iterdir())
    limit_file_size(service, limit)
    accepted += submit_until_refused(service)
    assert submit(service).status_code == 503
    check_reads_go_on(service, accepted)

    limit_file_size(service, resource.RLIM_INFINITY)
    task.end()
    task.check_result()
    check_service_as_before(service, accepted)
    service.terminate()
    check_file(disk / "only_post.db")


def test_a_disk_that_turned_read_only_refuses_writes_and_can_be_read(
    image_disk: Path, start: Start, tmp_path: Path
) -> None:
    service = start(image_disk)
    accepted = [submit(service).json()["task_id"] for _ in range(5)]
    run_as_root("mount", "-o", "remount,abort", image_disk)  # what ext4 does after an error of the device
    assert submit(service, "small").status_code == 503
    check_reads_go_on(service, accepted)
    assert service.is_running
    service.terminate()

    run_as_root("umount", image_disk)
    run_as_root("mount", "-o", "loop", tmp_path / "image", image_disk)
    again = start(image_disk)
    check_reads_go_on(again, accepted)
    check_service_as_before(again, accepted)
    again.terminate()
    check_file(image_disk / "only_post.db")


def test_a_start_on_a_read_only_disk_ends_with_one_line(small_disk: Path, start: Start, tmp_path: Path) -> None:
    accepted = start(small_disk)
    task_id = submit(accepted).json()["task_id"]
    accepted.terminate()
    run_as_root("mount", "-o", "remount,ro", small_disk)
    before = accepted.log.stat().st_size
    settings = {"DATABASE_URL": f"sqlite:///{small_disk}/only_post.db"}
    refused = Service(tmp_path, settings, wait=False)
    assert refused.wait(30) == EXIT_FAILURE
    (line,) = refused.log.read_text()[before:].strip().splitlines()
    assert line.startswith("DATABASE_URL: ")
    assert str(small_disk) not in line
    run_as_root("mount", "-o", "remount,rw", small_disk)
    check_reads_go_on(start(small_disk), [task_id])


def test_a_disk_that_does_not_answer_makes_nobody_wait_for_ever(image_disk: Path, start: Start, tmp_path: Path) -> None:
    if not shutil.which("fsfreeze"):
        pytest.skip("fsfreeze is not installed")
    service = start(image_disk)
    task = RunningTask(service, tmp_path / "gate")
    accepted = [submit(service).json()["task_id"]]
    run_as_root("fsfreeze", "--freeze", image_disk)
    try:
        check_reads_go_on(service, accepted)
        assert submit(service, "small").status_code == 503
        check_reads_go_on(service, accepted)
        task.end()
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", image_disk], check=True)
    task.check_result()
    check_service_as_before(service, accepted)
    service.terminate()
    check_file(image_disk / "only_post.db")


def test_a_read_right_behind_a_commit_does_not_wait_for_a_disk_that_does_not_answer(image_disk: Path) -> None:
    if not shutil.which("fsfreeze"):
        pytest.skip("fsfreeze is not installed")
    is_thawing = threading.Event()

    def thaw() -> None:
        is_thawing.wait(THAW_SECONDS)
        is_thawing.set()
        run_as_root("fsfreeze", "--unfreeze", image_disk)

    async def read_while_frozen() -> bool:
        database = SQLite(str(image_disk / "notes.db"))
        await database.write(lambda tx: tx.run("CREATE TABLE note (id TEXT)"))
        await database.read(lambda tx: tx.all("SELECT id FROM note"))
        await database.write(lambda tx: tx.run("INSERT INTO note VALUES ('a')"))
        run_as_root("fsfreeze", "--freeze", image_disk)
        thawing = asyncio.create_task(asyncio.to_thread(thaw))
        await asyncio.sleep(0)
        assert await database.read(lambda tx: tx.all("SELECT id FROM note")) == [("a",)]
        was_frozen = not is_thawing.is_set()
        is_thawing.set()
        await thawing
        await database.close()
        return was_frozen

    assert asyncio.run(read_while_frozen())
