"""Times: milliseconds since 1970 inside, RFC 3339 in UTC outside."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)


@lru_cache(maxsize=4096)  # a page of a list has a hundred, and pages are fetched again
def to_text(milliseconds: int) -> str:
    """`2026-11-22T08:30:00.123Z`"""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def from_text(text: str) -> int:
    """Raises ValueError for anything but an RFC 3339 time with its offset, OverflowError for one whose
    year is not from 1 to 9999 in UTC."""
    if not RFC3339.fullmatch(text):
        raise ValueError("not an RFC 3339 time such as 2026-11-22T08:30:00Z")
    moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    return (moment - EPOCH) // timedelta(milliseconds=1)
