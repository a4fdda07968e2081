"""The numbers of /metrics: counts of what happened to tasks, and gauges of the queue."""

import json
from collections import Counter
from collections.abc import Iterable

from only_post_svc import queue
from only_post_svc.health import condition
from only_post_svc.queue import Claim, Ending, NewTask
from shared import metrics_endpoint
from shared.database import Database, Transaction
from shared.metrics import Labels, family, gauge
from shared.strict_json import encode

# By event of TaskCounts. Each worker is a series of its own, which starts anew when it does.
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "submitted": ("only_post_tasks_submitted_total", "Tasks that were accepted.", ("type",)),
    "ended": ("only_post_runs_ended_total", "Runs that ended, and how.", ("type", "outcome")),
    "retried": ("only_post_runs_retried_total", "Failed runs with another one to come.", ("type",)),
    "lease_lost": ("only_post_leases_lost_total", "Runs taken back from a worker given up for dead.", ()),
}


class TaskCounts:
    """What this process has seen happen to tasks since it started: events, each with its labels, and how often. Only
    the event loop may add to them.

    A worker has no port to be asked on, so its heartbeat writes its counts into its own row: counting costs a run
    nothing, and no two processes wait for each other.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter({("lease_lost",): 0})

    def submitted(self, tasks: Iterable[NewTask]) -> None:
        for task in tasks:
            self._counts["submitted", task.type] += 1

    def ended(self, run: Claim, ending: Ending) -> None:
        outcome = json.loads(ending.error)["code"] if ending.error else "succeeded"
        self._counts["ended", run.type, outcome] += 1
        if ending.error and not queue.is_last(run, ending):
            self._counts["retried", run.type] += 1

    def gave_up(self, run: Claim, outcome: str) -> None:
        """Counts a run that was cancelled, released or lost."""
        self._counts["ended", run.type, outcome] += 1

    def took_back(self, number: int) -> None:
        """Counts runs taken back from a worker given up for dead."""
        self._counts["lease_lost",] += number

    def text(self) -> str:
        return encode([[*event, count] for event, count in self._counts.items()])


async def families(database: Database) -> list[str]:
    return await metrics_endpoint.from_database(database, lambda tx: [*_condition(tx), *_counts(tx)])


OLDEST = """
SELECT type, min(run_at) FROM (
    SELECT type, run_at FROM task WHERE status = 'queued' UNION ALL SELECT type, run_at FROM task WHERE status = 'held'
) AS due GROUP BY type
"""


def _condition(tx: Transaction) -> list[str]:
    now = condition(tx)
    counted = ("queued", "scheduled", "held", "running")
    states: dict[Labels, float] = {(state,): getattr(now, state) for state in counted}
    age = now.oldest_queued_seconds or 0
    processes = [worker["processes"] for worker in now.workers if worker["processes"]]
    return [
        family("gauge", "only_post_tasks", "Tasks that have not ended.", ("state",), states),
        gauge("only_post_tasks_held", "Tasks that max_running or max_running_per_key holds back.", now.held),
        gauge("only_post_oldest_queued_seconds", "How long the oldest task that could run has waited.", age),
        family(
            "gauge",
            "only_post_oldest_queued_by_type_seconds",
            "How long the oldest task of a type that is due has waited, for any reason.",
            ("type",),
            {(type,): max(0, now.now - since) / 1000 for type, since in tx.all(OLDEST)},
        ),
        gauge("only_post_workers", "Processes that claim tasks.", len(processes)),
        gauge("only_post_worker_processes", "Child processes that run them.", sum(processes)),
    ]


def _counts(tx: Transaction) -> list[str]:
    values: dict[str, dict[Labels, float]] = {}
    for worker_id, counts in tx.all("SELECT id, counts FROM worker ORDER BY started_at, id"):
        for event, *labels, count in json.loads(counts):
            values.setdefault(event, {})[(worker_id, *labels)] = count
    return [
        family("counter", name, meaning, ("worker", *labels), values.get(event, {}))
        for event, (name, meaning, labels) in COUNTERS.items()
    ]
