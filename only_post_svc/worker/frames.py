"""What the coordinator and its children say to each other: a small JSON object, and bytes as they are.

A payload or a result travels as the bytes, so that nobody parses it on the way.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

HEAD = struct.Struct(">II")

Frame = tuple[dict[str, Any], bytes]


def pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    head = json.dumps(message).encode()
    return HEAD.pack(len(head), len(blob)) + head + blob


class Unpacker:
    """Bytes in, frames out. Raises ValueError for a frame above `max_bytes` or one that is none."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            head, blob = HEAD.unpack_from(self._buffer)
            middle, end = HEAD.size + head, HEAD.size + head + blob
            if end > self._max_bytes:
                raise ValueError("a frame is too large")
            if len(self._buffer) < end:
                return
            message = json.loads(self._buffer[HEAD.size : middle])
            if not isinstance(message, dict):
                raise ValueError("a message is an object")
            payload = bytes(self._buffer[middle:end])
            del self._buffer[:end]
            yield message, payload
