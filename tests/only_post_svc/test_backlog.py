"""How many tasks may wait."""

from typing import Any

import pytest

from only_post_svc.backlog import COUNTING_SHARE, RECOUNT_SECONDS, Backlog
from shared.database import Row
from shared.errors import Unavailable


class Queue:
    """A database in which so many tasks wait; counting them takes its time."""

    def __init__(self, waiting: int = 0) -> None:
        self.now = 0
        self.waiting = waiting
        self.counted = 0
        self.clock = 0.0
        self.cost_seconds = 0.01

    def all(self, sql: str, **values: Any) -> list[Row]:
        raise NotImplementedError

    def one(self, sql: str, **values: Any) -> Row | None:
        self.counted += 1
        self.clock += self.cost_seconds
        return (self.waiting,)

    def each(self, outer: str, inner: str, **values: Any) -> list[Row]:
        raise NotImplementedError

    def run(self, sql: str, **values: Any) -> int:
        raise NotImplementedError

    def put(self, sql: str, **values: Any) -> None:
        raise NotImplementedError

    def lock(self, name: str) -> None:
        raise NotImplementedError


def backlog(queue: Queue, limit: int) -> Backlog:
    return Backlog(limit, lambda: queue.clock)


def test_the_limit_itself_is_admitted_and_no_task_more() -> None:
    queue = Queue(waiting=7)
    full = backlog(queue, 10)
    full.admit(queue, 2)
    full.admit(queue, 1)
    with pytest.raises(Unavailable) as caught:
        full.admit(queue, 1)
    assert caught.value.code == "queue_full"
    assert int(caught.value.headers["Retry-After"]) >= 1


def test_what_would_be_too_many_at_once_is_refused_and_not_counted() -> None:
    queue = Queue()
    small = backlog(queue, 10)
    with pytest.raises(Unavailable):
        small.admit(queue, 11)
    small.admit(queue, 10)


def test_it_does_not_count_for_every_task() -> None:
    queue = Queue()
    large = backlog(queue, 1000)
    for _ in range(100):
        large.admit(queue, 1)
    assert queue.counted == 1


def test_it_counts_again_after_a_while() -> None:
    queue = Queue()
    shared = backlog(queue, 10)
    shared.admit(queue, 1)
    queue.waiting = 10  # other processes submit too
    queue.clock += RECOUNT_SECONDS
    with pytest.raises(Unavailable):
        shared.admit(queue, 1)


def test_a_full_queue_opens_as_soon_as_it_pays_to_look() -> None:
    queue = Queue(waiting=10)
    full = backlog(queue, 10)
    with pytest.raises(Unavailable):
        full.admit(queue, 1)
    queue.waiting = 0
    with pytest.raises(Unavailable):
        full.admit(queue, 1)  # not looked again yet
    assert queue.counted == 1
    queue.clock += COUNTING_SHARE * queue.cost_seconds
    full.admit(queue, 1)
    assert queue.counted == 2
