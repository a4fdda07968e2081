"""The table: Markdown, a line as soon as it is measured."""

from collections.abc import Callable
from typing import NamedTuple

from tests.bench.lab import Lab, Measured

HEAD = "| | measured | limit | ratio | wanted |\n|---|---:|---:|---:|---:|"


class Row(NamedTuple):
    """`wanted` is of the ratio where the row has a limit; PostgreSQL may have a number of its own. `measure` gives
    None where there is nothing to measure."""

    name: str
    what: str
    wanted: str
    measure: Callable[[Lab], Measured | None]
    wanted_of_postgresql: str | None = None  # the same


def line(row: Row, measured: Measured, *, is_postgresql: bool) -> str:
    ratio = "" if measured.ratio is None else f"{measured.ratio:.2f}"
    wanted = row.wanted
    if is_postgresql and row.wanted_of_postgresql is not None:
        wanted = row.wanted_of_postgresql
    return f"| {row.what} | {measured.value} | {measured.limit} | {ratio} | {wanted} |"
