"""Files that are there whole or not at all."""

import os
import secrets
from pathlib import Path


def draft_of(file: Path) -> Path:
    """A name beside it that nobody else takes: a process id is 1 in every container."""
    return file.with_name(f"{file.name}.{secrets.token_hex(8)}")


def create(file: Path, content: bytes, *, mode: int = 0o600, like: Path | None = None) -> None:
    """Raises FileExistsError, whoever was quicker to make it. `like` has the owner that it gets."""
    draft = _write_draft(file, content, mode, like)
    try:
        os.link(draft, file)
    finally:
        draft.unlink()
    sync_directory(file.parent)


def replace(file: Path, content: bytes, *, mode: int = 0o600, like: Path | None = None) -> None:
    """The same, over a file that may be there."""
    _write_draft(file, content, mode, like).replace(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """What it was told about its files outlasts a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_draft(file: Path, content: bytes, mode: int, like: Path | None) -> Path:
    draft = draft_of(file)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as output:
        if like is not None:
            owner = like.stat()
            os.fchown(output.fileno(), owner.st_uid, owner.st_gid)
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    return draft
