"""Deletes what a deleted owner has stored, in every service of the database.

A service that deletes an owner adds, in the same transaction, a row of `departure` for each service that has tables in
this database, its own included. Each of them then deletes what it stores for that owner, in small steps; a service that
is not running does so when it starts. So neither knows the other's tables.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from shared.database import Database, Transaction

STEP_SECONDS = 0.02  # of deleting in one transaction: other writes wait no longer
CHUNK = 8  # rows between two looks at the clock: each may have a megabyte
MOST = 500  # rows in one step
AGAIN_MS = 600_000  # between two steps for an owner whose `kept_ms` are not over
SHARED = "shared"  # the schema of all services, which is no service

T = TypeVar("T")
Forget = Callable[[Transaction, str], bool]  # deletes some rows of an owner; True while there were any


def announce(tx: Transaction, owner: str) -> None:
    """Tells the services on this database that the owner was deleted."""
    applied = tx.all("SELECT name FROM migration")
    for service in sorted({name.partition("/")[0] for (name,) in applied} - {SHARED}):
        tx.put(INSERT, owner=owner, service=service, now=tx.now)


INSERT = """
INSERT INTO departure (owner, service, at, looked_at) VALUES (:owner, :service, :now, 0)
ON CONFLICT (owner, service) DO NOTHING
"""

NEXT = """
SELECT owner, at FROM departure WHERE service = :service AND looked_at <= :before
ORDER BY looked_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""

DONE = "DELETE FROM departure WHERE owner = :owner AND service = :service"

LOOKED = "UPDATE departure SET looked_at = :now WHERE owner = :owner AND service = :service"


def sweep(tx: Transaction, service: str, forget: Forget, kept_ms: int = 0) -> bool:
    """One step for one deleted owner; False when no owner needs one. Steps are repeated for `kept_ms`: a service that
    checks signatures alone accepts the owner's tokens, and stores what they send, until they expire."""
    row = tx.one(NEXT, service=service, before=tx.now - AGAIN_MS)
    if row is None:
        return False
    owner, at = row
    if forget(tx, owner):
        return True
    if tx.now < at + kept_ms:
        tx.put(LOOKED, owner=owner, service=service, now=tx.now)
    else:
        tx.put(DONE, owner=owner, service=service)
    return True


async def sweep_all(database: Database, service: str, forget: Forget, kept_ms: int = 0) -> None:
    """One small step after another, until no owner needs one."""
    while await database.write(lambda tx: sweep(tx, service, forget, kept_ms), is_long=True):
        await asyncio.sleep(0)


def in_time(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Chunks of the rows, at least one, until STEP_SECONDS are over."""
    until = time.monotonic() + STEP_SECONDS
    for start in range(0, len(rows), CHUNK):
        if start and time.monotonic() > until:
            return
        yield rows[start : start + CHUNK]
