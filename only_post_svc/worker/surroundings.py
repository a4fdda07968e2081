"""The state of a process that a run may change, restored for the runs after it."""

import contextlib
import gc
import locale
import os
import resource
import signal
import socket
import subprocess
import sys
import time

# signal.getsignal() makes an enum of every answer, which takes ten times as long.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Mapping
from typing import Any, NamedTuple

from only_post_svc.worker import linux

NUMBERS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
LIMITS = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE)
MAX_GENERATIONS = 100  # of orphans: the children of one that was killed are the next


class ProcessState(NamedTuple):
    """The names of the fields are logged for what could not be restored."""

    environment: Mapping[bytes, bytes]
    working_directory: str | None
    locale: str
    signal_handlers: tuple[Any, ...]
    blocked_signals: set[Any]
    streams: tuple[Any, ...]
    recursion_limit: int
    socket_timeout: float | None
    tracing: tuple[Any, ...]
    resource_limits: tuple[Any, ...]
    user_and_groups: tuple[Any, ...]
    niceness: int


def _state() -> ProcessState:
    return ProcessState(
        _environment(),
        _working_directory(),
        locale.setlocale(locale.LC_ALL),
        tuple(map(getsignal, NUMBERS)),
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        (sys.stdin, sys.stdout, sys.stderr),
        sys.getrecursionlimit(),
        socket.getdefaulttimeout(),
        (sys.gettrace(), sys.getprofile()),
        tuple(map(resource.getrlimit, LIMITS)),
        (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()),
        os.getpriority(os.PRIO_PROCESS, 0),
    )


def _environment() -> dict[bytes, bytes]:
    data: dict[bytes, bytes] = vars(os.environ)["_data"]  # as it is kept: a copy by its methods decodes every entry
    return data


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


class Surroundings:
    """The state of the process when this is made, to be restored after each run."""

    def __init__(self) -> None:
        state = _state()
        self._before = state._replace(environment=dict(state.environment))
        self._umask = os.umask(0)
        os.umask(self._umask)

    def restore(self) -> str:
        """Restores it. The names of what could not be restored, '' when all was."""
        try:
            for timer in TIMERS:
                signal.setitimer(timer, 0)
            os.umask(self._umask)
            if _state() == self._before:
                return ""
            self._put_back()
        except BaseException as error:  # a handler of the run's own may raise when its signal comes here
            return f"surroundings ({error!r})"
        return ", ".join(name for name, now in _state()._asdict().items() if now != getattr(self._before, name))

    def _put_back(self) -> None:
        before = self._before
        for number, handler in zip(NUMBERS, before.signal_handlers, strict=True):
            if getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked_signals)
        sys.stdin, sys.stdout, sys.stderr = before.streams
        sys.setrecursionlimit(before.recursion_limit)
        socket.setdefaulttimeout(before.socket_timeout)
        sys.settrace(before.tracing[0])
        sys.setprofile(before.tracing[1])
        self._put_back_environment()
        for limit, values in zip(LIMITS, before.resource_limits, strict=True):
            with contextlib.suppress(ValueError):  # a hard limit that was lowered stays low
                resource.setrlimit(limit, values)
        with contextlib.suppress(OSError):
            os.chdir(before.working_directory or ".")

    def _put_back_environment(self) -> None:
        if _environment() != self._before.environment:
            os.environb.clear()
            os.environb.update(self._before.environment)
            time.tzset()
        locale.setlocale(locale.LC_ALL, self._before.locale)


class Offspring:
    """The processes that runs have started, and what these left behind. Some are kept: those that code still holds as
    a Popen or a multiprocessing.Process, such as a pool of the module's. All others end with their run."""

    def __init__(self) -> None:
        self._kept: set[int] = set()

    def end(self) -> None:
        if not linux.has_children():
            return
        for _ in range(MAX_GENERATIONS):
            found = set(linux.children()) - self._kept
            if not found:
                return
            self._kept = _held()
            for pid in found - self._kept:
                linux.end(pid)


def _held() -> set[int]:
    gc.collect()
    popens = [one for one in gc.get_objects() if issubclass(type(one), subprocess.Popen) and one.returncode is None]
    dropped: list[Any] = getattr(subprocess, "_active", None) or []  # deleted objects whose process still runs
    pids = {one.pid for one in popens if one not in dropped}
    if multiprocessing := sys.modules.get("multiprocessing"):
        pids |= {process.pid for process in multiprocessing.active_children()}
    return pids | _helpers()


def _helpers() -> set[int]:
    """The processes that multiprocessing starts for itself."""
    places = (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    )
    found = (getattr(getattr(sys.modules.get(module), name, None), pid, None) for module, name, pid in places)
    return {pid for pid in found if pid is not None}
