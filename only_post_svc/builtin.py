"""The tasks that ship: real ones, small enough to copy from."""

import asyncio
import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

from only_post_svc.registry import Context, Fail, task
from shared.schemas import Limits

MAX_SLEEP_SECONDS = 3600
MAX_COLUMNS = 1000
WORD = re.compile(r"[\w'’-]+")


@task("echo", timeout=30)
async def echo(**payload: Any) -> dict[str, Any]:
    """Give any payload back as the result."""
    return payload


@task("sleep", timeout=MAX_SLEEP_SECONDS + 60)
async def sleep(
    seconds: Annotated[float, Limits(minimum=0, maximum=MAX_SLEEP_SECONDS)], *, context: Context
) -> dict[str, Any]:
    """Wait for a number of seconds, reporting progress on the way."""
    steps = max(1, min(100, int(seconds)))
    for step in range(steps):
        await asyncio.sleep(seconds / steps)
        context.progress((step + 1) / steps)
    return {"slept_seconds": seconds}


@task("text.stats", timeout=30)
def text_stats(text: str, top: Annotated[int, Limits(minimum=0, maximum=1000)] = 10) -> dict[str, Any]:
    """Count the lines, words and characters of a text, and its most frequent words."""
    words = [word.casefold() for word in WORD.findall(text)]
    counted = Counter(words)
    return {
        "characters": len(text),
        "lines": len(text.splitlines()),
        "words": len(words),
        "unique_words": len(counted),
        "top": [{"word": word, "count": count} for word, count in counted.most_common(top)],
    }


@dataclass
class Column:
    """What is known of one column while its rows go by."""

    name: str
    cells: int = 0
    nulls: int = 0
    texts: set[str] = field(default_factory=set)
    numbers: list[float] = field(default_factory=list)
    is_numeric: bool = True

    def add(self, cell: str) -> None:
        self.cells += 1
        if not cell.strip():
            self.nulls += 1
            return
        self.texts.add(cell)
        if self.is_numeric:
            try:
                self.numbers.append(_number(cell))
            except ValueError:
                self.numbers.clear()
                self.is_numeric = False

    def summary(self, rows: int) -> dict[str, Any]:
        values: Any = self.numbers if self.is_numeric else self.texts
        return {
            "name": self.name,
            "type": "number" if self.numbers else "text",
            "nulls": self.nulls + rows - self.cells,
            "distinct": len(self.texts),
            "min": min(values, default=None),
            "max": max(values, default=None),
            "mean": sum(self.numbers) / len(self.numbers) if self.numbers else None,
        }


def _number(cell: str) -> float:
    number = float(cell)
    if number - number != 0:  # infinities and NaN have no place in JSON
        raise ValueError(cell)
    return int(number) if number.is_integer() else number


@task("csv.summary", timeout=60)
def csv_summary(text: str, delimiter: Annotated[str, Limits(minLength=1, maxLength=1)] = ",") -> dict[str, Any]:
    """Summarise each column of a CSV text whose first row has the names.

    How many cells are empty or distinct, the smallest and the largest and, of numbers, the mean."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [Column(name) for name in next(rows, [])]
        if len(columns) > MAX_COLUMNS:
            raise Fail(f"{len(columns)} columns; the limit is {MAX_COLUMNS}")
        count = 0
        for row in filter(None, rows):
            count += 1
            for column, cell in zip(columns, row, strict=False):  # cells that a short row lacks are counted below
                column.add(cell)
    except csv.Error as error:
        raise Fail(f"row {rows.line_num}: {error}") from None
    return {"rows": count, "columns": [column.summary(count) for column in columns]}
