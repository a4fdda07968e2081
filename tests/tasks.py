"""Tasks for the tests, good and bad: a zoo of what user code can do to a worker."""

import asyncio
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from only_post_svc import Context, Fail, Retry, task


@dataclass
class Point:
    x: int
    y: float = 0.0


@task("shapes", timeout=10)
def shapes(
    count: int,
    name: str | None = None,
    ratio: float = 1.0,
    mode: Literal["fast", "slow"] = "fast",
    tags: list[str] = [],  # noqa: B006
    weights: dict[str, int] = {},  # noqa: B006
    points: list[Point] = [],  # noqa: B006
    *,
    context: Context,
) -> dict[str, Any]:
    """Every kind of parameter."""
    return {
        "count": count,
        "count_type": type(count).__name__,
        "name": name,
        "points": [type(point).__name__ for point in points],
        "attempt": context.attempt,
        "task_id": context.task_id,
        "deadline": context.deadline.isoformat(),
    }


@task("progress", timeout=30)
def progress(path: str, *, context: Context) -> str:
    """Report half, then wait until the file exists."""
    context.progress(0.5, "half")
    while not Path(path).exists():
        time.sleep(0.01)
    context.progress(1.0, "done")
    return "done"


@task("note", timeout=30)
def note(path: str, text: str = "x", seconds: float = 0, *, context: Context) -> int:
    """Append a line to a file when it starts and when it ends, and wait in between."""
    _append(path, f"start {context.task_id} {context.attempt} {text}")
    time.sleep(seconds)
    _append(path, f"end {context.task_id} {context.attempt} {text}")
    return context.attempt


@task("note.async", timeout=30)
async def note_async(path: str, text: str = "x", seconds: float = 0, *, context: Context) -> int:
    """The same as an `async def`."""
    _append(path, f"start {context.task_id} {context.attempt} {text}")
    await asyncio.sleep(seconds)
    _append(path, f"end {context.task_id} {context.attempt} {text}")
    return context.attempt


@task("note.cancelled", timeout=30)
async def note_cancelled(path: str) -> None:
    """Wait to be stopped, and write down that it was."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        _append(path, "cancelled")
        raise


def _append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@task("raise", timeout=10)
def raises(message: str = "no") -> None:
    raise ValueError(message)


@task("fail", timeout=10)
def fails(message: str = "never") -> None:
    raise Fail(message)


@task("retry", timeout=10)
def retries(until: int, after: float = 0, *, context: Context) -> int:
    """Succeed in the attempt `until`."""
    if context.attempt < until:
        raise Retry("not yet", after=after)
    return context.attempt


@task("asyncio.run", timeout=10)
def runs_a_loop() -> str:
    """A `def` that has an event loop of its own."""

    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    return asyncio.run(inner())


@task("zoo.exit", timeout=1)
def zoo_exit() -> None:
    os._exit(0)


@task("zoo.exit.async", timeout=1)
async def zoo_exit_async() -> None:
    os._exit(0)


@task("zoo.segfault", timeout=1)
def zoo_segfault() -> None:
    ctypes.string_at(0)


@task("zoo.spin", timeout=1)
def zoo_spin() -> None:
    while True:
        pass


@task("zoo.spin.async", timeout=1)
async def zoo_spin_async() -> None:
    while True:
        pass


@task("zoo.hold", timeout=1)
def zoo_hold() -> None:
    """Hold the interpreter's lock in C code for ever: no Python code runs in this process any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    ctypes.PyDLL(None).sleep(3600)


@task("zoo.stubborn", timeout=1)
def zoo_stubborn() -> None:
    """Swallow whatever is raised to stop it."""
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass


@task("zoo.stubborn.async", timeout=1)
async def zoo_stubborn_async() -> None:
    while True:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            pass


@task("zoo.blocked_signals", timeout=1)
def zoo_blocked_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    time.sleep(3600)


@task("zoo.memory", timeout=10)
def zoo_memory() -> int:
    hoard = []
    while True:
        hoard.append(bytearray(16 * 1024 * 1024))


