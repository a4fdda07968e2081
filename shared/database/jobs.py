"""Units of work for an engine's threads, and their outcomes for those who wait."""

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from shared.database import Unit
from shared.errors import Problem

T = TypeVar("T")

ENOUGH = 8  # units for a group: it waits for no more, and begins beside another that is under way
QUIET_TURNS = 2  # of the event loop, that pass between the arrival of a request and that of its unit
MAX_TURNS = 10


class Job(NamedTuple):
    unit: Unit[Any]
    future: asyncio.Future[Any]
    is_long: bool = False
    is_last: bool = False


class Outcome(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None = None


class Ended(NamedTuple):
    """What became of the units of a transaction, and the hints that go out with its commit."""

    outcomes: Sequence[Outcome]
    hints: Iterable[str] = ()


def failed(error: Exception, jobs: Iterable[Job]) -> Ended:
    """All of them, by the same error."""
    return Ended([Outcome(job.future, None, error) for job in jobs])


class Publishing:
    """The hints of a transaction, each once."""

    def __init__(self) -> None:
        self.hints: dict[str, None] = {}  # in order

    def publish(self, hint: str) -> None:
        self.hints[hint] = None

    def republish(self, hint: str, instead: str) -> None:
        if hint in self.hints:
            del self.hints[hint]
            self.hints[instead] = None


def unpublished(hint: str) -> None:
    """Units that only read have no hints."""


def resolve(ended: Ended, publish: Callable[[str], None] = unpublished) -> None:
    """Called in the loop of the futures. A Problem is known by its code: it is passed on without its traceback, whose
    frames hold the jobs, and so the Problem itself, until the garbage collector comes."""
    for future, value, error in ended.outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        elif isinstance(error, Problem):
            future.set_exception(error.with_traceback(None))
        else:
            future.set_exception(error)
    for hint in ended.hints:
        publish(hint)


class Waiting:
    """Jobs that wait for a transaction, in turn, and behind them those that are to be last."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._last: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs) + len(self._last)

    def add(self, job: Job) -> None:
        (self._last if job.is_last else self._jobs).append(job)

    def next_long(self) -> Job | None:
        """The next one, where it is long."""
        return self._jobs.popleft() if self._jobs and self._jobs[0].is_long else None

    @property
    def has_group(self) -> bool:
        return bool(self._last) or bool(self._jobs and not self._jobs[0].is_long)

    def next_group(self, may_go_on: Callable[[], bool]) -> Iterator[Job]:
        """Jobs up to the next long one: one, and others as long as they `may_go_on`. Then all that are to be last: they
        never wait for another group, or under load they would for ever."""
        while self._jobs and not self._jobs[0].is_long:
            yield self._jobs.popleft()
            if not may_go_on():
                break
        while self._last:
            yield self._last.popleft()


class Gathering:
    """When a group begins: not with the first unit, while others come in that were asked for at the same moment. They
    would be a second group, at the price of the first."""

    def __init__(self) -> None:
        self._count = self._turns = self._quiet_turns = 0

    def is_over(self, count: int) -> bool:
        """Whether the units that wait now are to begin. Asked once in each turn of the event loop."""
        self._turns += 1
        self._quiet_turns = self._quiet_turns + 1 if count == self._count else 0
        self._count = count
        if count < ENOUGH and self._quiet_turns < QUIET_TURNS and self._turns < MAX_TURNS:
            return False
        self._count = self._turns = self._quiet_turns = 0
        return True


class Helper:
    """A daemon thread for calls that block, one after another: it holds up neither the event loop nor the exit."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def do(self, work: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._orders.put((work, future))
        return await future

    def stop(self) -> None:
        self._orders.put(None)

    def _serve(self) -> None:
        while order := self._orders.get():
            work, future = order
            try:
                outcome = Outcome(future, work())
            except BaseException as error:
                outcome = Outcome(future, None, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(resolve, Ended([outcome]))
