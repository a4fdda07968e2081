"""A queue on many processes, and one that runs for long."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from only_post_svc import queue
from only_post_svc.queue import Ending
from shared.database import Database, Transaction
from tests.bench.claims import TASK, claimed, connected
from tests.bench.lab import Lab, Measured
from tests.bench.machine import cpu_seconds
from tests.bench.table import Row
from tests.bench.tasks import SUBMIT_AND_FETCH, drained
from tests.processes import Process, Service

CONNECTIONS = 16
BACKLOG = 1000  # tasks that wait all the while
GROUP = 32  # tasks of a claim, as of a worker with as many slots
VACUUM_EVERY = 5000
PARTS = 10  # of the long run, of which the first and the last are compared


def spread(lab: Lab) -> Measured | None:
    """On a file one process writes at a time, so there is nothing to compare."""
    if not lab.databases.is_postgresql:
        return None
    webs, workers = lab.pairs
    pairs = [(_cpu_a_task(lab, [lab.tasks], []), _cpu_a_task(lab, webs, workers)) for _ in range(lab.options.rounds)]
    one, four = map(statistics.median, zip(*pairs, strict=True))
    return Measured(f"{four:.2f} ms", f"{one:.2f} ms", statistics.median(b / a for a, b in pairs))


def _cpu_a_task(lab: Lab, webs: list[Service], workers: Sequence[Process]) -> float:
    """Milliseconds, those of the server's sessions included."""
    processes: list[Process] = [*webs, *workers]
    pids = [pid for process in processes for pid in (process.pid, *process.children())]
    before = _cpu_seconds(lab, pids)
    with ThreadPoolExecutor(len(webs)) as threads:
        rates = list(threads.map(partial(_fetched_a_second, lab, CONNECTIONS // len(webs)), webs))
    drained(webs[0])
    return (_cpu_seconds(lab, pids) - before) / (sum(rates) * lab.options.seconds) * 1000


def _fetched_a_second(lab: Lab, connections: int, web: Service) -> float:
    return lab.load(f"{web.url}/api/task", connections, SUBMIT_AND_FETCH).per_second / 2


def _cpu_seconds(lab: Lab, pids: list[int]) -> float:
    return sum(map(cpu_seconds, [*pids, *lab.databases.sessions()]))


def long_run(lab: Lab) -> Measured:
    """As many tasks as `--tasks`, as fast as they go: an hour at half speed has as many as ten minutes or so here."""
    with asyncio.Runner() as runner:
        database = runner.run(connected(lab, "long"))
        runner.run(database.write(partial(_submit, count=BACKLOG), seconds=None, is_long=True))
        parts = [
            (runner.run(_claim_seconds(database, lab.options.tasks // PARTS)), lab.databases.dead_rows("long"))
            for _ in range(PARTS)
        ]
        runner.run(database.close())
    (first, dead_then), (last, dead) = parts[0], parts[-1]
    claims = f"{first * 1000:.1f} → {last * 1000:.1f} ms"
    rows = f", dead rows {dead_then:,} → {dead:,}" if lab.databases.is_postgresql else ""
    return Measured(claims + rows, ratio=last / first)


async def _claim_seconds(database: Database, count: int) -> float:
    """The median of claims beside BACKLOG tasks that wait; each is made up for by as many submits."""
    taken = []
    for number in range(0, count, GROUP):
        if number % VACUUM_EVERY < GROUP:  # as often as a worker looks, in tasks
            await database.vacuum("task")
        await database.write(partial(_submit, count=GROUP), seconds=None)
        started = time.monotonic()
        claims = await database.write(partial(claimed, most=GROUP), seconds=None)
        taken.append(time.monotonic() - started)
        ended = [(claim, Ending(result=claim.payload)) for claim in claims]
        await database.write(lambda tx, ended=ended: queue.succeed(tx, ended), seconds=None)  # type: ignore[misc]
    return statistics.median(taken)


def _submit(tx: Transaction, count: int) -> None:
    for _ in range(count):
        queue.submit(tx, "", TASK)


ROWS = [
    Row("spread", "CPU a task: two webs and two workers (limit: one process)", "", spread, "1.2 at most"),
    Row("long-run", "a claim of 32 at the start and at the end of `--tasks`", "1.1 at most", long_run),
]
