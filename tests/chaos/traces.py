"""What the tasks of the tests wrote down about their runs, and what the system says of processes."""

from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A run that started or ended. `mark` is its process id (gate) or its token (trace)."""

    event: str
    task_id: str
    attempt: int
    mark: str


def lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    words = [line.split() for line in path.read_text().splitlines()]
    return [Line(event, task_id, int(attempt), mark) for event, task_id, attempt, mark in words]


def start_of(path: Path, attempt: int) -> Line | None:
    return next((line for line in lines(path) if line.event == "start" and line.attempt == attempt), None)


def is_alive(pid: int) -> bool:
    """Whether it still runs; one that has ended and whose parent has not asked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def runners_in(directory: Path) -> list[int]:
    """The processes that run tasks for a service which was started in `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_runner = b"only_post_svc.worker.runner" in (entry / "cmdline").read_bytes()
            if is_runner and (entry / "cwd").resolve() == directory.resolve() and is_alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:  # it has just gone
            continue
    return found
