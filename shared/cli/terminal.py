"""What a command prints: tables for people, a bar on a terminal, one line when it fails."""

import getpass
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from shared import times

BAR_WIDTH = 30
BAR_SECONDS = 0.1  # between two pictures of it
CLEAR_LINE = "\r\x1b[K"

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
COLOURS = {
    "succeeded": 32,
    "ok": 32,
    "running": 36,
    "queued": 33,
    "scheduled": 33,
    "warn": 33,
    "failed": 31,
    "fail": 31,
    "cancelled": 35,
}
WORD = re.compile(r"(?<!\S)[a-z]+(?!\S)")

Progress = Callable[[int, int], None]  # how much is done, and of how much


class Failure(Exception):
    """What was asked for is not there or can't be done: one line on stderr, and exit status 1."""


@contextmanager
def failing(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Raises Failure in place of these errors: `what` failed, and why."""
    try:
        yield
    except errors as error:
        raise Failure(f"{what} ({getattr(error, 'strerror', None) or error})") from None


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be, under `head`."""
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], *map(_coloured, lines[1:])])


def fields(members: dict[str, object]) -> str:
    """One member a line."""
    width = max(map(len, members))
    return "\n".join(_coloured(f"{name.ljust(width)}  {_cell(value)}") for name, value in members.items())


def _coloured(line: str) -> str:
    """Colours a status on a terminal: not in a file or a pipe, nor with NO_COLOR (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return line
    return WORD.sub(lambda found: _painted(found[0]), line)


def _painted(word: str) -> str:
    return f"\x1b[{COLOURS[word]}m{word}\x1b[0m" if word in COLOURS else word


def moment(milliseconds: int | None) -> str | None:
    """A time, and how long ago that was or is to come: `2026-11-22T08:30:00.123Z (2 min ago)`."""
    if milliseconds is None:
        return None
    seconds = round(time.time() - milliseconds / 1000)
    age = _span(abs(seconds))
    return f"{times.to_text(milliseconds)} ({f'in {age}' if seconds < 0 else f'{age} ago'})"


def _span(seconds: int) -> str:
    name, size = next(((name, size) for name, size in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds // size} {name}"


def _cell(value: object) -> str:
    """Without what would move a terminal's cursor: callers have written some of it."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(character if character.isprintable() else "�" for character in text)


@contextmanager
def bar(label: str) -> Iterator[Progress]:
    """Shows how far something is on stderr while that is a terminal."""
    shown_at = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        if sys.stderr.isatty() and time.monotonic() - shown_at >= BAR_SECONDS:
            shown_at = time.monotonic()
            share = min(1.0, done / total) if total else 1.0
            blocks = "#" * round(share * BAR_WIDTH)
            print(f"{CLEAR_LINE}{label} [{blocks.ljust(BAR_WIDTH)}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown_at:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)


def read_password(what: str) -> str:
    """Asks twice on a terminal; elsewhere the first line of stdin. Never an argument, which every user of the machine
    can see."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"{what}: ")
        if getpass.getpass("once more: ") != password:
            raise Failure("the two are not the same")
        return password
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("the password must be UTF-8") from None


def confirm(question: str) -> None:
    """Raises Failure unless the user at a terminal says yes."""
    if not sys.stdin.isatty():
        raise Failure(f"{question} Say so with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")