@task("zoo.print", timeout=10)
def zoo_print(lines: int = 300_000) -> int:
    for number in range(lines):
        print("flood", number)
    return lines


@task("zoo.grandchild", timeout=5)
def zoo_grandchild() -> int:
    """Leave a process behind that holds everything this one has open."""
    pid = os.fork()
    if pid == 0:
        time.sleep(3600)
        os._exit(0)
    return pid


@task("zoo.grandchild.exit", timeout=5)
def zoo_grandchild_exit() -> None:
    """The same, and die at once."""
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(1)


@task("zoo.subprocess", timeout=1)
def zoo_subprocess() -> None:
    subprocess.run(["sleep", "3600"], check=False)


@task("zoo.unserialisable", timeout=5)
def zoo_unserialisable() -> object:
    return {"open": object()}


@task("zoo.nan", timeout=5)
def zoo_nan() -> float:
    return float("nan")


@task("zoo.surrogate", timeout=5)
def zoo_surrogate() -> str:
    return "\ud800"


@task("zoo.circular", timeout=5)
def zoo_circular() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@task("zoo.huge", timeout=10)
def zoo_huge() -> str:
    return "x" * (64 * 1024 * 1024)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@task("zoo.unspeakable", timeout=5)
def zoo_unspeakable() -> None:
    raise Unspeakable


@task("zoo.system_exit", timeout=5)
def zoo_system_exit() -> None:
    sys.exit("bye")


@task("zoo.system_exit.async", timeout=5)
async def zoo_system_exit_async() -> None:
    sys.exit("bye")


@task("zoo.keyboard_interrupt", timeout=5)
def zoo_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


@task("zoo.close_all", timeout=5)
def zoo_close_all() -> None:
    """Close every file it finds, the channel to the coordinator included."""
    os.closerange(0, 1024)


@task("zoo.garble", timeout=5)
def zoo_garble() -> None:
    """Write into every file it finds."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\x00\x00\x00\x05\x00\x00\x00\x00[1,2]" * 3)
        except OSError:
            pass


@task("zoo.kill_group", timeout=5)
def zoo_kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


@task("zoo.suicide", timeout=5)
def zoo_suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task("gate", timeout=60)
def gate(path: str, stubborn: int = 0, *, context: Context) -> int:
    """Say that it runs and in which process, then wait for the file PATH.ATTEMPT and do what is in it. The
    attempt `stubborn` swallows whatever is raised to stop it."""
    _append(path, f"start {context.task_id} {context.attempt} {os.getpid()}")
    while True:
        try:
            return _wait_at(Path(f"{path}.{context.attempt}"), context)
        except BaseException as error:
            if context.attempt != stubborn or isinstance(error, Exception):
                raise


def _wait_at(door: Path, context: Context) -> int:
    while not door.exists():
        context.progress(0.5, f"attempt {context.attempt}")
        time.sleep(0.02)
    if door.read_text() == "raise":
        raise Fail(f"attempt {context.attempt}")
    return context.attempt


@task("trace", timeout=30, max_attempts=3)
def trace(path: str, key: str, seconds: float = 0, until: int = 1, *, context: Context) -> dict[str, Any]:
    """Note the start and the end with a token of this run's own, which is the result too; succeed in the
    attempt `until`."""
    token = _start_trace(path, context)
    time.sleep(seconds)
    return _end_trace(path, context, token, until)


@task("trace.async", timeout=30, max_attempts=3)
async def trace_async(path: str, key: str, seconds: float = 0, until: int = 1, *, context: Context) -> dict[str, Any]:
    """The same as an `async def`."""
    token = _start_trace(path, context)
    await asyncio.sleep(seconds)
    return _end_trace(path, context, token, until)


def _start_trace(path: str, context: Context) -> str:
    token = secrets.token_hex(8)
    _append(path, f"start {context.task_id} {context.attempt} {token}")
    return token


def _end_trace(path: str, context: Context, token: str, until: int) -> dict[str, Any]:
    _append(path, f"end {context.task_id} {context.attempt} {token}")
    if context.attempt < until:
        raise Retry("not yet", after=0.2)
    return {"attempt": context.attempt, "token": token}
