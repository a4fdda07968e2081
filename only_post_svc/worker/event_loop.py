"""The event loop that `async def` runs share, and the asyncio tasks and threads that a run may leave behind in it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

from only_post_svc.worker.records import on_loop

LEFT_SECONDS = 1.0  # that asyncio tasks have to end in, once they were cancelled

T = TypeVar("T")

log = logging.getLogger(__name__)


class Executors(ThreadPoolExecutor):
    """The loop's default executor, in which every run has threads of its own: none can use up another's."""

    def __init__(self) -> None:
        super().__init__(1)
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._calls: defaultdict[str, set[Future[Any]]] = defaultdict(set)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        run_id = on_loop.get()
        if run_id not in self._pools:
            self._pools[run_id] = ThreadPoolExecutor(thread_name_prefix="asyncio")
        call = self._pools[run_id].submit(fn, *args, **kwargs)
        self._calls[run_id].add(call)
        call.add_done_callback(self._calls[run_id].discard)
        return call

    def end(self, run_id: str) -> bool:
        """Whether all of its threads have ended. A busy thread can't be stopped."""
        if pool := self._pools.pop(run_id, None):
            pool.shutdown(wait=False, cancel_futures=True)
        return not self._calls.pop(run_id, None)


class EventLoop:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._executors = Executors()
        self._tasks: defaultdict[str, WeakSet[asyncio.Task[Any]]] = defaultdict(WeakSet)
        self.loop.set_default_executor(self._executors)
        self.loop.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        if run_id := on_loop.get():
            self._tasks[run_id].add(task)
        return task

    async def end(self, run_id: str) -> str:
        """Ends what a run has left behind. The kind of what could not be ended, '' when all was."""
        left = {task for task in self._tasks.pop(run_id, ()) if not task.done()}
        if left:
            names = ", ".join(sorted(task.get_name() for task in left)[:10])
            log.warning("cancelled %d asyncio tasks that the run has left behind: %s", len(left), names)
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=LEFT_SECONDS)
        if left:
            return "asyncio tasks"
        return "" if self._executors.end(run_id) else "threads"

    def forget(self) -> None:
        """For a copy made by fork: the other runs do not go on in it."""
        for handle in getattr(self.loop, "_ready", ()):
            handle.cancel()
        self.loop.stop()
