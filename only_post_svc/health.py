"""Whether tasks make progress, not only whether the process lives."""

from collections.abc import Collection
from typing import Any, NamedTuple

from only_post_svc import shares
from shared import VERSION, times
from shared.database import Database, Transaction
from shared.errors import Unavailable
from shared.health import Report, probe

STALLED_SECONDS = 15  # tasks have waited, and none was claimed, for this long


async def look(database: Database, types: Collection[str]) -> Report:
    """`types` are those that the code of this process knows."""
    try:
        answered = await probe(database)
        found = await database.query(condition)
        has_late = _is_stalled(found) or found.unclaimed
        unknown = await database.query(lambda tx: unknown_types(tx, types)) if has_late else {}
    except Unavailable as error:
        silent = {"status": "unavailable", "detail": error.detail}
        body: dict[str, object] = {"status": "degraded", "version": VERSION, "database": silent, "queue": None}
        return Report(False, body | {"workers": []})
    is_ok = not _is_stalled(found) or found.queued == sum(unknown.values())
    queue: dict[str, Any] = {
        "queued": found.queued,
        "scheduled": found.scheduled,
        "running": found.running,
        "oldest_queued_seconds": found.oldest_queued_seconds,
        **({"unknown_types": sorted(unknown)} if unknown else {}),
    }
    told = {"held": found.held, "paused": found.paused, "unclaimed": found.unclaimed}
    queue |= {name: value for name, value in told.items() if value}
    workers = [_worker(row) for row in found.workers]
    status = "ok" if is_ok else "degraded"
    said = {"status": status, "version": VERSION, "database": answered, "queue": queue, "workers": workers}
    return Report(is_ok, said)


class Condition(NamedTuple):
    """How the queue is doing. Times in milliseconds since 1970."""

    now: int
    queued: int
    scheduled: int
    held: int
    running: int
    oldest_queued_at: int | None
    paused: list[str]  # types
    unclaimed: list[str]  # types whose tasks have waited for long: no worker may have their code
    workers: list[dict[str, Any]]

    @property
    def oldest_queued_seconds(self) -> float | None:
        return None if self.oldest_queued_at is None else max(0, self.now - self.oldest_queued_at) / 1000


# A task that any worker could take does not wait long in a lane of its own type.
APART = """
SELECT lane, count(*), min(run_at) FROM task
WHERE lane <> '' AND finished_at IS NULL AND status = 'queued' GROUP BY lane
"""


def condition(tx: Transaction) -> Condition:
    queued, oldest = tx.all("SELECT count(*), min(run_at) FROM task WHERE status = 'queued' AND lane = ''")[0]
    paused = shares.paused(tx)
    apart = tx.all(APART)
    queued += sum(number for _, number, _ in apart)
    since = {type: since for type, _, since in apart if type not in paused}
    late = tx.now - STALLED_SECONDS * 1000
    unclaimed = sorted(type for type in since if since[type] < late)
    # Statuses are written out, since only so a partial index fits.
    sql = "SELECT count(*) FROM task WHERE status = '{status}'"
    scheduled, held, running = (tx.all(sql.format(status=one))[0][0] for one in ("scheduled", "held", "running"))
    names = ("id", "host", "pid", "processes", "running", "started_at", "seen_at", "claimed_at")
    rows = tx.all(f"SELECT {', '.join(names)} FROM worker ORDER BY started_at, id")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    if not found:  # who might have the types
        oldest = min((moment for moment in (oldest, *since.values()) if moment is not None), default=None)
    return Condition(tx.now, queued, scheduled, held, running, oldest, paused, unclaimed, found)


BY_TYPE = "SELECT type, count(*) FROM task WHERE status = 'queued' GROUP BY type ORDER BY type"


def unknown_types(tx: Transaction, types: Collection[str]) -> dict[str, int]:
    """How many tasks are queued of each type that none of `types` is: their code is no longer there, or not yet."""
    return {type: count for type, count in tx.all(BY_TYPE) if type not in types}


def _is_stalled(condition: Condition) -> bool:
    claims = [row["claimed_at"] for row in condition.workers if row["claimed_at"] is not None]
    claimed_lately = bool(claims) and condition.now - max(claims) < STALLED_SECONDS * 1000
    return (condition.oldest_queued_seconds or 0) >= STALLED_SECONDS and not claimed_lately


def _worker(row: dict[str, Any]) -> dict[str, Any]:
    moments = ("started_at", "seen_at", "claimed_at")
    return row | {name: row[name] and times.to_text(row[name]) for name in moments}
