"""Files written atomically: whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(file: Path) -> Iterator[Path]:
    """A path beside the file, to write to. What is there at the end is removed, so that a full disk is not left with a
    draft for each try."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")  # random: the process id is 1 in every container
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
        draft.with_name(f"{draft.name}-journal").unlink(missing_ok=True)  # of a SQLite copy that has failed


def create(file: Path, content: bytes, *, like: Path | None = None) -> None:
    """Makes the file, for its owner alone, who is the one of `like`. Raises FileExistsError, also where another process
    was quicker."""
    with draft_of(file) as draft:
        _write(draft, content, 0o600, like)
        os.link(draft, file)
    sync_directory(file.parent)


def replace(file: Path, content: bytes, *, mode: int = 0o600, like: Path | None = None) -> None:
    """Writes the file, in the place of one that may be there."""
    with draft_of(file) as draft:
        _write(draft, content, mode, like)
        draft.replace(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """So that links and renames in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(draft: Path, content: bytes, mode: int, like: Path | None) -> None:
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as output:
        if like is not None:
            owner = like.stat()
            os.fchown(output.fileno(), owner.st_uid, owner.st_gid)
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
