"""What workers elsewhere call: claim, renew, finish."""

from starlette.requests import Request
from starlette.responses import Response

from only_post_svc.models.elsewhere import (
    CLAIM_REQUEST,
    FINISH_REQUEST,
    RENEW_REQUEST,
    ClaimedRuns,
    HeldRuns,
    claimed_json,
    finish_faults,
    held_json,
    held_of,
)
from only_post_svc.state import WORK, State, caller_of
from shared.bodies import read_json
from shared.openapi import JSON, Operation, Reply
from shared.pages import list_json
from shared.responses import written_response
from shared.strict_json import encode

CLAIM = Operation(
    name="claim",
    summary="Claim tasks to run, waiting up to `wait` seconds for one",
    body={JSON: CLAIM_REQUEST},
    scope=WORK,
    answers={200: Reply("what there was, most urgent first", ClaimedRuns)},
)


async def claim(request: Request[State]) -> Response:
    await caller_of(request, WORK)
    wanted = CLAIM_REQUEST.parse(await read_json(request), request.state["types"].elsewhere_faults)
    runs = await request.state["claimants"].claim(wanted.types, wanted.limit, wanted.wait, request.is_disconnected)
    request.state["note_claims"](len(runs))
    return written_response(list_json(map(claimed_json, runs)))


RENEW = Operation(
    name="renew",
    summary="Renew the leases of runs, and say how far they are",
    body={JSON: RENEW_REQUEST},
    scope=WORK,
    answers={200: Reply("which of them hold their leases", HeldRuns)},
)


async def renew(request: Request[State]) -> Response:
    await caller_of(request, WORK)
    runs = [held_of(run) for run in RENEW_REQUEST.parse(await read_json(request)).runs]
    leases = await request.state["claimants"].renew(runs)
    return written_response(list_json(map(held_json, leases)))


FINISH = Operation(
    name="finish",
    summary="End runs, well or not",
    body={JSON: FINISH_REQUEST},
    scope=WORK,
    answers={200: Reply("which of them held their leases, and have ended", HeldRuns)},
)


async def finish(request: Request[State]) -> Response:
    await caller_of(request, WORK)
    runs = FINISH_REQUEST.parse(await read_json(request), finish_faults).endings()
    ended = await request.state["claimants"].finish(runs)
    items = (
        encode({"task_id": run.task_id, "is_held": run.id_and_lease in ended, "lease_until": None}) for run, _ in runs
    )
    return written_response(list_json(items))
