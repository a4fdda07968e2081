"""OAuth 2 requests: forms as RFC 6749 has them, or the same members as JSON."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from shared import bodies, strict_json
from shared.bodies import Shape
from shared.errors import BadRequest, Invalid, Problem, title
from shared.middleware.single_headers import single_header
from shared.strict_json import NotJSON

FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 20


def is_form(request: Request[Any]) -> bool:
    sent = single_header(request.scope, b"content-type") or ""
    return sent.partition(";")[0].strip().lower() == FORM


async def read(request: Request[Any], known: set[str]) -> dict[str, Any]:
    """The members of a form or of a JSON object. Unknown fields of a form are ignored
    (RFC 6749 §3.2); a field that is sent twice is a 400."""
    if not is_form(request):
        return await bodies.read_json(request)
    bodies.check_media_type(request, FORM)
    try:
        text = (await bodies.read(request)).decode("ascii")
        fields = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MAX_FIELDS
        )
        strict_json.decode(
            strict_json.encode(dict(fields)).encode()
        )  # refuses what strings of JSON may not have, such as NUL
    except (ValueError, NotJSON):
        raise BadRequest("invalid_request", "not a form") from None
    if len(dict(fields)) != len(fields):
        raise BadRequest("invalid_request", "a field was sent twice")
    return {name: value for name, value in fields if name in known and value}


def known(body: dict[str, Any], shape: Shape[Any]) -> dict[str, Any]:
    """The members that the shape has: unknown ones are ignored, as in a form."""
    return {name: value for name, value in body.items() if name in shape.schema["properties"]}


@contextmanager
def faults_of(request: Request[Any]) -> Iterator[None]:
    """A form without what it needs is a 400 (RFC 6749 §5.2), JSON a 422 like everywhere."""
    try:
        yield
    except Invalid as problem:
        if not is_form(request):
            raise
        raise Problem(problem.code, problem.detail, status=400, errors=problem.errors) from None


def members(problem: Problem) -> dict[str, str]:
    """RFC 6749 §5.2: what the answers of OAuth's endpoints have beside the usual members."""
    description = NOT_DESCRIPTIVE.sub("?", problem.detail or title(problem.status))
    return {"error": ERRORS.get(problem.code, "invalid_request"), "error_description": description}


NOT_DESCRIPTIVE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


ERRORS = {
    "invalid_client": "invalid_client",
    "invalid_grant": "invalid_grant",
    "invalid_scope": "invalid_scope",
    "unsupported_grant_type": "unsupported_grant_type",
    "invalid_token": "invalid_token",
    "insufficient_scope": "insufficient_scope",
    "unauthorized": "invalid_client",
    "rate_limited": "temporarily_unavailable",
    "busy": "temporarily_unavailable",
    "database_unavailable": "temporarily_unavailable",
    "shutting_down": "temporarily_unavailable",
    "internal_error": "server_error",
}
