"""What a process has seen happen to tasks since it started.

A worker has no port to be asked on, so it shows its counts with its heartbeat, in its own row: they cost a run nothing,
and no two processes wait for each other.
"""

import json
from collections import Counter
from collections.abc import Iterable

from only_post_svc import queue
from only_post_svc.queue import Claim, Ending, NewTask
from shared.strict_json import encode


class Tally:
    """Events, each with its labels: how often. To be added to by the event loop alone."""

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
        """It ended without an ending of its own: cancelled, released or lost."""
        self._counts["ended", run.type, outcome] += 1

    def took_back(self, number: int) -> None:
        """Runs of a worker that was given up for dead."""
        self._counts["lease_lost",] += number

    def text(self) -> str:
        return encode([[*event, count] for event, count in self._counts.items()])
