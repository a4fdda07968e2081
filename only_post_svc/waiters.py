"""Long polls: requests that are held until a task ends."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from only_post_svc import hints, queue
from only_post_svc.queue import TaskRow
from shared.database import Database
from shared.errors import Unavailable

POLL_SECONDS = 1.0  # a hint makes it fast; this makes it right when one is lost
MAX_WAITERS = 5000  # requests; above it they are answered at once
MAX_TOGETHER = 20  # tasks that are read at once, with their results


class Waiters:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Future[TaskRow | None]]] = defaultdict(set)  # by task
        self._count = 0
        self._ended: list[str] = []  # ids of tasks, as hints have them, that are still to be looked up
        self._telling: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None
        self._is_stopping = False
        database.subscribe(self._take_hint)

    async def until_final(self, caller: str, task_id: str, seconds: float, *, is_new: bool = False) -> TaskRow | None:
        """The task once it has ended, or as it is after `seconds`, or when this process stops. One that `is_new` has
        just been stored, and is not looked at before there is news of it."""
        if not seconds:  # the request does not wait
            return await self._find(caller, task_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        news: asyncio.Future[TaskRow | None] = loop.create_future()
        self._waiting[task_id].add(news)  # before the look, so that no hint between the two is missed
        self._count += 1
        late = loop.call_at(deadline, _let_go, [news])
        try:
            may_wait = not self._is_stopping and self._count <= MAX_WAITERS
            if not (is_new and may_wait):
                task = await self._find(caller, task_id)
                if task is None or task.is_final or not may_wait:
                    return task
            self._start_polling()
            ended = await news
        finally:
            late.cancel()
            self._count -= 1
            self._waiting[task_id].discard(news)
            if not self._waiting[task_id]:
                del self._waiting[task_id]
        return ended or await self._find(caller, task_id)

    async def _find(self, caller: str, task_id: str) -> TaskRow | None:
        return await self._database.read(lambda tx: queue.find(tx, caller, task_id))

    def stop(self) -> None:
        """Answers all that wait, and holds no more requests from now on."""
        self._is_stopping = True
        for waiting in self._waiting.values():
            _let_go(waiting)

    def _take_hint(self, hint: str) -> None:
        kind, task_id = hints.parse(hint)
        if kind in ("ended", "cancelled") and task_id in self._waiting:
            self._ended.append(task_id)
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_ended())

    async def _tell_ended(self) -> None:
        while self._ended:
            task_ids, self._ended = self._ended, []
            await self._tell(task_ids)

    async def _tell(self, task_ids: list[str]) -> None:
        """Gives those of the tasks that have ended to the requests that wait for them."""
        for start in range(0, len(task_ids), MAX_TOGETHER):
            some = task_ids[start : start + MAX_TOGETHER]
            try:
                ended = await self._database.read(partial(queue.find_ended, task_ids=some))
            except Unavailable:
                for task_id in some:
                    _let_go(self._waiting.get(task_id, ()))  # each request looks for itself, and answers 503
            else:
                for task in ended:
                    _let_go(self._waiting.get(task.id, ()), task)

    def _start_polling(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        """One look for all that wait, repeated while there are any."""
        await asyncio.sleep(POLL_SECONDS)
        while task_ids := list(self._waiting):
            try:
                await self._tell(await self._database.query(partial(queue.ended, task_ids=task_ids)))
            except Unavailable:
                for waiting in self._waiting.values():
                    _let_go(waiting)
            await asyncio.sleep(POLL_SECONDS)


def _let_go(waiting: Iterable[asyncio.Future[TaskRow | None]], task: TaskRow | None = None) -> None:
    for news in waiting:
        if not news.done():
            news.set_result(task)
