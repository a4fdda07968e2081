"""What `/health` says."""

from dataclasses import dataclass
from typing import Literal

from shared.openapi import DatabaseHealth, Time, left_out


@dataclass(frozen=True)
class QueueHealth:
    """How many tasks can run (`queued`), are for later (`scheduled`) and run. `oldest_queued_seconds` is how long the
    oldest one that can run has waited. Where there are any: how many tasks a bound holds back (`held`), the `paused`
    types, and the types whose tasks have waited for long, as no worker may have them (`unclaimed`)."""

    queued: int
    scheduled: int
    running: int
    oldest_queued_seconds: float | None
    unknown_types: list[str] = left_out()  # where tasks wait that no code here runs
    held: int = left_out()
    paused: list[str] = left_out()
    unclaimed: list[str] = left_out()


@dataclass(frozen=True)
class WorkerHealth:
    id: str
    host: str
    pid: int
    processes: int
    running: int
    started_at: Time
    seen_at: Time
    claimed_at: Time | None


@dataclass(frozen=True)
class BriefHealth:
    """What `/health` says without a token where one is asked for."""

    status: Literal["ok", "degraded"]
    version: str


@dataclass(frozen=True)
class Health:
    """Whether the service makes progress. `degraded`: the database does not answer, or tasks wait and no worker
    takes them."""

    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseHealth
    queue: QueueHealth | None
    workers: list[WorkerHealth]
