"""Logs: one event a line on stdout, as logfmt or JSON (https://12factor.net/logs).

There are two ways in, and both give the same lines: `logging`, as everywhere (`log.info("task.claimed",
extra={"count": 3})`), and `logs.info` for the line of each request. The latter makes no LogRecord and formats its line
when it is written.
"""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple, TextIO

from shared.middleware import request_id

MAX_VALUE = 8000  # Heroku's log router splits lines at 10,000 bytes
FLUSH_SECONDS = 0.05
MAX_WAITING = 1000  # lines, which are written then
PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f]+")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Sends every logger's lines to stdout, or `stream`, in `style`, uvicorn's own included."""
    _skip_what_no_line_shows()
    handler = Bundles(stream or sys.stdout, Formatter(_json if style == "json" else _logfmt))
    for old in logging.root.handlers:
        old.flush()
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # shared/middleware/access_log.py has the line instead


class Event(NamedTuple):
    level: str
    name: str
    created: float  # seconds since 1970
    request_id: str  # '' outside of requests
    fields: dict[str, object]


def info(event: str, fields: dict[str, object]) -> None:
    """A line at level info without a LogRecord, formatted when it is written: formatting many in a row is quicker."""
    for handler in logging.root.handlers:
        if isinstance(handler, Bundles) and logging.root.level <= logging.INFO:
            handler.add(Event("info", event, time.time(), request_id.current.get(), fields))


def _skip_what_no_line_shows() -> None:
    """https://docs.python.org/3/howto/logging.html#optimization"""
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Formatter(logging.Formatter):
    """`log.info("task.claimed", extra={"count": 3})`: the event and its fields."""

    def __init__(self, write: Callable[[dict[str, object]], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)[-MAX_VALUE:]  # the exception is at its end
        current = request_id.current.get()
        return self.line(Event(record.levelname.lower(), record.getMessage(), record.created, current, fields))

    def line(self, event: Event) -> str:
        named: dict[str, object] = {"ts": _timestamp(event.created), "at": event.level, "event": event.name}
        if event.request_id:
            named["request_id"] = event.request_id
        return self._write(named | event.fields)


class Bundles(logging.StreamHandler[TextIO]):
    """Writes the lines of FLUSH_SECONDS with one system call. Warnings, and lines from outside the event loop, are
    written at once."""

    def __init__(self, stream: TextIO, lines: Formatter) -> None:
        super().__init__(stream)
        self.lines = lines
        self.setFormatter(lines)
        self._waiting: list[str | Event] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.add(self.format(record))
            if record.levelno >= logging.WARNING:
                self.flush()
        except Exception:
            self.handleError(record)

    def add(self, line: str | Event) -> None:
        with self.lock or nullcontext():
            self._waiting.append(line)
            count = len(self._waiting)
        if count == 1:
            self._flush_soon()
        elif count >= MAX_WAITING:
            self.flush()

    def _flush_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        except RuntimeError:
            self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            waiting, self._waiting = self._waiting, []
            if waiting:
                lines = [self.lines.line(one) if isinstance(one, Event) else one for one in waiting]
                self.stream.write("\n".join([*lines, ""]))
                super().flush()


def _timestamp(created: float) -> str:
    return f"{_second(int(created))}.{int(created % 1 * 1000):03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


ENCODER = json.JSONEncoder(default=str)


def _json(fields: dict[str, object]) -> str:
    return ENCODER.encode({name: _cut(value) for name, value in fields.items()})


def _cut(value: object) -> object:
    return value[:MAX_VALUE] if isinstance(value, str) else value


def _logfmt(fields: dict[str, object]) -> str:
    texts = [str(value)[:MAX_VALUE] for value in fields.values()]
    if not all(texts) or not PLAIN.fullmatch("".join(texts)):  # one match for all: nearly all are plain
        texts = [text if PLAIN.fullmatch(text) else json.dumps(text) for text in texts]
    return " ".join([f"{name}={text}" for name, text in zip(fields, texts, strict=True)])
