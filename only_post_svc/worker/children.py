"""The coordinator's side of its child processes: start them, talk to them, end them."""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol, cast

from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.worker import linux
from only_post_svc.worker.frames import MAX_HEAD_BYTES, Unpacker, decode, kind_of, pack
from only_post_svc.worker.output import Output
from only_post_svc.worker.runner import Options, command
from shared.settings import SettingsError

DESCRIBE_SECONDS = 60
# In the environment of a child and of the processes that it starts: by it they are found once the child has ended.
MARK = "ONLY_POST_CHILD"

# The secrets of both services, and what libpq reads. Another variable with the same value is withheld too: Heroku sets
# a database's URL under two names.
WITHHELD = re.compile(
    r"(SECRET_KEY|SIGNING_KEY|JWKS|TLS_CERT|TLS_KEY|DATABASE_URL|METRICS_TOKEN|WEBHOOK_SECRET|MAIL_URL)(_FILE)?"
    r"|PGPASSWORD|PGPASSFILE|PGSSLKEY"
)

log = logging.getLogger(__name__)

started: set[int] = set()  # the children of this process, as long as a thread waits for each


class Events(Protocol):
    """What a child tells its coordinator."""

    def child_ready(self, child: "Child") -> None: ...

    def run_progressed(self, run_id: str, progress: dict[str, Any]) -> None: ...

    def run_saved(self, run_id: str, value: str) -> None: ...

    def run_ended(self, child: "Child", message: dict[str, Any], result: bytes) -> None: ...

    def child_exited(self, child: "Child", reason: str) -> None: ...


class Child(asyncio.Protocol):
    """One child process. It is used until it is retired, and retired once it has been interrupted, has grown, or its
    surroundings could not be restored after a run."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self.run_ids: dict[str, dict[str, Any]] = {}  # with what the log lines of each carry
        self.is_ready = False
        self.is_retired = False
        self.is_exclusive = False  # its one run has the process to itself
        self.holding = ""  # the run that said, when asked, that it has the event loop
        self._settings = settings
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._unpacker = Unpacker(settings.max_body_bytes + MAX_HEAD_BYTES)
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing: list[bytes] = []
        self._process, output = self._spawn()
        self._output = Output(output, self._about)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as done:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            done.callback(theirs.close)
            output, their_output = os.pipe()
            undo.callback(os.close, output)
            done.callback(os.close, their_output)
            process = subprocess.Popen(
                command(options_of(self._settings, theirs.fileno())),
                env=environment(os.environ) | {MARK: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=their_output,
                stderr=their_output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a group of its own, so that its children can be killed with it
            )
            undo.callback(process.wait)
            undo.callback(process.kill)
            threading.Thread(target=self._wait, args=(process,), daemon=True).start()
            undo.pop_all()
        started.add(process.pid)
        self._connecting = self._loop.create_task(self._connect(ours))
        return process, output

    async def _connect(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=ours)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        # Not the end of a pipe or socket: a grandchild may hold both open for ever.
        status = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exited, status)

    def _exited(self, status: int) -> None:
        self._kill_group()
        started.discard(self.pid)
        end_orphans()
        if self._transport is not None:
            self._transport.abort()
        self._output.close()
        self._events.child_exited(self, _reason(status))

    def _about(self) -> dict[str, Any]:
        """Which run a printed line belongs to."""
        of_runs = list(self.run_ids.values())
        return of_runs[0] if len(of_runs) == 1 else {"pid": self.pid}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        return not self.run_ids

    def start(self, message: dict[str, Any], payload: bytes, about: dict[str, Any], *, is_exclusive: bool) -> None:
        self.run_ids[message["run"]] = about
        self.is_exclusive = is_exclusive
        self._send(message, payload)

    def interrupt(self, run_id: str) -> None:
        """Asks a run to stop; it has a moment to clean up."""
        self.is_retired |= self.is_exclusive  # an exception at any point of its code may leave a module half changed
        self._send({"stop": run_id})
        self._flush()
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        self.is_retired = True
        self._kill_group()

    def _send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)  # all tasks of one claim are sent together
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
        self._output.drain()  # what was printed before comes before
        try:
            for message, blob in self._unpacker.feed(data):
                self._receive(kind_of(message), message, blob)
        except ValueError as error:  # user code wrote into the channel, or was cut off
            log.warning("child.garbled", extra={"pid": self.pid, "reason": str(error)[:500]})
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.kill()

    def _receive(self, kind: str, message: dict[str, Any], blob: bytes) -> None:
        run_id = message[kind]
        if kind == "ready":
            self.is_ready = True
            self._events.child_ready(self)
        elif kind == "said":
            self._output.take(message, self.run_ids.get(run_id, {"pid": self.pid}))
        elif kind == "end":
            self._run_ended(message, blob)
        elif run_id not in self.run_ids:
            return  # the run is over, but has left a thread behind: threads can't be stopped
        elif kind == "progress":
            self._events.run_progressed(run_id, message["value"])
        elif kind == "checkpoint":
            decode(blob)  # for its check alone
            self._events.run_saved(run_id, blob.decode())
        elif kind == "holding":
            self.holding = run_id

    def _run_ended(self, message: dict[str, Any], result: bytes) -> None:
        if message["end"] not in self.run_ids:
            raise ValueError("not a run of this child")
        self._output.end_run(message.get("dropped", 0))
        if spent := message.get("spent"):
            log.info("child.retired", extra={"pid": self.pid, "reason": spent, **self.run_ids[message["end"]]})
        self.is_retired |= bool(spent) or message["rss_bytes"] > self._settings.task_memory_bytes // 2
        self._events.run_ended(self, message, result)
        del self.run_ids[message["end"]]
        if self.is_retired and self.is_idle:
            self.kill()


def end_orphans() -> None:
    """What dead children have left behind has become this process's own: it is killed, and taken out of the table of
    processes. Its own children are the next."""
    for pid in set(linux.children()) - started:
        if linux.environment_has(pid, f"{MARK}={os.getpid()}"):
            os.kill(pid, signal.SIGKILL)
        linux.reap(pid)


def _reason(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-status}"


def options_of(settings: Settings, descriptor: int | None) -> Options:
    return Options(
        parent=os.getpid(),
        path=[path or os.getcwd() for path in sys.path],  # the child finds the modules where this process does
        modules=settings.modules,
        memory_bytes=settings.task_memory_bytes,
        socket=descriptor,
        max_result_bytes=settings.max_body_bytes,
        log_level=settings.log_level,
    )


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the code of tasks may see of the environment: no secrets."""
    secret = {value for name, value in environ.items() if WITHHELD.fullmatch(name) and value}
    return {name: value for name, value in environ.items() if not WITHHELD.fullmatch(name) and value not in secret}


async def describe_types(settings: Settings) -> dict[str, TaskType]:
    """The task types of TASK_MODULES, asked of a child: user code is not imported here.

    Raises SettingsError when a module can't be loaded, as no child could then.
    """
    process = await asyncio.create_subprocess_exec(
        *command(options_of(settings, None)),
        env=environment(os.environ),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DESCRIBE_SECONDS):
            output, _ = await process.communicate()
        answer = json.loads(output)
    except TimeoutError:
        process.kill()
        raise SettingsError(f"TASK_MODULES: loading them takes more than {DESCRIBE_SECONDS} s") from None
    except ValueError:
        raise SettingsError(f"TASK_MODULES: the process that loads them {_reason(await process.wait())}") from None
    if "error" in answer:
        raise SettingsError("TASK_MODULES: " + " ".join(answer["error"].split()))  # in one line
    return {entry["type"]: TaskType(**entry) for entry in answer["types"]}
