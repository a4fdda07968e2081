"""How many tasks wait, without counting them for every one that is submitted."""

import time
from collections.abc import Callable

from only_post_svc import queue
from shared.database import Transaction
from shared.errors import Unavailable

RECOUNT_SECONDS = 1.0
COUNTING_SHARE = 20  # a full queue is counted again once this many times the last count's cost has gone by


class Backlog:
    """Admits tasks up to a limit: exactly where one process submits, and else within what the others
    add in a second. Used inside the transactions that submit."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._count = 0
        self._counted_at = -RECOUNT_SECONDS
        self._cost_seconds = 0.0

    def admit(self, tx: Transaction, number: int) -> None:
        """Raises 503 `queue_full` when `number` more would be too many."""
        age = self._clock() - self._counted_at
        is_full = self._count + number > self._limit
        if age >= RECOUNT_SECONDS or (is_full and age >= COUNTING_SHARE * self._cost_seconds):
            self._recount(tx)
        if self._count + number > self._limit:
            raise Unavailable("queue_full", f"{self._count} tasks are waiting; the limit is {self._limit}", 5)
        self._count += number

    def _recount(self, tx: Transaction) -> None:
        started = self._clock()
        self._count = queue.count_waiting(tx)
        self._counted_at = self._clock()
        self._cost_seconds = self._counted_at - started
