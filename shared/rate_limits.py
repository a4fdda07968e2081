"""Rate limits within one process: a token bucket for each subject or address."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from shared.errors import TooManyRequests

MAX_BUCKETS = 100_000  # the least recently seen go first: a caller that comes back starts afresh


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


def address(request: Request[Any]) -> str:
    """The client's address as the server saw it through the trusted proxies; an IPv6 one by its /64,
    which is what one customer of a provider has."""
    host = _host(request)
    try:
        return _network(host)
    except ValueError:
        return host


def named_address(request: Request[Any]) -> str:
    """The address that the client itself has named in X-Forwarded-For, left of what trusted proxies have added; its
    own where it has named none. For clients that are believed."""
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
