"""Long polls: requests that are held until a task ends."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from functools import partial

from only_post_svc import hints, lookup
from only_post_svc.lookup import TaskRow
from shared.database import Database
from shared.errors import Unavailable

POLL_SECONDS = 1.0  # a hint makes it fast; this makes it right when one is lost
MAX_WAITERS = 5000  # requests; above it they are answered at once
MAX_TOGETHER = 20  # tasks that are read at once, with their results
MAX_NEW = 5000  # tasks
NEW_SECONDS = 0.2  # a client that submits a task and waits for it asks sooner


class Waiters:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Future[TaskRow | None]]] = defaultdict(set)  # by task
        self._count = 0
        self._new: OrderedDict[str, tuple[str, float]] = OrderedDict()  # the caller of a task, and until when it is new
        self._ended: list[str] = []  # ids of tasks, as hints have them, that are still to be looked up
        self._telling: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        for topic in (hints.ENDED, hints.CANCELLED):
            self._database.subscribe(topic, self._take_ended)

    def note_new(self, caller: str, task_id: str) -> None:
        """A task is about to be stored here. For NEW_SECONDS it is not looked at before there is news of it. Called by
        the unit that stores it, since any later the news might come first; where the unit leaves nothing behind, no
        client knows the id."""
        self._new[task_id] = caller, self._loop.time() + NEW_SECONDS
        if len(self._new) > MAX_NEW:
            self._new.popitem(last=False)

    def _is_new(self, caller: str, task_id: str) -> bool:
        whose, until = self._new.get(task_id, ("", 0.0))
        return whose == caller and self._loop.time() < until

    async def until_final(self, caller: str, task_id: str, seconds: float) -> TaskRow | None:
        """The task once it has ended, or as it is after `seconds`, or when this process stops."""
        if not seconds:  # the request does not wait
            return await self._find(caller, task_id)
        news: asyncio.Future[TaskRow | None] = self._loop.create_future()
        self._waiting[task_id].add(news)  # before the look, so that no hint between the two is missed
        self._count += 1
        late = self._loop.call_later(seconds, _let_go, [news])
        try:
            may_wait = not self._is_stopping and self._count <= MAX_WAITERS
            if not (may_wait and self._is_new(caller, task_id)):
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
        return await self._database.read(lambda tx: lookup.find(tx, caller, task_id))

    def stop(self) -> None:
        """Answers all that wait, and holds no more requests from now on."""
        self._is_stopping = True
        for waiting in self._waiting.values():
            _let_go(waiting)

    def awaited(self, task_ids: Iterable[str]) -> list[str]:
        """Those of them that requests wait for here; MAX_TOGETHER at most."""
        return [task_id for task_id in task_ids if task_id in self._waiting][:MAX_TOGETHER]

    def tell(self, ended: Iterable[TaskRow]) -> None:
        """Gives tasks that have ended to the requests that wait for them."""
        for task in ended:
            _let_go(self._waiting.get(task.id, ()), task)

    def _take_ended(self, task_id: str) -> None:
        self._new.pop(task_id, None)
        if not all(news.done() for news in self._waiting.get(task_id, ())):
            self._ended.append(task_id)
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_ended())

    async def _tell_ended(self) -> None:
        while self._ended:
            task_ids, self._ended = self._ended, []
            await self._look_at(task_ids)

    async def _look_at(self, task_ids: list[str]) -> None:
        """Tells of those of the tasks that have ended."""
        for start in range(0, len(task_ids), MAX_TOGETHER):
            some = task_ids[start : start + MAX_TOGETHER]
            try:
                ended = await self._database.read(partial(lookup.find_ended, task_ids=some))
            except Unavailable:
                for task_id in some:
                    _let_go(self._waiting.get(task_id, ()))  # each request looks for itself, and answers 503
            else:
                self.tell(ended)

    def _start_polling(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        """One look for all that wait, repeated while there are any."""
        await asyncio.sleep(POLL_SECONDS)
        while task_ids := list(self._waiting):
            try:
                await self._look_at(await self._database.query(partial(lookup.ended, task_ids=task_ids)))
            except Unavailable:
                for waiting in self._waiting.values():
                    _let_go(waiting)
            await asyncio.sleep(POLL_SECONDS)


def _let_go(waiting: Iterable[asyncio.Future[TaskRow | None]], task: TaskRow | None = None) -> None:
    for news in waiting:
        if not news.done():
            news.set_result(task)
