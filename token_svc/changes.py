"""Requests that are held until an account's items change."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

from shared.database import Database

CHANGED = "changed"  # the topic of the hints that name an owner whose items have changed
POLL_SECONDS = 5.0  # for hints that are lost
MAX_WAITING = 5000  # requests; above it they are answered at once


class Watchers:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._count = 0
        self._is_stopping = False
        database.subscribe(CHANGED, self._wake)

    def publish(self, owner: str) -> None:
        """Tells all processes that items of the owner have changed."""
        self._database.publish(f"{CHANGED} {owner}")

    @contextlib.contextmanager
    def watching(self, owner: str) -> Iterator[asyncio.Event]:
        """The event is set when items of the owner may have changed: watch first, then look."""
        news = asyncio.Event()
        self._waiting[owner].add(news)
        self._count += 1
        try:
            yield news
        finally:
            self._count -= 1
            self._waiting[owner].discard(news)
            if not self._waiting[owner]:
                del self._waiting[owner]

    async def wait(self, news: asyncio.Event, seconds: float) -> bool:
        """Waits for the event, at most so long. False when the request must not wait (any longer)."""
        if self._is_stopping or self._count > MAX_WAITING:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, POLL_SECONDS)):
                await news.wait()
        return not self._is_stopping

    def stop(self) -> None:
        self._is_stopping = True
        for waiting in self._waiting.values():
            for news in waiting:
                news.set()

    def _wake(self, owner: str) -> None:
        for news in self._waiting.get(owner, ()):
            news.set()
