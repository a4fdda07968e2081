"""Answers in JSON."""

from typing import Any

from starlette.responses import Response

from shared.health import Report
from shared.strict_json import encode


def written_response(body: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is JSON already."""
    return Response(body.encode(), status, headers, media_type="application/json")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return written_response(encode(value), status, headers)


def health_response(report: Report) -> Response:
    return json_response(report.body) if report.is_ok else json_response(report.body, 503, {"Retry-After": "5"})
