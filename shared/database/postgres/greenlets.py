"""Greenlets: plain functions that give way to the event loop while they wait."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

MAX_SPARE = 100


class Greenlets:
    """Those of one event loop. Spare ones are kept: for the frames of a new one memory has to be mapped."""

    def __init__(self) -> None:
        self._spare: list[greenlet] = []

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Runs `work`, which must not raise, up to where it waits for the first time."""
        if not self._spare:
            greenlet(self._serve).switch()
        self._spare.pop().switch(work, arguments)

    def _serve(self) -> None:
        me = getcurrent()
        assert me.parent is not None
        while len(self._spare) < MAX_SPARE:
            self._spare.append(me)
            work, arguments = me.parent.switch()
            work(*arguments)
            del work, arguments  # or what they hold would live until the greenlet is used again

    def close(self) -> None:
        self._spare.clear()


def awaited(future: asyncio.Future[T]) -> T:
    """Its result. The greenlet that asks gives way to the event loop until it is there."""
    me = getcurrent()
    assert me.parent is not None
    future.add_done_callback(lambda _: me.switch())
    me.parent.switch()
    return future.result()
