"""When a worker that hears of a task claims it."""

import asyncio

PAUSE_SECONDS = 0.01


class Bell:
    """Sets `event`: at once, or within PAUSE_SECONDS after two claims in vain. All workers hear of a task at the same
    moment, and one gets it: where others are quicker, fewer claims in vain are better than many. One is no sign of
    that, as this worker's own last claim may have taken what it heard of."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._loop = asyncio.get_running_loop()
        self._in_vain = 0  # claims in a row
        self._not_before = 0.0
        self._late: asyncio.TimerHandle | None = None

    def note(self, *, was_in_vain: bool) -> None:
        """After a claim."""
        self._in_vain = self._in_vain + 1 if was_in_vain else 0
        self._not_before = self._loop.time() + (PAUSE_SECONDS if self._in_vain > 1 else 0)

    def ring(self) -> None:
        if self._loop.time() >= self._not_before:
            self._event.set()
        elif self._late is None:
            self._late = self._loop.call_at(self._not_before, self._ring_late)

    def _ring_late(self) -> None:
        self._late = None
        self._event.set()
