"""The server's clock: what a process knows of it, so that no transaction has to wait for it first."""

import time

import psycopg

KNOWN_SECONDS = 1.0  # for which this process's own clock is as good
DOUBT_SECONDS = 1.0  # after a mistake, in which every transaction asks
MAX_WRONG_MS = 250

# The clock goes on within a transaction, so it is read once.
CLOCK = "SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint"

# Fails, and the transaction with it, where this process is wrong about the time.
CHECKED_CLOCK = f"""
SELECT clock, 1 / (abs(clock - :supposed) <= {MAX_WRONG_MS})::int {{more}} FROM ({CLOCK} AS clock) AS here
"""


class WrongClock(psycopg.OperationalError):
    """The server's clock was set, or this process was suspended. Nothing was committed; another try asks."""


class Clock:
    def __init__(self) -> None:
        self._ahead_ms = 0.0  # of this process's own
        self._known_until = 0.0
        self._doubted_until = 0.0
        self._latest = 0

    def supposed(self) -> int | None:
        """In milliseconds since 1970; None when it has to be asked for."""
        own = time.monotonic()
        if own >= self._known_until:
            return None
        self._latest = max(self._latest, int(own * 1000 + self._ahead_ms))
        return self._latest

    def heard(self, now: int, own: float) -> None:
        """What the server said, and the time at which it was there. What comes late makes it seem slow, so the fastest
        answer counts."""
        ahead_ms = now - own * 1000
        if own >= self._doubted_until and (own >= self._known_until or ahead_ms >= self._ahead_ms):
            self._ahead_ms, self._known_until = ahead_ms, own + KNOWN_SECONDS

    def doubt(self) -> None:
        self._known_until, self._latest = 0.0, 0
        self._doubted_until = time.monotonic() + DOUBT_SECONDS
