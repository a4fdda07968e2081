"""The child process that runs user code.

It reads runs from a socket and writes back how they ended. A `def` task has the process to
itself, in the main thread and without a running event loop, as its author would expect; `async
def` tasks share one loop. The coordinator notices when a task crashes or blocks this process.

    in:   {"run": id, "task_id", "type", "attempt", "deadline", …} + payload    {"stop": id}
    out:  what frames.py has a shape for
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback
from contextvars import Context as Variables
from contextvars import copy_context
from datetime import UTC, datetime
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from only_post_svc import registry
from only_post_svc.registry import Context, Fail, Handler, Retry
from only_post_svc.worker import linux, records
from only_post_svc.worker.channel import Channel
from only_post_svc.worker.event_loop import EventLoop
from only_post_svc.worker.frames import Frame, Unpacker
from only_post_svc.worker.records import MAX_TRACEBACK, Records, Stream, clean, on_loop
from only_post_svc.worker.surroundings import Offspring, Surroundings
from shared.strict_json import encode

MAX_MESSAGE = 2000  # characters of an error or a progress message
MAX_RETRY_SECONDS = 30 * 86400.0
PROGRESS_SECONDS = 0.1
MEASURE_SECONDS = 0.02
NICENESS = 5  # the process that answers HTTP goes first
EXIT_FAILURE = 3
# That the coordinator and the host may send, and what an ordinary Python does at them.
OUR_SIGNALS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
OURS = (__file__, registry.__file__)  # their frames say nothing to the author of a task

log = logging.getLogger(__name__)


class Stopped(BaseException):
    """Raised inside a `def` handler that has overrun its timeout, was cancelled, or is to make way for a deploy."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the coordinator tells a child on its command line, as JSON. `path` is the sys.path that modules are found
    on; without a `socket` the child says which types they make, and ends."""

    parent: int
    path: list[str]
    modules: list[str]
    memory_bytes: int
    socket: int | None = None
    max_result_bytes: int = 0
    log_level: str = "info"


class RunOutcome(NamedTuple):
    result: bytes = b""
    error: dict[str, Any] | None = None
    can_retry: bool = True
    retry_after: float | None = None
    traceback: str | None = None


class Reporter:
    """Sends a run's progress, though not more often than anyone could read it."""

    def __init__(self, runner: "Runner", run_id: str) -> None:
        self._runner = runner
        self._run_id = run_id
        self._sent_at = 0.0
        self.latest: dict[str, Any] | None = None

    def report(self, fraction: float, message: str) -> None:
        self.latest = {"fraction": fraction, "message": clean(message, MAX_MESSAGE)}
        if time.monotonic() - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = time.monotonic()
            self._runner.channel.send({"progress": self._run_id, "value": self.latest})

    def keep(self, text: str) -> None:
        self._runner.send_checkpoint(self._run_id, text.encode())


