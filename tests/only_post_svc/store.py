"""A queue at a time that the test sets."""

import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from only_post_svc import lookup, queue, shares
from only_post_svc.lookup import TaskRow
from only_post_svc.main import SCHEMA
from only_post_svc.queue import Claim, Ending, NewTask
from only_post_svc.shares import Candidate, Dealt, Kind, Lane
from shared.database import Transaction
from tests.transactions import Timeline, opened

LOST = '{"code":"worker_lost","type":null,"message":"gone"}'
ERROR = '{"code":"task_error","type":"ValueError","message":"no"}'


def token() -> str:
    """What the leases of one claim begin with."""
    return secrets.token_hex(8)


def claim(tx: Transaction, token: str, limits: Mapping[str, int], lease_seconds: int = 30, **options: Any) -> Dealt:
    """Up to so many of each type."""
    left = Counter(limits)

    def fits(one: Candidate) -> bool:
        left[one.type] -= 1
        return left[one.type] >= 0

    lanes = [Lane(is_alone, shares.ALL, sum(limits.values())) for is_alone in (False, True)]
    kinds = dict.fromkeys(limits, Kind())
    return shares.claim(tx, token, lanes, kinds, fits, lease_seconds, **options)


class Store(Timeline):
    """The verbs of the queue."""

    def submit(self, type: str = "a", caller: str = "", **options: Any) -> str:
        new = NewTask(**{"type": type, "payload": "{}", "timeout_ms": 1000, "max_attempts": 3, **options})
        return self.do(lambda tx: queue.submit(tx, caller, new)).id

    def claim(self, lease_seconds: int = 30, **limits: int) -> list[Claim]:
        wanted = limits or {"a": 100}
        return self.do(lambda tx: claim(tx, token(), wanted, lease_seconds)).claims

    def run(self, **options: Any) -> Claim:
        """A task that is running, alone."""
        task_id = self.submit("alone", **options)
        (claim,) = self.claim(alone=100)
        assert claim.id == task_id
        return claim

    def finish(self, run: Claim, **ending: Any) -> bool:
        return self.do(lambda tx: queue.finish(tx, run, Ending(**ending)))

    def find(self, task_id: str, caller: str = "") -> TaskRow:
        task = self.do(lambda tx: lookup.find(tx, caller, task_id))
        assert task is not None
        return task


@contextlib.contextmanager
def open_store(engine_name: str, directory: Path, kind: type[Store] = Store) -> Iterator[Any]:
    """An empty one."""
    with opened(kind, engine_name, directory, {"only_post": SCHEMA}) as store:
        yield store
