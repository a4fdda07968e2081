"""Claims beside a long history."""

import asyncio
import secrets
import time
from functools import partial

from only_post_svc import queue, shares
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Claim, Ending, NewTask
from only_post_svc.shares import Kind, Lane
from shared.database import Database, Transaction, connection
from tests.bench.lab import Lab, Measured
from tests.bench.table import Row

TASK = NewTask(type="echo", payload='{"n":1}', timeout_ms=30_000, max_attempts=3)
GROUP = 500  # tasks that are made in one transaction


def claims(lab: Lab) -> Measured:
    with asyncio.Runner() as runner:
        full, empty = (runner.run(connected(lab, name)) for name in ("full", "empty"))
        for _ in range(0, lab.options.finished, GROUP):
            runner.run(full.write(lambda tx: _finish(tx, _submitted(tx)), seconds=None))
        runner.run(full.vacuum("task"))  # as workers do every ten seconds
        measured = lab.beside(
            lambda: runner.run(_claims_a_second(empty, lab.options.seconds)),
            lambda: runner.run(_claims_a_second(full, lab.options.seconds)),
        )
        for database in (full, empty):
            runner.run(database.close())
    return measured


async def connected(lab: Lab, name: str) -> Database:
    return await connection.connect(lab.databases.url(name), {"only_post": SCHEMA})


def _submitted(tx: Transaction) -> list[Claim]:
    for _ in range(GROUP):
        queue.submit(tx, "", TASK)
    return claimed(tx, GROUP)


def claimed(tx: Transaction, most: int) -> list[Claim]:
    lanes, kinds = [Lane(False, shares.ALL, most)], {TASK.type: Kind()}
    return shares.claim(tx, secrets.token_hex(8), lanes, kinds, shares.up_to(most), 3600).claims


def _finish(tx: Transaction, runs: list[Claim]) -> None:
    for run in runs:
        queue.finish(tx, run, Ending(result=run.payload))


async def _claims_a_second(database: Database, seconds: float) -> float:
    """Of claims as a worker makes them, one commit for up to 32; what else is written is not timed."""
    count, taken = 0, 0.0
    while taken < seconds / 2:
        await database.write(lambda tx: [queue.submit(tx, "", TASK) for _ in range(GROUP)], seconds=None)
        runs: list[Claim] = []
        started = time.monotonic()
        while some := await database.write(lambda tx: claimed(tx, 32), seconds=None):
            runs += some
        taken += time.monotonic() - started
        count += len(runs)
        await database.write(partial(_finish, runs=runs), seconds=None)
    return count / taken


ROWS = [Row("claims", "claims beside finished tasks (limit: without)", "0.9", claims)]
