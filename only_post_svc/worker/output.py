"""The coordinator's side of what its children print and log: lines into the log, up to a limit
a second."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from only_post_svc.worker.records import LEVELS, LINES, MAX_LINE, Throttle

READ_BYTES = 65536
MAX_READS = 16  # in a row: a child may print faster than it is read

log = logging.getLogger(__name__)

About = Callable[[], dict[str, Any]]


class Output:
    """`about` says whose the lines are that come through the pipe `descriptor`."""

    def __init__(self, descriptor: int, about: About) -> None:
        self._descriptor = descriptor
        self._about = about
        self._rest = b""
        self._throttle = Throttle()
        self._told = Throttle(2 * LINES)
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read_some)
        self._is_open = True

    def take(self, message: dict[str, Any], about: dict[str, Any]) -> None:
        """A line that says whose it is."""
        if not self._told.admit():
            return
        if logger := message["logger"]:
            level = (LEVELS.index(message["level"]) + 1) * 10
            log.log(level, "task.log", extra={"logger": logger, "line": message["line"], **about})
        else:
            log.info("task.output", extra={"line": message["line"], **about})

    def end_run(self, dropped: int) -> None:
        """What comes from now on is another run's."""
        if self._rest and self._throttle.admit():
            self._log(self._rest)
        self._rest = b""
        self._report(dropped + self._throttle.take_dropped() + self._told.take_dropped())

    def close(self) -> None:
        if self._is_open:
            self.drain()
            self.end_run(0)
            self._stop()

    def drain(self) -> None:
        """Reads what is there."""
        for _ in range(MAX_READS):
            if not self._read():
                return

    def _read_some(self) -> None:
        self._read()
        if self._throttle.dropped >= LINES:
            self._report(self._throttle.take_dropped())

    def _read(self) -> bool:
        if not self._is_open:
            return False
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._stop()
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE]
        for line in lines[: self._throttle.admit(len(lines))]:
            self._log(line)
        return len(data) == READ_BYTES

    def _stop(self) -> None:
        self._is_open = False
        self._loop.remove_reader(self._descriptor)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _log(self, line: bytes) -> None:
        log.info("task.output", extra={"line": line[:MAX_LINE].decode(errors="replace"), **self._about()})

    def _report(self, dropped: int) -> None:
        if dropped:
            log.warning("task.output_dropped", extra={"lines": dropped, **self._about()})
