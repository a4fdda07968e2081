"""The files of a SQLite database."""

import contextlib
import os
from pathlib import Path


def open_lock(path: str, is_memory: bool) -> int | None:
    if is_memory:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def make_file(file: Path) -> None:
    """Readable by its owner alone, where SQLite would make it for every user; -wal and -shm get the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def lock_of(path: str) -> str:
    return f"{path}-lock"


def identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
