"""Whether the database takes what is stored in it, and a report that many may ask for at the price of one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from shared.database import Database, Transaction

FRESH_SECONDS = 0.5  # /health is open to all: asked more often, it gives the answer that it gave

# A full disk still lets transactions begin, read and end; only a row that is stored tells.
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
    """What a report says of a database that stores and answers. Raises Unavailable."""
    started = time.monotonic()
    await database.write(store)
    await database.query(lambda tx: tx.now)
    return {"status": "ok", "milliseconds": round((time.monotonic() - started) * 1000, 1)}


class Health:
    """Gives what `look` has found, not older than FRESH_SECONDS."""

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
