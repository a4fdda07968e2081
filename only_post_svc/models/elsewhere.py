"""Runs of workers elsewhere, on the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from only_post_svc.elsewhere import Held, Lease, RunElsewhere
from only_post_svc.models.tasks import MAX_DELAY_SECONDS, Wait, time_json
from only_post_svc.queue import Ending
from shared.bodies import Shape
from shared.openapi import Id, Time
from shared.schemas import Fault, Limits
from shared.strict_json import encode

MAX_RUNS = 100  # of one claim, renewal or finish of workers elsewhere
MAX_MESSAGE = 2000  # characters of an error or a progress message, as in worker/runner.py


@dataclass(frozen=True)
class ClaimRequest:
    """`types` are those that the worker has code for."""

    types: Annotated[list[str], Limits(minItems=1, maxItems=MAX_RUNS)]
    limit: Annotated[int, Limits(minimum=1, maximum=MAX_RUNS)] = 1
    wait: Wait = 0


@dataclass(frozen=True)
class ProgressRequest:
    fraction: Annotated[float, Limits(minimum=0, maximum=1)]
    message: Annotated[str, Limits(maxLength=MAX_MESSAGE)] = ""


@dataclass(frozen=True)
class RenewedRun:
    task_id: str
    lease: str
    progress: ProgressRequest | None = None
    checkpoint: Any = None


@dataclass(frozen=True)
class RenewRequest:
    runs: Annotated[list[RenewedRun], Limits(minItems=1, maxItems=MAX_RUNS)]


@dataclass(frozen=True)
class RunError:
    message: str
    type: Annotated[str, Limits(maxLength=255)] | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A run that has succeeded has a `result`; one that has failed has an `error` instead, which ends its task when
    `retry` is false. Its next attempt finds the latest `checkpoint`."""

    task_id: str
    lease: str
    result: Any = None
    error: RunError | None = None
    retry: bool = True
    checkpoint: Any = None
    retry_after: Annotated[float, Limits(minimum=0, maximum=MAX_DELAY_SECONDS)] | None = None


@dataclass(frozen=True)
class FinishRequest:
    """Ends runs. Each has a `result` or, when it has failed, an `error`: not both."""

    runs: Annotated[list[FinishedRun], Limits(minItems=1, maxItems=MAX_RUNS)]

    def endings(self) -> list[tuple[Held, Ending]]:
        return [(held_of(run), ending_of(run)) for run in self.runs]


CLAIM_REQUEST = Shape(ClaimRequest)
RENEW_REQUEST = Shape(RenewRequest)
FINISH_REQUEST = Shape(FinishRequest)


def finish_faults(sent: Mapping[str, Any]) -> list[Fault]:
    """Runs with both a result and an error."""
    runs = sent.get("runs")
    return [
        Fault(f"/runs/{number}/result", "not beside an error")
        for number, run in enumerate(runs if isinstance(runs, list) else ())
        if isinstance(run, dict) and run.get("error") is not None and run.get("result") is not None
    ]


@dataclass(frozen=True)
class ClaimedRun:
    """A task for a worker to run: it has until `deadline`, and has to renew before `lease_until`. `saved` is the latest
    checkpoint of the attempts before, null where there is none."""

    task_id: Id
    type: str
    payload: dict[str, Any]
    attempt: int
    max_attempts: int
    lease: str
    deadline: Time
    lease_until: Time
    key: str | None
    traceparent: str | None
    saved: Any


@dataclass(frozen=True)
class ClaimedRuns:
    items: list[ClaimedRun]


@dataclass(frozen=True)
class HeldRun:
    """Whether the run held its lease. One that did not is to be stopped, and has written nothing."""

    task_id: str
    is_held: bool
    lease_until: Time | None


@dataclass(frozen=True)
class HeldRuns:
    """In the order of the request."""

    items: list[HeldRun]


def claimed_json(run: RunElsewhere) -> str:
    claim = run.claim
    return (
        f'{{"task_id":"{claim.id}","type":{json.dumps(claim.type)},"payload":{claim.payload},'
        f'"attempt":{claim.attempt},"max_attempts":{claim.max_attempts},"lease":"{claim.lease}",'
        f'"deadline":{time_json(run.deadline)},"lease_until":{time_json(run.lease_until)},'
        f'"key":{json.dumps(claim.key)},"traceparent":{json.dumps(claim.traceparent)},'
        f'"saved":{claim.saved or "null"}}}'
    )


def held_json(lease: Lease) -> str:
    is_held = "false" if lease.until is None else "true"
    return f'{{"task_id":{json.dumps(lease.task_id)},"is_held":{is_held},"lease_until":{time_json(lease.until)}}}'


def held_of(run: RenewedRun | FinishedRun) -> Held:
    checkpoint = None if run.checkpoint is None else encode(run.checkpoint)
    progress = run.progress if isinstance(run, RenewedRun) else None
    said = None if progress is None else encode({"fraction": float(progress.fraction), "message": progress.message})
    return Held(run.task_id, run.lease, said, checkpoint)


def ending_of(run: FinishedRun) -> Ending:
    if run.error is None:
        return Ending(result=encode(run.result))
    described = {"code": "task_error", "type": run.error.type, "message": run.error.message[:MAX_MESSAGE]}
    return Ending(error=encode(described), can_retry=run.retry, retry_after_seconds=run.retry_after)
