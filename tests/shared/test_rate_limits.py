"""A token bucket for each subject."""

from typing import Any

import pytest
from starlette.requests import Request

from shared.addresses import address
from shared.errors import TooManyRequests
from shared.rate_limits import MAX_BUCKETS, AtOnce, RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(count: int, seconds: float) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit(count, seconds, clock), clock


def retry_after(limit: RateLimit, who: str = "a") -> int | None:
    """None when the request is admitted."""
    try:
        limit.take(who)
    except TooManyRequests as error:
        assert (error.status, error.code) == (429, "rate_limited")
        return int(error.headers["Retry-After"])
    return None


def test_as_many_as_the_limit_are_admitted_at_once_and_no_more() -> None:
    limit, _ = make(3, 60)
    assert [retry_after(limit) for _ in range(5)] == [None, None, None, 20, 20]


def test_retry_after_is_when_the_next_is_admitted() -> None:
    limit, clock = make(3, 48)
    for _ in range(3):
        limit.take("a")
    clock.now += 15
    assert retry_after(limit) == 1
    clock.now += 1
    assert retry_after(limit) is None


def test_retry_after_is_never_zero() -> None:
    limit, clock = make(100, 1)
    for _ in range(100):
        limit.take("a")
    clock.now += 0.0099
    assert retry_after(limit) == 1


def test_the_bucket_never_holds_more_than_the_limit() -> None:
    limit, clock = make(2, 60)
    limit.take("a")
    clock.now += 10**6
    assert [retry_after(limit) for _ in range(3)] == [None, None, 30]


def test_a_refused_request_costs_nothing() -> None:
    limit, clock = make(1, 10)
    limit.take("a")
    for _ in range(100):
        retry_after(limit)
    clock.now += 10
    assert retry_after(limit) is None


def test_each_subject_has_a_bucket_of_its_own() -> None:
    limit, _ = make(1, 60)
    limit.take("a")
    assert retry_after(limit, "b") is None
    assert retry_after(limit, "a") == 60


def test_a_flood_of_subjects_forgets_the_least_recently_seen() -> None:
    limit, _ = make(1, 60)
    limit.take("first")
    for number in range(MAX_BUCKETS - 1):
        limit.take(str(number))
    assert retry_after(limit, "first") == 60
    limit.take("one more")
    assert retry_after(limit, "first") is None


def test_each_subject_has_so_many_places_at_once_and_has_them_back() -> None:
    at_once = AtOnce(2)
    for _ in range(2):
        with at_once.place("a"), at_once.place("b"):
            with at_once.place("a"):
                with pytest.raises(TooManyRequests), at_once.place("a"):
                    pass
                with at_once.place("b"):
                    pass
            with at_once.place("a"):
                pass


ADDRESSES = [
    ("192.0.2.1", "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
    ("2001:db8:1:3::", "2001:db8:1:3::/64"),
    ("testclient", "testclient"),
    ("", ""),
]


@pytest.mark.parametrize(("host", "counted_as"), ADDRESSES)
def test_an_ipv6_address_is_counted_by_its_64(host: str, counted_as: str) -> None:
    scope: dict[str, Any] = {"type": "http", "client": (host, 1), "headers": []}
    assert address(Request(scope)) == counted_as


def test_a_request_without_an_address_is_counted_too() -> None:
    assert address(Request({"type": "http", "client": None, "headers": []})) == ""
