"""The child process that runs user code: `python -m only_post_svc.worker.runner OPTIONS`.

It reads runs from a socket and writes back how they ended. A `def` task has the process to
itself, in the main thread and without a running event loop, as its author would expect; `async
def` tasks share one loop. Whatever a task does to this process, the coordinator notices.

    in:   {"run": id, "task_id", "type", "attempt", "deadline"} + payload    {"stop": id}
    out:  {"ready": true}    {"progress": id, "value"}    {"holding": id}
          {"end": id, "error": …, "can_retry", "retry_after", "progress", "rss_bytes"} + result
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NamedTuple

from only_post_svc import registry
from only_post_svc.registry import Context, Fail, Handler, Retry
from only_post_svc.worker.frames import Frame, Unpacker, pack
from shared.strict_json import encode

MAX_MESSAGE = 2000  # characters of an error or a progress message
MAX_RETRY_SECONDS = 30 * 86400.0
PROGRESS_SECONDS = 0.1
NICENESS = 5  # the process that answers HTTP goes first
PR_SET_PDEATHSIG = 1  # linux/prctl.h
RSS_UNIT = 1024 if sys.platform == "linux" else 1  # of ru_maxrss

# The run whose code is on the event loop at this moment; tasks that it starts inherit it.
on_loop: ContextVar[str] = ContextVar("on_loop", default="")


class Stopped(BaseException):
    """Raised inside a `def` handler that has overrun its timeout or was cancelled."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the coordinator tells a child on its command line, as JSON."""

    parent: int
    modules: list[str]
    socket: int | None = None
    memory_bytes: int = 0
    max_result_bytes: int = 0


class RunOutcome(NamedTuple):
    result: bytes = b""
    error: dict[str, Any] | None = None
    can_retry: bool = True
    retry_after: float | None = None


class Reporter:
    """Sends a run's progress, though not more often than anyone could read it."""

    def __init__(self, runner: "Runner", run_id: str) -> None:
        self._runner = runner
        self._run_id = run_id
        self._sent_at = 0.0
        self.latest: dict[str, Any] | None = None

    def report(self, fraction: float, message: str) -> None:
        self.latest = {"fraction": fraction, "message": clean(message)}
        if time.monotonic() - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = time.monotonic()
            self._runner.send({"progress": self._run_id, "value": self.latest})


