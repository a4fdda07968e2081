"""A queue at a time that the test sets."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from only_post_svc import queue
from only_post_svc.queue import Claim, Ending, NewTask, Task
from shared.database import Database
from tests.transactions import At

T = TypeVar("T")
START = 1_800_000_000_000
LOST = '{"code":"worker_lost","type":null,"message":"gone"}'
ERROR = '{"code":"task_error","type":"ValueError","message":"no"}'


def token() -> str:
    """What the leases of one claim begin with."""
    return secrets.token_hex(8)


class Store:
    """A database, and the verbs of the queue on it at a time that the test sets."""

    def __init__(self, database: Database, runner: asyncio.Runner) -> None:
        self.database = database
        self.runner = runner
        self.now = START

    def do(self, unit: Callable[[At], T]) -> T:
        return self.runner.run(self.database.write(lambda tx: unit(At(tx, self.now))))

    def submit(self, type: str = "a", caller: str = "", **options: Any) -> str:
        new = NewTask(**{"type": type, "payload": "{}", "timeout_ms": 1000, "max_attempts": 3, **options})
        return self.do(lambda tx: queue.submit(tx, caller, new)).id

    def claim(self, lease_seconds: int = 30, **limits: int) -> list[Claim]:
        wanted = limits or {"a": 100}
        return self.do(lambda tx: queue.claim(tx, token(), wanted, lambda type, is_alone: True, lease_seconds))

    def run(self, **options: Any) -> Claim:
        """A task that is running, alone."""
        task_id = self.submit("alone", **options)
        (claim,) = self.claim(alone=100)
        assert claim.id == task_id
        return claim

    def finish(self, run: Claim, **ending: Any) -> bool:
        return self.do(lambda tx: queue.finish(tx, run, Ending(**ending)))

    def find(self, task_id: str, caller: str = "") -> Task:
        task = self.do(lambda tx: queue.find(tx, caller, task_id))
        assert task is not None
        return task

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
