"""The one error shape (RFC 9457) and the exception handler that answers with it.

Problem                  any status; the base of what handlers raise
├── BadRequest           400
├── Unauthorized         401, with its WWW-Authenticate challenge (RFC 6750 §3)
├── Forbidden            403
├── NotFound             404
├── MethodNotAllowed     405, with Allow (RFC 9110 §15.5.6)
├── Conflict             409
├── Invalid              422, with one Fault for each thing that is wrong
├── TooManyRequests      429, with Retry-After
└── Unavailable          503, with Retry-After
"""

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Set
from http import HTTPStatus
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.schemas import MAX_FAULTS, Fault
from shared.strict_json import encode
from shared.urls import routed_path

# The names of RFC 9110; HTTPStatus has them from Python 3.13 on.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


log = logging.getLogger(__name__)


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

    def __init__(self, code: str, detail: str, challenge: str, reason: str = "") -> None:
        """`reason` is for the log alone."""
        super().__init__(code, detail, headers={"WWW-Authenticate": challenge})
        self.reason = reason


class Forbidden(Problem):
    status = 403
    code = "forbidden"


class NotFound(Problem):
    status = 404
    code = "not_found"


class MethodNotAllowed(Problem):
    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: Iterable[str], detail: str = "") -> None:
        super().__init__(detail=detail, headers={"Allow": ", ".join(sorted(allowed))})


class Conflict(Problem):
    status = 409
    code = "conflict"


class Invalid(Problem):
    status = 422
    code = "invalid_request"

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("", sentence(faults[0]), errors=faults[:MAX_FAULTS])


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


def stopping() -> Unavailable:
    """For a request whose process stops before it is done."""
    return Unavailable("shutting_down", "this process is stopping")


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def sentence(fault: Fault) -> str:
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
        described["errors"] = [vars(fault) for fault in problem.errors]
    return described


Describe = Callable[[Problem], dict[str, str]]


class Extension(NamedTuple):
    """Errors on `paths` have the members that `describe` gives, too, and are plain JSON: another protocol's shape."""

    paths: Set[str] = frozenset()
    describe: Describe | None = None

    def on(self, path: str) -> Describe | None:
        return self.describe if path in self.paths else None


NO_EXTENSION = Extension()


def body(problem: Problem, request_id: str, describe: Describe | None) -> tuple[bytes, str]:
    """The JSON, and its media type."""
    described = members(problem, request_id)
    if describe is None:
        return encode(described).encode(), "application/problem+json"
    return encode(described | describe(problem)).encode(), "application/json"


def response(problem: Problem, scope: Scope) -> Response:
    content, media_type = body(problem, scope.get("request_id", ""), scope.get("describe_problem"))
    return Response(content, problem.status, problem.headers, media_type=media_type)


class Extended:
    """Middleware: the errors of all within have the extension."""

    def __init__(self, app: ASGIApp, extension: Extension) -> None:
        self.app = app
        self.extension = extension

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["describe_problem"] = self.extension.on(routed_path(scope))
        await self.app(scope, receive, send)


class ExceptionHandler:
    """Middleware: answers what is raised within before the body begins; the head is held back until then. An
    unexpected exception is answered with 500 and raised again, for the server to log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        head: Message | None = None
        is_started = False

        async def send_with_head(message: Message) -> None:
            nonlocal head, is_started
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None and not is_started:
                is_started = True
                await send(head)
            await send(message)

        try:
            await self.app(scope, receive, send_with_head)
        except (Exception, asyncio.CancelledError) as error:
            if is_started:
                raise
            if await _answer(error, scope, receive, send) == Problem.status:
                raise


async def _answer(error: BaseException, scope: Scope, receive: Receive, send: Send) -> int:
    """The answer's status. The frames of the traceback are cleared first: they and the error refer to each other, which
    would keep the request's body until the garbage collector runs."""
    traceback.clear_frames(error.__traceback__)
    problem = _problem(error)
    if isinstance(problem, Unauthorized) and problem.reason:
        log.info("auth.refused", extra={"reason": problem.reason})
    await response(problem, scope)(scope, receive, send)
    return problem.status


def _problem(error: BaseException) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return BadRequest("client_disconnected", "the body never ended")
    if isinstance(error, asyncio.CancelledError):  # by uvicorn at its shutdown: a body is still arriving, say
        return stopping()
    return Problem(detail="an unexpected error, logged under this request_id")
