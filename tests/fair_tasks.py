"""Tasks with bounds, for the tests of shares."""

import asyncio
import contextlib
import fcntl
import os
import time

from only_post_svc import Context, task


@task("who")
async def who(*, context: Context) -> list[str | None]:
    return [context.caller, context.key]


@task("nap", timeout=60)
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@task("keyed", max_running_per_key=1, timeout=20, max_attempts=25)
async def keyed(path: str = "", seconds: float = 0, *, context: Context) -> None:
    """Leave a mark at the start and at the end, and one where another run of the key is alive."""
    with open(f"{path}.{context.key}", "a") if path else contextlib.nullcontext() as lock:
        if lock is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone when the process is
            except BlockingIOError:
                _mark(path, f"overlap {context.key} {context.task_id}")
        _mark(path, f"start {context.key} {context.task_id}")
        await asyncio.sleep(seconds)
        _mark(path, f"end {context.key} {context.task_id}")


@task("stubborn", max_running_per_key=1, timeout=60)
async def stubborn(path: str, seconds: float, *, context: Context) -> None:
    """As `keyed`, and swallow whatever is raised to stop it."""
    with open(f"{path}.{context.key}", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _mark(path, f"overlap {context.key} {context.task_id}")
        _mark(path, f"start {context.key} {context.task_id}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.02)


@task("few", max_running=2, timeout=20)
async def few(path: str = "", seconds: float = 0, *, context: Context) -> None:
    _mark(path, f"start few {context.task_id}")
    await asyncio.sleep(seconds)
    _mark(path, f"end few {context.task_id}")


@task("pictures.make", scope="pictures")
async def pictures_make() -> str:
    return "made"


def _mark(path: str, line: str) -> None:
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{time.time()} {line}\n".encode())
        os.close(descriptor)
