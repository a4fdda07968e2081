"""Which workers there are, and how the queue is doing."""

from typing import Any, NamedTuple

from shared.database import Transaction

BEAT = """
INSERT INTO worker (id, host, pid, processes, running, started_at, seen_at, claimed_at, counts)
VALUES (:id, :host, :pid, :processes, :running, :now, :now, :claimed_at, :counts)
ON CONFLICT (id) DO UPDATE SET running = excluded.running, processes = excluded.processes,
    seen_at = excluded.seen_at, claimed_at = coalesce(excluded.claimed_at, worker.claimed_at),
    counts = excluded.counts
"""

WORKER_LIFE_SECONDS = 60  # without a beat


class Beat(NamedTuple):
    """What a worker says of itself; `counts` as tallies.py has them."""

    id: str
    host: str
    pid: int
    processes: int
    running: int
    counts: str


def beat(tx: Transaction, worker: Beat, *, has_claimed: bool) -> None:
    """Says that a worker lives, and whether it has claimed anything since it last said so."""
    tx.put(BEAT, **worker._asdict(), now=tx.now, claimed_at=tx.now if has_claimed else None)
    tx.put("DELETE FROM worker WHERE seen_at < :before", before=tx.now - WORKER_LIFE_SECONDS * 1000)


def sign_off(tx: Transaction, worker_id: str) -> None:
    tx.put("DELETE FROM worker WHERE id = :id", id=worker_id)


def counts(tx: Transaction) -> list[tuple[str, str]]:
    """Of each worker: its id, and what it has counted."""
    return [(id, counts) for id, counts in tx.all("SELECT id, counts FROM worker ORDER BY started_at, id")]


class Condition(NamedTuple):
    """How the queue is doing. Times in milliseconds since 1970."""

    now: int
    queued: int
    scheduled: int
    running: int
    oldest_queued_at: int | None
    workers: list[dict[str, Any]]


def condition(tx: Transaction) -> Condition:
    queued, oldest = tx.all("SELECT count(*), min(run_at) FROM task WHERE status = 'queued'")[0]
    (scheduled,) = tx.all("SELECT count(*) FROM task WHERE status = 'scheduled'")[0]
    (running,) = tx.all("SELECT count(*) FROM task WHERE status = 'running'")[0]
    names = ("id", "host", "pid", "processes", "running", "started_at", "seen_at", "claimed_at")
    rows = tx.all(f"SELECT {', '.join(names)} FROM worker ORDER BY started_at, id")
    workers = [dict(zip(names, row, strict=True)) for row in rows]
    return Condition(tx.now, queued, scheduled, running, oldest, workers)
