"""What a worker has to say of itself, and goes on having to say until it is written."""

import asyncio

from only_post_svc.main import SCHEMA
from only_post_svc.metrics import TaskCounts
from only_post_svc.worker.heartbeat import Heartbeat
from shared.database import Database, connection
from shared.loops import Loops


def test_a_claim_that_could_not_be_told_is_told_with_the_next_beat() -> None:
    async def work() -> int | None:
        database = await connection.connect("sqlite:///:memory:", {"only_post": SCHEMA})
        await database.write(lambda tx: tx.run("ALTER TABLE worker RENAME TO elsewhere"))
        failed = asyncio.Event()
        loops = Loops(failed.set)
        heartbeat = Heartbeat(database, "w", 1, TaskCounts(), lambda: 0)
        heartbeat.note_claims(1)
        heartbeat.start(loops, lease_seconds=0.3)
        await failed.wait()
        await database.write(lambda tx: tx.run("ALTER TABLE elsewhere RENAME TO worker"))
        claimed_at = await _first(database)
        loops.stop()
        await database.close()
        return claimed_at

    assert asyncio.run(work()) is not None


async def _first(database: Database) -> int | None:
    """When the worker has claimed, as its first beat has it."""
    async with asyncio.timeout(20):
        while not (row := await database.read(lambda tx: tx.one("SELECT claimed_at FROM worker"))):
            await asyncio.sleep(0.02)
    return row[0]  # type: ignore[no-any-return]
