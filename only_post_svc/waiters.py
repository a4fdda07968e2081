"""Long polls: requests that are held until a task ends."""

import asyncio
from collections import defaultdict

from only_post_svc import queue
from only_post_svc.queue import Task
from shared.database import Database

POLL_SECONDS = 1.0  # a hint makes it fast; this makes it right when one is lost
MAX_WAITERS = 5000  # above it nobody is held, only told to come back


class Waiters:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._count = 0
        self._is_stopping = False
        database.subscribe(self._take_hint)

    async def until_final(self, caller: str, task_id: str, seconds: float) -> Task | None:
        """The task once it has ended, or as it is after `seconds`, or when this process stops."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            news: asyncio.Future[None] = loop.create_future()  # made before the look, so that nothing falls between
            self._waiting[task_id].add(news)
            self._count += 1
            try:
                task = await self._database.read(lambda tx: queue.find(tx, caller, task_id))
                left = deadline - loop.time()
                if task is None or task.is_final or left <= 0 or self._is_stopping or self._count > MAX_WAITERS:
                    return task
                await asyncio.wait([news], timeout=min(left, POLL_SECONDS))
            finally:
                self._count -= 1
                self._waiting[task_id].discard(news)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    def stop(self) -> None:
        """Lets everybody go, and holds nobody from now on."""
        self._is_stopping = True
        for task_id in list(self._waiting):
            self._wake(task_id)

    def _take_hint(self, hint: str) -> None:
        kind, _, task_id = hint.partition(" ")
        if kind in ("ended", "cancelled") and task_id in self._waiting:
            self._wake(task_id)

    def _wake(self, task_id: str) -> None:
        for news in self._waiting[task_id]:
            if not news.done():
                news.set_result(None)
