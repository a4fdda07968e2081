"""Long polls: requests that are held until a task ends."""

import asyncio
from collections import defaultdict
from functools import partial

from only_post_svc import queue
from only_post_svc.queue import Task
from shared.database import Database
from shared.errors import Unavailable

POLL_SECONDS = 1.0  # a hint makes it fast; this makes it right when one is lost
MAX_WAITERS = 5000  # above it nobody is held, only told to come back


class Waiters:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._count = 0
        self._polling: asyncio.Task[None] | None = None
        self._is_stopping = False
        database.subscribe(self._take_hint)

    async def until_final(self, caller: str, task_id: str, seconds: float) -> Task | None:
        """The task once it has ended, or as it is after `seconds`, or when this process stops."""
        if not seconds:  # nobody to be told of anything
            return await self._find(caller, task_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            news: asyncio.Future[None] = loop.create_future()  # made before the look, so that nothing falls between
            self._waiting[task_id].add(news)
            self._count += 1
            try:
                task = await self._find(caller, task_id)
                left = deadline - loop.time()
                if task is None or task.is_final or left <= 0 or self._is_stopping or self._count > MAX_WAITERS:
                    return task
                self._start_polling()
                await asyncio.wait([news], timeout=left)
            finally:
                self._count -= 1
                self._waiting[task_id].discard(news)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    async def _find(self, caller: str, task_id: str) -> Task | None:
        return await self._database.read(lambda tx: queue.find(tx, caller, task_id))

    def stop(self) -> None:
        """Lets everybody go, and holds nobody from now on."""
        self._is_stopping = True
        self._wake(list(self._waiting))

    def _take_hint(self, hint: str) -> None:
        kind, _, task_id = hint.partition(" ")
        if kind in ("ended", "cancelled"):
            self._wake([task_id])

    def _wake(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            for news in self._waiting.get(task_id, ()):
                if not news.done():
                    news.set_result(None)

    def _start_polling(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        """One look for all that wait, for as long as anybody does."""
        await asyncio.sleep(POLL_SECONDS)
        while task_ids := list(self._waiting):
            try:
                self._wake(await self._database.query(partial(queue.ended, task_ids=task_ids)))
            except Unavailable:
                self._wake(task_ids)  # each will find out for itself, and say so
            await asyncio.sleep(POLL_SECONDS)
