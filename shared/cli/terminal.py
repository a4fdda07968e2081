"""What a command says: tables for people, a bar for whoever watches, one line when it fails."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

BAR_WIDTH = 30
BAR_SECONDS = 0.1  # between two pictures of it
CLEAR_LINE = "\r\x1b[K"

Progress = Callable[[int, int], None]  # how much is done, and of how much


class Failure(Exception):
    """What was asked for is not there or can't be done: one line on stderr, and exit status 1."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be, under `head`."""
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def fields(members: dict[str, object]) -> str:
    """One member a line."""
    width = max(map(len, members))
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in members.items())


def _cell(value: object) -> str:
    """Without what would move a terminal's cursor: some of it was written by strangers."""
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
    """Raises Failure unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise Failure(f"{question} Say so with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")
