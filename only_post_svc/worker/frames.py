"""What the coordinator and its children say to each other: a small JSON object, and bytes as they are.

A payload or a result travels as bytes: it is not parsed on the way to a child. What a child says is
checked: the code of a task may have written it.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from shared.schemas import Check, Fault, Limits, schema_of_dataclass, validator
from shared.strict_json import finite, refuse_constant

HEAD = struct.Struct(">II")
MAX_HEAD_BYTES = 256 * 1024  # a traceback, an error and a progress message, each of some thousand characters

Frame = tuple[dict[str, Any], bytes]
RunId = Annotated[str, Limits(maxLength=200)]
Message = Annotated[str, Limits(maxLength=2000)]
Text = Annotated[str, Limits(maxLength=8000)]
Count = Annotated[int, Limits(minimum=0)]


@dataclass
class Ready:
    ready: Literal[True]


@dataclass
class Amount:
    fraction: Annotated[float, Limits(minimum=0, maximum=1)]
    message: Message


@dataclass
class ProgressFrame:
    progress: RunId
    value: Amount


@dataclass
class Checkpoint:
    """With a JSON value, which the next attempt finds again."""

    checkpoint: RunId


@dataclass
class Holding:
    """An answer to SIGUSR1: the run that has the event loop."""

    holding: RunId


@dataclass
class Said:
    """A line that a run, or no run in particular (''), has printed (`logger` is '') or logged."""

    said: RunId
    level: Literal["debug", "info", "warning", "error", "critical"]
    logger: Message
    line: Text


@dataclass
class RaisedError:
    code: Literal["task_error", "invalid_result", "result_too_large"]
    type: Message | None
    message: Message


@dataclass
class End:
    """With a result. `spent` is why the process can take no other run; `dropped` lines were not told."""

    end: RunId
    rss_bytes: Count
    error: RaisedError | None = None
    can_retry: bool = True
    retry_after: Annotated[float, Limits(minimum=0, maximum=30 * 86400)] | None = None
    traceback: Text | None = None
    progress: Amount | None = None
    dropped: Count = 0
    spent: Message = ""


CHECKS: dict[str, Check] = {
    "end": validator(schema_of_dataclass(End)),
    "progress": validator(schema_of_dataclass(ProgressFrame)),
    "said": validator(schema_of_dataclass(Said)),
    "checkpoint": validator(schema_of_dataclass(Checkpoint)),
    "holding": validator(schema_of_dataclass(Holding)),
    "ready": validator(schema_of_dataclass(Ready)),
}


def kind_of(message: dict[str, Any]) -> str:
    """Which of a child's messages this is. Raises ValueError when it is none of them."""
    kind = next(iter(message), "")
    faults: list[Fault] = []
    if kind in CHECKS:
        CHECKS[kind](message, "", faults)
    if kind not in CHECKS or faults:
        raise ValueError(f"not a message: {kind[:20]!r} {faults[:3]}")
    return kind


def pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    head = json.dumps(message).encode()
    return HEAD.pack(len(head), len(blob)) + head + blob


class Unpacker:
    """Bytes in, frames out. Raises ValueError for a frame above `max_bytes` or one that is none."""

    def __init__(self, max_bytes: int, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._max_head_bytes = max_head_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            head, blob = HEAD.unpack_from(self._buffer)
            middle, end = HEAD.size + head, HEAD.size + head + blob
            if head > self._max_head_bytes or end > self._max_bytes:
                raise ValueError("a frame is too large")
            if len(self._buffer) < end:
                return
            message = decode(self._buffer[HEAD.size : middle])
            if not isinstance(message, dict):
                raise ValueError("a message is an object")
            payload = bytes(self._buffer[middle:end])
            del self._buffer[:end]
            yield message, payload


DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=finite)


def decode(text: bytes | bytearray) -> Any:
    """Raises ValueError."""
    try:
        return DECODER.decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