class Runner:
    def __init__(self, channel: socket.socket, max_result_bytes: int) -> None:
        self._channel = channel
        self._max_result_bytes = max_result_bytes
        self._unpacker = Unpacker(max_bytes=2**31)
        self._sending = threading.Lock()
        self._is_in_def = False
        self._async_runs: dict[str, asyncio.Task[None]] = {}
        self._later: list[Frame] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        """Runs what comes in until the coordinator closes the channel."""
        signal.signal(signal.SIGUSR1, self._interrupt)
        self.send({"ready": True})
        while data := self._channel.recv(65536):
            frames = list(self._unpacker.feed(data))
            while frames:
                self._take(frames)
                frames, self._later = self._later, []

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        with self._sending:
            self._channel.sendall(pack(message, blob))

    def _take(self, frames: list[Frame]) -> None:
        runs = [frame for frame in frames if "run" in frame[0]]  # without one there is nothing to stop
        if not runs:
            return
        message, payload = runs[0]
        handler = registry.handlers.get(message["type"])
        if handler is not None and not handler.task_type.is_async:
            self._later += runs[1:]
            self._run_def(handler, message, payload)
        else:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(self._run_async(frames))

    def _run_def(self, handler: Handler, message: dict[str, Any], payload: bytes) -> None:
        reporter = Reporter(self, message["run"])
        try:
            self._is_in_def = True
            try:
                outcome = self._outcome_of(handler.call(json.loads(payload), _context(message, reporter)))
            finally:
                self._is_in_def = False
        except BaseException as error:
            outcome = _outcome_of_error(error)
        self._end(message["run"], outcome, reporter)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The coordinator wants a `def` task to stop, or to know which `async def` task won't let go of the loop."""
        if self._is_in_def:
            raise Stopped
        holder = on_loop.get()
        if holder and self._sending.acquire(blocking=False):
            self._sending.release()
            self.send({"holding": holder})

    async def _run_async(self, frames: list[Frame]) -> None:
        """Serves the channel from the event loop until no run is left."""
        loop = asyncio.get_running_loop()
        idle = asyncio.Event()
        for frame in frames:
            self._dispatch(frame, idle)
        loop.add_reader(self._channel, self._readable, idle)
        try:
            while self._async_runs:  # one more may have come since the last one ended
                await idle.wait()
        finally:
            loop.remove_reader(self._channel)

    def _readable(self, idle: asyncio.Event) -> None:
        data = self._channel.recv(65536)
        if not data:
            os._exit(0)
        for frame in self._unpacker.feed(data):
            self._dispatch(frame, idle)

    def _dispatch(self, frame: Frame, idle: asyncio.Event) -> None:
        message, payload = frame
        if "stop" in message and message["stop"] in self._async_runs:
            # Not before its first step: it would never get to tell how it ended.
            asyncio.get_running_loop().call_soon(self._async_runs[message["stop"]].cancel)
        if "run" in message and _is_def(message):
            self._later.append(frame)  # the last run's end is sent, and the event loop about to end
        elif "run" in message:
            idle.clear()
            run = asyncio.get_running_loop().create_task(self._run_one(message, payload))
            self._async_runs[message["run"]] = run
            run.add_done_callback(lambda _: self._forget(message["run"], idle))

    def _forget(self, run_id: str, idle: asyncio.Event) -> None:
        del self._async_runs[run_id]
        if not self._async_runs:
            idle.set()

    async def _run_one(self, message: dict[str, Any], payload: bytes) -> None:
        on_loop.set(message["run"])
        reporter = Reporter(self, message["run"])
        try:
            handler = registry.handlers[message["type"]]
            outcome = self._outcome_of(await handler.call(json.loads(payload), _context(message, reporter)))
        except BaseException as error:
            outcome = _outcome_of_error(error)
        self._end(message["run"], outcome, reporter)

    def _outcome_of(self, value: Any) -> RunOutcome:
        try:
            result = encode(value).encode()
        except Exception as error:
            return RunOutcome(error=_error("invalid_result", error), can_retry=False)
        if len(result) > self._max_result_bytes:
            too_large = _error("result_too_large", f"{len(result)} bytes; the limit is {self._max_result_bytes}")
            return RunOutcome(error=too_large, can_retry=False)
        return RunOutcome(result)

    def _end(self, run_id: str, outcome: RunOutcome, reporter: Reporter) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        message = {
            "end": run_id,
            "error": outcome.error,
            "can_retry": outcome.can_retry,
            "retry_after": outcome.retry_after,
            "progress": reporter.latest,
            "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        }
        self.send(message, outcome.result)


def _is_def(message: dict[str, Any]) -> bool:
    handler = registry.handlers.get(message["type"])
    return handler is not None and not handler.task_type.is_async


def _context(message: dict[str, Any], reporter: Reporter) -> Context:
    deadline = datetime.fromtimestamp(message["deadline"], UTC)
    return Context(
        message["task_id"],
        message["attempt"],
        deadline,
        reporter.report,
        caller=message.get("caller", ""),
        key=message.get("key"),
    )


def _outcome_of_error(error: BaseException) -> RunOutcome:
    if not isinstance(error, (Retry, Fail, Stopped, asyncio.CancelledError)):
        with contextlib.suppress(BaseException):
            traceback.print_exception(error)
    return RunOutcome(
        error=_error("task_error", error),
        can_retry=not isinstance(error, Fail),
        retry_after=_within_bounds(error.after) if isinstance(error, Retry) and error.after is not None else None,
    )


def _within_bounds(after: float) -> float:
    return min(MAX_RETRY_SECONDS, max(0.0, float(after)))  # infinity has no place in the database's time


def _error(code: str, cause: BaseException | str) -> dict[str, Any]:
    if isinstance(cause, str):
        return {"code": code, "type": None, "message": cause}
    try:
        message = str(cause)
    except BaseException:
        message = "(the exception can't be shown: its str() raised)"
    return {"code": code, "type": type(cause).__name__, "message": clean(message)}


def clean(message: str) -> str:
    """Text that JSON and every database can carry."""
    return message[:MAX_MESSAGE].encode(errors="replace").decode().replace("\0", "�")


def _limit(options: Options) -> None:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory_bytes, options.memory_bytes))
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to all processes of a host; the coordinator decides
        signal.signal(number, signal.SIG_IGN)


def _die_with_parent(parent: int) -> None:
    """An orphan's result could not go anywhere: the task runs again elsewhere once its lease is over."""
    if sys.platform == "linux":  # also while C code holds the interpreter
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _print_types(modules: list[str]) -> None:
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the modules print is not part of the answer
    try:
        registry.load(modules)
        types = [dataclasses.asdict(handler.task_type) for handler in registry.handlers.values()]
        answer: dict[str, Any] = {"types": types}
    except registry.DefinitionError as error:
        answer = {"error": str(error)}
    answer_to.write(json.dumps(answer))
    answer_to.flush()
    os._exit(0)  # whatever threads the modules have started


def main() -> None:
    """With a socket among the options it serves there; without, it prints the task types that the modules make."""
    options = Options(**json.loads(sys.argv[1]))
    _die_with_parent(options.parent)
    if options.socket is None:
        _print_types(options.modules)
    else:
        _limit(options)
        registry.load(options.modules)
        Runner(socket.socket(fileno=options.socket), options.max_result_bytes).serve()


if __name__ == "__main__":
    main()
