"""/metrics: who may see the numbers, and the answer."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shared import metrics
from shared.auth import bad_token, bearer_token
from shared.database import Database, Unit
from shared.errors import Forbidden, Unavailable
from shared.metrics import CONTENT_TYPE, gauge
from shared.openapi import Operation, Reply
from shared.settings import Settings

Families = Callable[[Database], Awaitable[list[str]]]

OPERATION = Operation(
    name="metrics",
    summary="Fetch the numbers for Prometheus, with the token of METRICS_TOKEN",
    overload={},
    answers={200: Reply("its text format", str, media_type=CONTENT_TYPE)},
    codes={401: "invalid_token unauthorized", 403: "metrics_closed"},
)


def check_reader(request: Request[Any]) -> None:
    """METRICS_TOKEN is asked for where it is set; without one /metrics is open in development only. Raises 401, 403."""
    settings: Settings = request.state["settings"]
    if settings.metrics_token is None:
        if settings.app_env == "production":
            raise Forbidden("metrics_closed", "set METRICS_TOKEN, and send it as a bearer token")
        return
    if not hmac.compare_digest(bearer_token(request).encode(), settings.metrics_token.value):
        raise bad_token("not METRICS_TOKEN")


def response(families: list[str]) -> Response:
    return Response(metrics.text(families), headers={"Content-Type": CONTENT_TYPE})


async def from_database(database: Database, unit: Unit[list[str]]) -> list[str]:
    """The families of `unit`, and whether the database has answered at all."""
    try:
        families, is_up = await database.query(unit), 1
    except Unavailable:
        families, is_up = [], 0
    return [gauge("only_post_database_up", "Whether the database answers.", is_up), *families]