class Runner:
    def __init__(self, channel: Channel, said: Records, streams: tuple[Stream, Stream], max_result_bytes: int) -> None:
        self.channel = channel
        self._records = said
        self._streams = streams
        self._max_result_bytes = max_result_bytes
        self._unpacker = Unpacker(2**31, 2**31)  # what comes from the coordinator is believed
        self._is_in_def = False
        self._async_runs: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()  # of these: their code has ended
        self._later: list[Frame] = []
        self._event_loop: EventLoop | None = None
        self._offspring = Offspring()
        self._rss_bytes = 0
        self._measured_at = -MEASURE_SECONDS
        signal.signal(signal.SIGUSR1, self._interrupt)
        self._masks: dict[int, Any] = {}  # by thread that forks
        os.register_at_fork(
            before=self._hold_signals, after_in_parent=self._let_signals_in, after_in_child=self._become_a_copy
        )
        self._variables = copy_context()
        self._surroundings = Surroundings()

    def serve(self) -> None:
        """Runs what comes in until the coordinator closes the channel."""
        self.channel.send({"ready": True})
        while data := self.channel.receive():
            frames = list(self._unpacker.feed(data))
            while frames:
                self._take(frames)
                frames, self._later = self._later, []

    def send_checkpoint(self, run_id: str, value: bytes) -> None:
        if len(value) > self._max_result_bytes:
            raise ValueError(f"a checkpoint of {len(value)} bytes; the limit is {self._max_result_bytes}")
        self.channel.send({"checkpoint": run_id}, value)

    def _take(self, frames: list[Frame]) -> None:
        runs = [frame for frame in frames if "run" in frame[0]]  # without one there is nothing to stop
        if not runs:
            return
        message, payload = runs[0]
        if _is_def(message):
            self._later += runs[1:]
            self._run_def(registry.handlers[message["type"]], message, payload)
        else:
            self._run_loop(frames)

    def _run_def(self, handler: Handler, message: dict[str, Any], payload: bytes) -> None:
        reporter = Reporter(self, message["run"])
        self._records.run_id = message["run"]
        try:
            self._is_in_def = True
            try:
                value = self._fresh_variables().run(_call, handler, payload, self._context(message, reporter))
                self._leave_a_copy()
                outcome = self._outcome_of(value)
            finally:
                self._is_in_def = False
        except BaseException as error:
            self._leave_a_copy(error)
            outcome = _outcome_of_error(error)
        self._end(message["run"], outcome, reporter, self._clear())
        self._records.run_id = ""

    def _fresh_variables(self) -> Variables:
        """The context variables of a run: as the modules have left them, without those that other runs have set."""
        return self._variables.copy()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The coordinator wants a `def` task to stop, or to know which `async def` task won't let go of the loop."""
        if self._is_in_def:
            raise Stopped
        if holder := on_loop.get():
            self.channel.send_in_signal_handler({"holding": holder})

    def _run_loop(self, frames: list[Frame]) -> None:
        """Serves the channel from the event loop until a `def` wants the process: to start and stop the loop takes
        longer than a short run."""
        if self._event_loop is None:
            self._event_loop = EventLoop()
        for stream in self._streams:
            stream.share()
        try:
            self._event_loop.loop.run_until_complete(self._run_async(frames))
        finally:
            self._leave_a_copy()
            for stream in self._streams:
                stream.unshare()

    async def _run_async(self, frames: list[Frame]) -> None:
        loop = asyncio.get_running_loop()
        leaving = asyncio.Event()
        for frame in frames:
            self._dispatch(frame, leaving)
        loop.add_reader(self.channel.socket, self._readable, leaving)
        try:
            await leaving.wait()
            while self._async_runs:  # one more has come since
                leaving.clear()
                await leaving.wait()
        finally:
            loop.remove_reader(self.channel.socket)

    def _readable(self, leaving: asyncio.Event) -> None:
        data = self.channel.receive()
        if not data:
            os._exit(0)
        for frame in self._unpacker.feed(data):
            self._dispatch(frame, leaving)

    def _dispatch(self, frame: Frame, leaving: asyncio.Event) -> None:
        message, payload = frame
        loop = asyncio.get_running_loop()
        if "stop" in message:
            loop.call_soon(self._stop, message["stop"])  # its first step comes first, or it could not tell its end
        elif _is_def(message):
            self._later.append(frame)
            self._leave_if_wanted(leaving)
        else:
            run = loop.create_task(self._run_one(message, payload), context=self._fresh_variables())
            self._async_runs[message["run"]] = run
            run.add_done_callback(lambda _: self._forget(message["run"], leaving))

    def _stop(self, run_id: str) -> None:
        if run_id in self._async_runs and run_id not in self._ending:
            self._async_runs[run_id].cancel()

    def _forget(self, run_id: str, leaving: asyncio.Event) -> None:
        del self._async_runs[run_id]
        self._ending.discard(run_id)
        self._leave_if_wanted(leaving)

    def _leave_if_wanted(self, leaving: asyncio.Event) -> None:
        if self._later and not self._async_runs:
            leaving.set()

    async def _run_one(self, message: dict[str, Any], payload: bytes) -> None:
        run_id = message["run"]
        on_loop.set(run_id)
        reporter = Reporter(self, run_id)
        try:
            handler = registry.handlers[message["type"]]
            outcome = self._outcome_of(await _call(handler, payload, self._context(message, reporter)))
        except BaseException as error:
            self._leave_a_copy(error)
            outcome = _outcome_of_error(error)
        self._leave_a_copy()
        self._ending.add(run_id)
        spent = await self._event_loop.end(run_id) if self._event_loop else ""
        self._end(run_id, outcome, reporter, spent or (self._clear() if len(self._async_runs) == 1 else ""))

    def _context(self, message: dict[str, Any], reporter: Reporter) -> Context:
        return Context(
            message["task_id"],
            message["attempt"],
            datetime.fromtimestamp(message["deadline"], UTC),
            report=reporter.report,
            keep=reporter.keep,
            caller=message["caller"],
            key=message["key"],
            traceparent=message["traceparent"],
            saved=json.loads(message["saved"] or "null"),
        )

    def _clear(self) -> str:
        """Makes the process as it was before its runs. What could not be put back, '' when all was."""
        for stream in self._streams:
            with contextlib.suppress(Exception):
                stream.flush()
        self._offspring.end()
        return self._surroundings.restore()

    def _outcome_of(self, value: Any) -> RunOutcome:
        try:
            result = encode(value).encode()
        except Exception as error:
            return RunOutcome(error=_error("invalid_result", error), can_retry=False, traceback=_traceback(error))
        if len(result) > self._max_result_bytes:
            too_large = _error("result_too_large", f"{len(result)} bytes; the limit is {self._max_result_bytes}")
            return RunOutcome(error=too_large, can_retry=False)
        return RunOutcome(result)

    def _end(self, run_id: str, outcome: RunOutcome, reporter: Reporter, spent: str) -> None:
        message = {
            "end": run_id,
            "rss_bytes": self._resident_bytes(),
            "error": outcome.error,
            "can_retry": None if outcome.can_retry else False,
            "retry_after": outcome.retry_after,
            "traceback": outcome.traceback,
            "progress": reporter.latest,
            "dropped": self._records.end(run_id) or None,
            "spent": clean(spent, MAX_MESSAGE) or None,
        }
        told = {name: value for name, value in message.items() if value is not None}
        self.channel.send(told, outcome.result)

    def _resident_bytes(self) -> int:
        """Not asked after every short run: /proc takes longer than they do."""
        if time.monotonic() - self._measured_at >= MEASURE_SECONDS:
            self._rss_bytes = linux.resident_bytes()
            self._measured_at = time.monotonic()
        return self._rss_bytes

    def _hold_signals(self) -> None:
        """What a copy is sent before it is an ordinary process waits until it is."""
        self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)

    def _let_signals_in(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(threading.get_ident()))

    def _become_a_copy(self) -> None:
        """After fork, in the new process: an ordinary one, that has nothing of the other runs."""
        for number, ordinary in OUR_SIGNALS.items():
            if signal.getsignal(number) in (_not_now, self._interrupt):
                signal.signal(number, ordinary)
        if self._event_loop is not None:
            self._event_loop.forget()
        self._let_signals_in()

    def _leave_a_copy(self, error: BaseException | None = None) -> None:
        """Ends a copy of this process that has come back from the code which made it, as a program ends."""
        if self.channel.is_ours:
            return
        if error is not None:
            traceback.print_exception(error)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(1 if error else 0)


