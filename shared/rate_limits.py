"""Rate limits within one process: a token bucket for each subject or address."""

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Problem, TooManyRequests

COUNTED = "is_counted"  # in the scope of a request
MAX_BUCKETS = 100_000  # beyond it the least recently used is dropped: its caller finds a full one


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
            self._taken += Counter()  # drops those at zero


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


def address(request: Request[Any]) -> str:
    """The client's address as the server saw it through the trusted proxies; an IPv6 one by its /64,
    which is what one customer of a provider has."""
    host = _host(request)
    try:
        return _network(host)
    except ValueError:
        return host


def named_address(request: Request[Any]) -> str:
    """The address that the client itself has written into X-Forwarded-For, before those that trusted proxies added; its
    own where there is none. For clients whose word is trusted."""
    named = [part.strip() for line in request.headers.getlist("x-forwarded-for") for part in line.split(",")]
    own = _host(request)
    if own in named:
        named = named[: len(named) - 1 - named[::-1].index(own)]
    try:
        return _network(named[-1])
    except (ValueError, IndexError):
        return address(request)


def _host(request: Request[Any]) -> str:
    return request.client.host if request.client else ""


def _network(host: str) -> str:
    parsed = ipaddress.ip_address(host)
    if parsed.version == 6 and parsed.ipv4_mapped:  # an IPv4 client of a socket that listens on ::
        return str(parsed.ipv4_mapped)
    return host if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


WIDER = {4: (24, 16), 6: (56, 48)}  # what one site or one customer may have, at most


def wider_networks(address: str) -> list[str]:
    """The networks around what `address` gives, the narrower first; none around what is no address."""
    try:
        network = ipaddress.ip_network(address)
    except ValueError:
        return []
    return [str(network.supernet(new_prefix=bits)) for bits in WIDER[network.version] if bits < network.prefixlen]
