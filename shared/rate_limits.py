"""Rate limits within one process: a token bucket for each subject or address."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.addresses import address
from shared.errors import Problem, TooManyRequests

COUNTED = "is_counted"  # in the scope of a request
MAX_BUCKETS = 100_000  # above it the least recently used is dropped, and its caller has the whole limit again


class RateLimit:
    """`count` requests in `seconds`, refilled steadily (a token bucket of that size)."""

    def __init__(self, count: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._seconds_each = seconds / count
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when that was

    def take(self, who: str) -> None:
        """Raises 429 with Retry-After when `who` has none left."""
        now = self._clock()
        left, then = self._buckets.get(who, (float(self._count), now))
        left = min(float(self._count), left + (now - then) / self._seconds_each)
        if left < 1:
            raise TooManyRequests((1 - left) * self._seconds_each)
        self._buckets[who] = (left - 1, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)


class AtOnce:
    """At most `most` of something at once for each subject."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, who: str) -> Iterator[None]:
        """Raises 429 where there is none left."""
        if self._taken[who] >= self._most:
            raise TooManyRequests(1)
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


class CountAll:
    """Middleware: a request that its handler has not counted for a caller counts for its address, refused or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request[Any](scope)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                _count_once(request)
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Problem:
            _count_once(request)
            raise


def count(request: Request[Any], subject: str = "") -> None:
    """Counts a request against the limit of a subject, or of its address where none is named. Raises 429."""
    request.scope[COUNTED] = True
    if limit := request.state["rate_limit"]:
        limit.take(subject or address(request))


def _count_once(request: Request[Any]) -> None:
    if COUNTED not in request.scope:
        count(request)
