"""Units of work on their way through an engine's threads, and back to who waits for them."""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from shared.database import Unit


class Job(NamedTuple):
    unit: Unit[Any]
    future: asyncio.Future[Any]


class Outcome(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None = None


def resolve(outcomes: Iterable[Outcome]) -> None:
    """Called in the loop of the futures."""
    for future, value, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
