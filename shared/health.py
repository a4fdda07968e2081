"""Health: a probe that stores a row, and one report for all requests of half a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from shared.database import Database, Transaction

FRESH_SECONDS = 0.5  # /health needs no token: asked more often, it repeats its answer

# On a full disk transactions still begin, read and end: only storing a row shows it.
STORE = """
INSERT INTO probe (name, stored_at) VALUES ('health', :now)
ON CONFLICT (name) DO UPDATE SET stored_at = excluded.stored_at
"""


class Report(NamedTuple):
    """Whether all is well, and the answer's body."""

    is_ok: bool
    body: dict[str, Any]


def store(tx: Transaction) -> None:
    tx.put(STORE, now=tx.now)


async def probe(database: Database) -> dict[str, Any]:
    """The database's part of a report. Raises Unavailable."""
    started = time.monotonic()
    await database.write(store)
    await database.query(lambda tx: tx.now)
    return {"status": "ok", "milliseconds": round((time.monotonic() - started) * 1000, 1)}


class Health:
    """The report of `look`, at most FRESH_SECONDS old."""

    def __init__(self, look: Callable[[], Awaitable[Report]]) -> None:
        self._look = look
        self._turn = asyncio.Lock()
        self._report = Report(False, {})
        self._looked_at = -FRESH_SECONDS

    async def report(self) -> Report:
        async with self._turn:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                self._report = await self._look()
                self._looked_at = time.monotonic()
            return self._report
