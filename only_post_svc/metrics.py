"""The numbers of /metrics that all processes of one database share."""

import json

from only_post_svc import workers
from shared import metrics_endpoint
from shared.database import Database, Transaction
from shared.metrics import Labels, family, gauge

# By event, see tallies.py. Each worker is a series of its own, which starts anew when it does.
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "submitted": ("only_post_tasks_submitted_total", "Tasks that were accepted.", ("type",)),
    "ended": ("only_post_runs_ended_total", "Runs that ended, and how.", ("type", "outcome")),
    "retried": ("only_post_runs_retried_total", "Failed runs with another one to come.", ("type",)),
    "lease_lost": ("only_post_leases_lost_total", "Runs taken back from a worker given up for dead.", ()),
}


async def families(database: Database) -> list[str]:
    return await metrics_endpoint.from_database(database, lambda tx: [*_condition(tx), *_counts(tx)])


def _condition(tx: Transaction) -> list[str]:
    now = workers.condition(tx)
    states: dict[Labels, float] = {("queued",): now.queued, ("scheduled",): now.scheduled, ("running",): now.running}
    age = 0 if now.oldest_queued_at is None else max(0, now.now - now.oldest_queued_at) / 1000
    processes = [worker["processes"] for worker in now.workers if worker["processes"]]
    return [
        family("gauge", "only_post_tasks", "Tasks that have not ended.", ("state",), states),
        gauge("only_post_oldest_queued_seconds", "How long the oldest task that could run has waited.", age),
        gauge("only_post_workers", "Processes that claim tasks.", len(processes)),
        gauge("only_post_worker_processes", "Child processes that run them.", sum(processes)),
    ]


def _counts(tx: Transaction) -> list[str]:
    values: dict[str, dict[Labels, float]] = {}
    for worker_id, counts in workers.counts(tx):
        for event, *labels, count in json.loads(counts):
            values.setdefault(event, {})[(worker_id, *labels)] = count
    return [
        family("counter", name, meaning, ("worker", *labels), values.get(event, {}))
        for event, (name, meaning, labels) in COUNTERS.items()
    ]