def _call(handler: Handler, payload: bytes, context: Context) -> Any:
    if decimal := sys.modules.get("decimal"):
        decimal.setcontext(decimal.getcontext().copy())  # it is changed in place
    return handler.call(json.loads(payload), context)


def _is_def(message: dict[str, Any]) -> bool:
    handler = registry.handlers.get(message["type"])
    return handler is not None and not handler.task_type.is_async


def _outcome_of_error(error: BaseException) -> RunOutcome:
    return RunOutcome(
        error=_error("task_error", error),
        can_retry=not isinstance(error, Fail),
        retry_after=_within_bounds(error.after) if isinstance(error, Retry) and error.after is not None else None,
        traceback=_traceback(error),
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
    return {"code": code, "type": clean(type(cause).__name__, 200), "message": clean(message, MAX_MESSAGE)}


def _traceback(error: BaseException) -> str | None:
    """From the author's own code on; its end says the most."""
    try:
        lines = traceback.format_exception(type(error), error, _theirs(error.__traceback__))
    except BaseException:
        return None
    return clean("".join(lines)[-MAX_TRACEBACK:], MAX_TRACEBACK)


def _theirs(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename in OURS:
        frames = frames.tb_next
    return frames


def _not_now(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGINT may be sent to all processes of a host; the coordinator decides. Handled and not ignored,
    since programs that a task starts would inherit that."""


def _limit(options: Options) -> None:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory_bytes, options.memory_bytes))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _not_now)


def _live_under(parent: int) -> None:
    """An orphan's result could not go anywhere: the task runs again elsewhere once its lease is over."""
    linux.give_up_tracing()
    linux.adopt_orphans()
    linux.die_with_parent(parent)
    if not linux.IS_LINUX:
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
    os._exit(0)  # not held up by threads that the modules have started


def _serve(options: Options, descriptor: int) -> None:
    channel = Channel(descriptor)
    said, streams = records.install(channel, options.log_level)
    try:
        registry.load(options.modules)
    except registry.DefinitionError as error:
        log.error("%s", error)
        os._exit(EXIT_FAILURE)
    Runner(channel, said, streams, options.max_result_bytes).serve()
    os._exit(0)  # not held up by threads that tasks have left


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    _live_under(options.parent)
    _limit(options)
    if options.socket is None:
        _print_types(options.modules)
    else:
        _serve(options, options.socket)


# sys.path goes by the command line and not by PYTHONPATH, which the programs that tasks start would inherit.
BOOT = """
import json, sys
sys.argv[0] = "only_post_svc.worker.runner"
sys.path[:] = json.loads(sys.argv[1])["path"]
from only_post_svc.worker.runner import main
main()
"""


def command(options: Options) -> list[str]:
    """What to start for a child."""
    return [sys.executable, "-c", BOOT, json.dumps(dataclasses.asdict(options))]
