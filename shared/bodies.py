"""Request bodies: how large, how slow, and what counts as JSON."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from shared import strict_json
from shared.errors import BadRequest, Invalid, Problem
from shared.middleware.single_headers import single_header
from shared.schemas import Fault, builder, schema_of, validator

T = TypeVar("T")

HAS_WHOLE_BODY = "has_whole_body"  # set in a request's scope once its body has arrived, mostly before its handler runs
BODY_SECONDS = 30  # for a client to send its body
HINT = "send JSON: curl --json '{…}', or -H 'Content-Type: application/json'"


async def read(request: Request[Any]) -> bytes:
    """The whole body. Raises 408 after BODY_SECONDS, ClientDisconnect when the client hangs up."""
    if HAS_WHOLE_BODY in request.scope:  # nothing to wait for: no timer
        return await _joined(request)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _joined(request)
    except TimeoutError:
        raise Problem(
            "request_timeout", "the body took too long", status=408, headers={"Connection": "close"}
        ) from None


async def _joined(request: Request[Any]) -> bytes:
    chunks: list[bytes] = []
    is_more = True
    while is_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        is_more = message.get("more_body", False)
    return b"".join(chunks)


async def read_json(request: Request[Any]) -> dict[str, Any]:
    """The body as a JSON object.

    Raises 415 for another media type, 400 `invalid_json` for what is not JSON, 422 for what is no object.
    """
    return (await _read_object(request, "application/json"))[0]


async def read_json_as_written(request: Request[Any], *accepted: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The body as a JSON object, and the text of each member as it was written. Raises as `read_json` does."""
    value, body = await _read_object(request, *(accepted or ("application/json",)))
    return value, strict_json.members(body.decode())


async def _read_object(request: Request[Any], *accepted: str) -> tuple[dict[str, Any], bytes]:
    check_media_type(request, *accepted)
    body = await read(request)
    value = parse_json(body)
    if not isinstance(value, dict):
        raise Invalid([Fault("", "must be an object")])
    return value, body


def check_media_type(request: Request[Any], *accepted: str) -> None:
    """Raises 415. A missing Content-Type is taken as the first of `accepted`; a charset other than UTF-8 is refused."""
    sent = single_header(request.scope, b"content-type")
    is_accepted = sent is None or sent in accepted or _is_accepted(sent, accepted)
    if not is_accepted or _is_encoded(request):
        raise Problem("unsupported_media_type", HINT, status=415)


def _is_encoded(request: Request[Any]) -> bool:
    encoding = single_header(request.scope, b"content-encoding")
    return encoding is not None and encoding.lower() != "identity"


def _is_accepted(sent: str, accepted: tuple[str, ...]) -> bool:
    media_type, *parameters = (part.strip() for part in sent.lower().split(";"))
    charsets = [one.partition("=")[2].strip('"') for one in parameters if one.startswith("charset=")]
    return media_type in accepted and all(charset in ("utf-8", "utf8") for charset in charsets)


def parse_json(body: bytes) -> Any:
    """Any JSON value. Raises 400 `invalid_json`."""
    try:
        return strict_json.decode(body)
    except strict_json.NotJSON as error:
        raise BadRequest("invalid_json", str(error)) from None


class Shape(Generic[T]):
    """The dataclass of a request body, its validator built once: `parse` gives an instance or raises Invalid."""

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls
        self.schema = schema_of(cls)
        self._check = validator(self.schema)
        self._build: Callable[[Mapping[str, Any]], T] = builder(cls)

    def parse(self, value: Mapping[str, Any]) -> T:
        faults: list[Fault] = []
        self._check(value, "", faults)
        if faults:
            raise Invalid(faults)
        return self._build(value)
