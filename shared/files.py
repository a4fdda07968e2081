"""Files written atomically: whole or not at all."""

import os
import secrets
from pathlib import Path


def draft_of(file: Path) -> Path:
    """A name beside the file, random because the process id is 1 in every container."""
    return file.with_name(f"{file.name}.{secrets.token_hex(8)}")


def create(file: Path, content: bytes, *, like: Path | None = None) -> None:
    """Makes the file, for its owner alone, who is the one of `like`. Raises FileExistsError, also where another process
    was quicker."""
    draft = _write_draft(file, content, 0o600, like)
    try:
        os.link(draft, file)
    finally:
        draft.unlink()
    sync_directory(file.parent)


def replace(file: Path, content: bytes, *, mode: int = 0o600, like: Path | None = None) -> None:
    """Writes the file, in the place of one that may be there."""
    _write_draft(file, content, mode, like).replace(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """So that links and renames in it survive a power cut."""
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
