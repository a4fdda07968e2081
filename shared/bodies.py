"""Request bodies: how large, how slow, and what counts as JSON."""

import asyncio
from collections import OrderedDict
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
MAX_ARRIVING_BYTES = 64 * 1024 * 1024  # of all bodies of a process that have not come in whole
HINT = "send JSON: curl --json '{…}', or -H 'Content-Type: application/json'"


class Arriving:
    """Bodies that have not come in whole, the one that has been silent for the longest first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes: OrderedDict[asyncio.Timeout, int] = OrderedDict()
        self._total = 0

    def grew(self, body: asyncio.Timeout, count: int) -> None:
        """Counts bytes that have come in. Where all bodies have too many, the one that has been silent for the longest
        times out."""
        self._bytes[body] = self._bytes.get(body, 0) + count
        self._bytes.move_to_end(body)
        self._total += count
        while self._total > self._most_bytes and len(self._bytes) > 1:
            slowest = next(iter(self._bytes))
            self.leave(slowest)
            if not slowest.expired():  # then its task is about to leave
                slowest.reschedule(0)

    def leave(self, body: asyncio.Timeout) -> None:
        self._total -= self._bytes.pop(body, 0)


_arriving = Arriving(MAX_ARRIVING_BYTES)


async def read(request: Request[Any]) -> bytes:
    """The whole body. Raises 408 after BODY_SECONDS, or earlier while others hold MAX_ARRIVING_BYTES, and
    ClientDisconnect when the client hangs up."""
    if HAS_WHOLE_BODY in request.scope:  # nothing to wait for: no timer
        return await _joined(request, lambda count: None)
    try:
        async with asyncio.timeout(BODY_SECONDS) as limit:
            try:
                return await _joined(request, lambda count: _arriving.grew(limit, count))
            finally:
                _arriving.leave(limit)
    except TimeoutError:
        raise Problem(
            "request_timeout", "the body took too long", status=408, headers={"Connection": "close"}
        ) from None


async def _joined(request: Request[Any], grew: Callable[[int], None]) -> bytes:
    chunks: list[bytes] = []
    is_more = True
    while is_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        grew(len(chunks[-1]))
        is_more = message.get("more_body", False)
    return b"".join(chunks)


async def read_json(request: Request[Any]) -> dict[str, Any]:
    """The body as a JSON object.

    Raises 415 for another media type, 400 `invalid_json` for what is not JSON, 422 for what is no object.
    """
    check_media_type(request)
    return parse_object(await read(request))


async def read_json_as_written(request: Request[Any], *accepted: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The body as a JSON object, and the text of each member as it was written. Raises as `read_json` does."""
    check_media_type(request, *accepted)
    body = await read(request)
    return parse_object(body), strict_json.members(body.decode())


async def read_optional_json(request: Request[Any]) -> dict[str, Any]:
    """The body as a JSON object; an empty one where there is no body. Raises as `read_json` does."""
    body = await read(request)
    if not body:
        return {}
    check_media_type(request)
    return parse_object(body)


def check_media_type(request: Request[Any], *accepted: str) -> None:
    """Raises 415 unless the Content-Type is one of `accepted` (JSON's), in UTF-8, or missing."""
    accepted = accepted or ("application/json",)
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


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises 400 `invalid_json`, and 422 for any other value."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise Invalid([Fault("", "must be an object")])
    return value


def parse_json(body: bytes) -> Any:
    """Any JSON value. Raises 400 `invalid_json`."""
    try:
        return strict_json.decode(body)
    except strict_json.NotJSON as error:
        raise BadRequest("invalid_json", str(error)) from None


FindFaults = Callable[[Mapping[str, Any]], list[Fault]]


def text_faults(sent: Mapping[str, Any], checks: Mapping[str, Callable[[str], str]]) -> list[Fault]:
    """What is wrong with the members that are texts. Each has a check of its own, which says '' for nothing."""
    texts = [(name, check, sent[name]) for name, check in checks.items() if isinstance(sent.get(name), str)]
    return [Fault(f"/{name}", said) for name, check, text in texts if (said := check(text))]


class Shape(Generic[T]):
    """The dataclass of a request body, its validator built once: `parse` gives an instance or raises Invalid."""

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls
        self.schema = schema_of(cls)
        self._check = validator(self.schema)
        self._build: Callable[[Mapping[str, Any]], T] = builder(cls)

    def parse(self, value: Mapping[str, Any], more: FindFaults | None = None) -> T:
        """Raises Invalid with all faults at once: those of the shape, and those that `more` finds in the members that
        are there. They may be of any type, as they were sent."""
        faults: list[Fault] = []
        self._check(value, "", faults)
        if more and (found := more(value)):
            told = {fault.pointer for fault in faults}
            faults += [fault for fault in found if fault.pointer not in told]
        if faults:
            raise Invalid(faults)
        return self._build(value)
