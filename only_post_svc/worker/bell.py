"""When a worker that hears of a task claims it."""

import asyncio

PAUSE_SECONDS = 0.002
MAX_PAUSE_SECONDS = 0.016


class Bell:
    """Sets `event`: at once, or a little later while one claim after the other finds nothing, because other workers are
    quicker. They all hear of a task at the same moment, and one gets it; a claim in vain costs as much as any other."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._loop = asyncio.get_running_loop()
        self._in_vain = 0  # claims, since the last that found something
        self._not_before = 0.0
        self._late: asyncio.TimerHandle | None = None

    def note(self, *, has_found: bool) -> None:
        """After a claim."""
        self._in_vain = 0 if has_found else self._in_vain + 1
        self._not_before = self._loop.time() + _pause_seconds(self._in_vain)

    def ring(self) -> None:
        if self._loop.time() >= self._not_before:
            self._event.set()
        elif self._late is None:
            self._late = self._loop.call_at(self._not_before, self._ring_late)

    def _ring_late(self) -> None:
        self._late = None
        self._event.set()


def _pause_seconds(in_vain: int) -> float:
    """None after the first: it was this worker itself that was quicker."""
    return min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** min(in_vain - 2, 10)) if in_vain > 1 else 0
