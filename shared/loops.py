"""Steps that a process repeats in the background."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from shared.errors import Unavailable

AGAIN_SECONDS = 1.0  # after the database did not answer

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


class Loops:
    """Repeats each step in a task of its own; one that raises is logged and repeated."""

    def __init__(self, database_failed: Callable[[], None]) -> None:
        self._database_failed = database_failed
        self._loops: list[asyncio.Task[None]] = []

    def start(self, step: Step, *, every: float | None = None, at: asyncio.Event | None = None) -> None:
        """Runs the step now, then `every` so many seconds and whenever the event `at` is set."""
        self._loops.append(asyncio.create_task(self._repeat(step, every, at or asyncio.Event())))

    def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()

    async def _repeat(self, step: Step, seconds: float | None, event: asyncio.Event) -> None:
        while True:
            event.clear()
            went_well = await self._try(step)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds if went_well else AGAIN_SECONDS):
                    await event.wait()

    async def _try(self, step: Step) -> bool:
        try:
            await step()
            return True
        except Unavailable as error:
            if error.code == "database_unavailable":
                self._database_failed()
            log.warning("loop.database_unavailable", extra={"reason": error.detail})
        except Exception:
            log.exception("loop.step_failed", extra={"step": getattr(step, "__name__", "")})
        return False
