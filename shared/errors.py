"""The one error shape (RFC 9457) and the exception handler that answers with it.

Problem                  any status; the base of what handlers raise
├── BadRequest           400
├── Unauthorized         401, with its WWW-Authenticate challenge (RFC 6750 §3)
├── Forbidden            403
├── NotFound             404
├── Conflict             409
├── Invalid              422, with one Fault for each thing that is wrong
├── TooManyRequests      429, with Retry-After
└── Unavailable          503, with Retry-After
"""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

from shared.request_id import standard_headers
from shared.schemas import MAX_FAULTS, Fault
from shared.strict_json import encode

# The names of RFC 9110; HTTPStatus has them from Python 3.13 on.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

CODES = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    status = 500
    code = "internal_error"

    def __init__(
        self,
        code: str = "",
        detail: str = "",
        *,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        errors: Iterable[Fault] = (),
    ) -> None:
        super().__init__(code, detail)
        self.status = status or self.status
        self.code = code or self.code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)


class BadRequest(Problem):
    status = 400
    code = "bad_request"


class Unauthorized(Problem):
    status = 401
    code = "unauthorized"

    def __init__(self, code: str, detail: str, challenge: str) -> None:
        super().__init__(code, detail, headers={"WWW-Authenticate": challenge})


class Forbidden(Problem):
    status = 403
    code = "forbidden"


class NotFound(Problem):
    status = 404
    code = "not_found"


class Conflict(Problem):
    status = 409
    code = "conflict"


class Invalid(Problem):
    status = 422
    code = "invalid_request"

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("", _sentence(faults[0]), errors=faults[:MAX_FAULTS])


class TooManyRequests(Problem):
    status = 429
    code = "rate_limited"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(detail="too many requests", headers=_retry_after(retry_after_seconds))


class Unavailable(Problem):
    status = 503
    code = "busy"

    def __init__(self, code: str, detail: str, retry_after_seconds: float = 1) -> None:
        super().__init__(code, detail, headers=_retry_after(retry_after_seconds))


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _sentence(fault: Fault) -> str:
    path = fault.pointer.removeprefix("/").replace("/", ".")
    return f"{path}: {fault.detail}" if path else fault.detail


def title(status: int) -> str:
    return TITLES.get(status) or HTTPStatus(status).phrase


def members(problem: Problem, request_id: str) -> dict[str, object]:
    described: dict[str, object] = {
        "type": "about:blank",
        "title": title(problem.status),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail or title(problem.status),
        "request_id": request_id,
    }
    if problem.errors:
        described["errors"] = [fault._asdict() for fault in problem.errors]
    return described


def response(problem: Problem, scope: Scope) -> Response:
    """The answer. Routes of a protocol that has an error shape of its own say so by `AlsoDescribe`."""
    described = members(problem, scope.get("request_id", ""))
    describe: Describe | None = scope.get("describe_problem")
    media_type = "application/json" if describe else "application/problem+json"
    if describe:
        described |= describe(problem)
    return Response(encode(described).encode(), problem.status, problem.headers, media_type=media_type)


class AlsoDescribe:
    """Middleware: errors on `paths`, the framework's included, get the members of `describe` too and
    are answered as plain JSON."""

    def __init__(self, app: ASGIApp, paths: Set[str], describe: "Describe") -> None:
        self.app = app
        self.paths = paths
        self.describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self.paths:
            scope["describe_problem"] = self.describe
        await self.app(scope, receive, send)


Describe = Callable[[Problem], dict[str, str]]


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return response(error, request.scope)


async def _answer_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))  # Starlette's comes from a set
    code = CODES.get(error.status_code, "error")
    problem = Problem(code, status=error.status_code, headers=headers)
    return response(problem, request.scope)


async def _answer_departed(request: Request, error: Exception) -> Response:
    return response(BadRequest("client_disconnected", "the body never ended"), request.scope)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    # Starlette sends this one from outside all middleware, so that it has to bring its
    # headers along, and raises the error again, so that the server logs the traceback.
    answer = response(Problem(detail="an unexpected error, logged under this request_id"), request.scope)
    answer.raw_headers.extend(standard_headers(request.scope.get("request_id", "")))
    return answer


EXCEPTION_HANDLERS: dict[int | type[Exception], ExceptionHandler] = {
    Problem: _answer,
    HTTPException: _answer_framework,
    ClientDisconnect: _answer_departed,
    Exception: _answer_unexpected,
}
