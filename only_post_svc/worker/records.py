"""What the code of runs prints and logs, attributed to its run.

Where a `def` has the process to itself, its output goes through the pipe: the coordinator knows which run it is. The
lines of `async def` runs, which share a process, go over the channel with their run, as do all records of `logging`.
"""

import io
import logging
import sys
import time
from contextvars import ContextVar

from only_post_svc.worker.channel import Channel

LINES = 50  # that a child may log in a second, and as many warnings; the rest is counted and dropped
MAX_LINE = 2000
MAX_TRACEBACK = 8000
LEVELS = ("debug", "info", "warning", "error", "critical")

# The run whose code is on the event loop at this moment; tasks that it starts inherit it.
on_loop: ContextVar[str] = ContextVar("on_loop", default="")


def clean(text: str, most: int) -> str:
    """Text that JSON and every database can carry, cut at `most` characters."""
    return text[:most].encode(errors="replace").decode().replace("\0", "�")


class Throttle:
    """Admits so many lines a second."""

    def __init__(self, lines: int = LINES) -> None:
        self._lines = lines
        self._second = 0.0
        self._admitted = 0
        self.dropped = 0

    def admit(self, lines: int = 1) -> int:
        """How many of these lines may go on now."""
        now = time.monotonic()
        if now - self._second >= 1:
            self._second, self._admitted = now, 0
        admitted = min(lines, self._lines - self._admitted)
        self._admitted += admitted
        self.dropped += lines - admitted
        return admitted

    def take_dropped(self) -> int:
        dropped, self.dropped = self.dropped, 0
        return dropped


class Records(logging.Handler):
    """The root logger's handler in a child. `run_id` is of the `def` that has the process."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.run_id = ""
        self._channel = channel
        self._throttles = {False: Throttle(), True: Throttle()}  # warnings are not lost in a flood of lesser records
        self._printed: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if not self._channel.is_ours:  # a copy's goes where its stderr goes
            if logging.lastResort:
                logging.lastResort.handle(record)
            return
        try:
            level = LEVELS[min(4, max(0, record.levelno // 10 - 1))]
            self._tell(on_loop.get() or self.run_id, level, record.name, self.format(record), MAX_TRACEBACK)
        except Exception:
            self.handleError(record)

    def printed(self, run_id: str, text: str) -> None:
        *lines, rest = (self._printed.pop(run_id, "") + text).split("\n")
        for line in lines:
            self._tell(run_id, "info", "", line, MAX_LINE)
        if rest:
            self._printed[run_id] = rest[:MAX_LINE]

    def end(self, run_id: str) -> int:
        """Sends what was printed after the last line end. How many lines were dropped."""
        if rest := self._printed.pop(run_id, ""):
            self._tell(run_id, "info", "", rest, MAX_LINE)
        return sum(throttle.take_dropped() for throttle in self._throttles.values())

    def _tell(self, run_id: str, level: str, logger: str, line: str, most: int) -> None:
        if self._throttles[level in LEVELS[2:]].admit():
            said = {"said": run_id, "level": level, "logger": clean(logger, 200), "line": clean(line, most)}
            self._channel.send(said)


class Stream(io.TextIOWrapper):
    """stdout or stderr, out line by line. `share` while runs share the process."""

    def __init__(self, descriptor: int, records: Records) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        self._records = records

    def share(self) -> None:
        # Set in the instance, so that printing costs a `def` nothing more.
        self.write = self._write_shared  # type: ignore[method-assign]

    def unshare(self) -> None:
        del self.write

    def _write_shared(self, text: str) -> int:
        if run_id := on_loop.get():
            self._records.printed(run_id, text)
            return len(text)
        return super().write(text)


def install(channel: Channel, level: str) -> tuple[Records, tuple[Stream, Stream]]:
    """Takes over stdout, stderr and the root logger of this process."""
    records = Records(channel)
    streams = Stream(1, records), Stream(2, records)
    sys.stdout, sys.stderr = streams
    logging.root.addHandler(records)
    logging.root.setLevel(level.upper())
    logging.captureWarnings(True)
    return records, streams
