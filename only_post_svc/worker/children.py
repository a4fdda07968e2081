"""The coordinator's side of its child processes: start them, talk to them, end them."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Protocol, cast

from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.worker.frames import Unpacker, pack
from only_post_svc.worker.runner import Options
from shared.settings import SettingsError

OUTPUT_LINES = 50  # a second and child go to the log; the rest is counted
OUTPUT_LINE_BYTES = 2000
MAX_OVERHEAD_BYTES = 64 * 1024  # of a frame, beside the result
DESCRIBE_SECONDS = 60

log = logging.getLogger(__name__)


class Events(Protocol):
    """What a child tells its coordinator."""

    def child_ready(self, child: "Child") -> None: ...

    def run_progressed(self, run_id: str, progress: dict[str, Any]) -> None: ...

    def run_ended(self, child: "Child", message: dict[str, Any], result: bytes) -> None: ...

    def child_exited(self, child: "Child", reason: str) -> None: ...


class Child(asyncio.Protocol):
    """One child process. It is used until it is retired, and retired once it has been interrupted or has grown."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self.run_ids: set[str] = set()
        self.is_ready = False
        self.is_retired = False
        self.is_exclusive = False  # its one run has the process to itself
        self.holding = ""  # the run that said, when asked, that it has the event loop
        self._settings = settings
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._unpacker = Unpacker(settings.max_body_bytes + MAX_OVERHEAD_BYTES)
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing: list[bytes] = []
        self._output: asyncio.ReadTransport | None = None
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        options = Options(
            socket=theirs.fileno(),
            parent=os.getpid(),
            modules=list(self._settings.task_modules),
            memory_bytes=self._settings.task_memory_bytes,
            max_result_bytes=self._settings.max_body_bytes,
        )
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            process = subprocess.Popen(
                _command(options),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a group of its own, so that its children can be killed with it
            )
            undo.pop_all()
        self._connecting = self._loop.create_task(self._connect(ours, process))
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()
        return process

    async def _connect(self, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
        ours.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=ours)
        self._output, _ = await self._loop.connect_read_pipe(lambda: Output(self.pid), process.stdout)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        # Not the end of a pipe or socket: a grandchild may hold both open for ever.
        status = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._exited, status)

    def _exited(self, status: int) -> None:
        self._kill_group()
        if self._transport is not None:
            self._transport.abort()
        if self._output is not None:
            self._loop.call_later(1, self._output.close)  # a grandchild may hold it open for ever
        reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        self._events.child_exited(self, reason)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        return not self.run_ids

    def start(self, message: dict[str, Any], payload: bytes, *, is_exclusive: bool) -> None:
        self.run_ids.add(message["run"])
        self.is_exclusive = is_exclusive
        self._send(message, payload)

    def interrupt(self, run_id: str) -> None:
        """Asks a run to stop, politely: it may clean up, and has a moment to do so."""
        self.is_retired |= self.is_exclusive  # an exception out of nowhere may leave a module half changed
        self._send({"stop": run_id})
        self._flush()
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        self.is_retired = True
        self._kill_group()

    def _send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)  # what one claim has brought goes out together
        self._outgoing.append(pack(message, blob))

    def _flush(self) -> None:
        frames, self._outgoing = self._outgoing, []
        if frames and self._transport is not None:
            self._transport.write(b"".join(frames))

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        try:
            for message, blob in self._unpacker.feed(data):
                self._receive(message, blob)
        except (ValueError, KeyError, TypeError) as error:  # user code wrote into the channel, or was cut off
            log.warning("child.garbled", extra={"pid": self.pid, "reason": repr(error)})
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.kill()

    def _receive(self, message: dict[str, Any], blob: bytes) -> None:
        if "end" in message:
            self._run_ended(message, blob)
        elif "progress" in message:
            self._events.run_progressed(message["progress"], message["value"])
        elif "holding" in message:
            self.holding = message["holding"]
        elif "ready" in message:
            self.is_ready = True
            self._events.child_ready(self)

    def _run_ended(self, message: dict[str, Any], result: bytes) -> None:
        if message["end"] not in self.run_ids:
            raise ValueError("not a run of this child")
        self.is_retired |= message["rss_bytes"] > self._settings.task_memory_bytes // 2
        self._events.run_ended(self, message, result)
        self.run_ids.remove(message["end"])
        if self.is_retired and self.is_idle:
            self.kill()


class Output(asyncio.Protocol):
    """What a child prints, line by line into the log, though no more than anyone could read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._rest = b""
        self._second = 0.0
        self._lines = 0
        self._dropped = 0

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if now - self._second >= 1:
            self._report_dropped()
            self._second, self._lines = now, 0
        if self._lines >= OUTPUT_LINES:
            self._dropped += data.count(b"\n")
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:OUTPUT_LINE_BYTES]
        room = OUTPUT_LINES - self._lines
        for line in lines[:room]:
            self._log(line)
        self._lines += len(lines)
        self._dropped += len(lines[room:])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._log(self._rest)
        self._report_dropped()

    def _log(self, line: bytes) -> None:
        log.info("task.output", extra={"pid": self._pid, "line": line[:OUTPUT_LINE_BYTES].decode(errors="replace")})

    def _report_dropped(self) -> None:
        if self._dropped:
            log.warning("task.output_dropped", extra={"pid": self._pid, "lines": self._dropped})
            self._dropped = 0


def _command(options: Options) -> list[str]:
    return [sys.executable, "-m", "only_post_svc.worker.runner", json.dumps(dataclasses.asdict(options))]


def _environment() -> dict[str, str]:
    # The child finds the modules where this process does, however it was started.
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


async def describe_types(settings: Settings) -> dict[str, TaskType]:
    """The task types of TASK_MODULES, asked of a child: user code is not imported here.

    Raises SettingsError when a module can't be loaded.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(Options(parent=os.getpid(), modules=list(settings.task_modules))),
        env=_environment(),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DESCRIBE_SECONDS):
            output, _ = await process.communicate()
        answer = json.loads(output)
    except (TimeoutError, ValueError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise SettingsError("TASK_MODULES: loading them did not end well") from None
    if "error" in answer:
        raise SettingsError("TASK_MODULES: " + " ".join(answer["error"].split()))  # one line, whatever it says
    return {entry["type"]: TaskType(**entry) for entry in answer["types"]}
