"""The output of a connection: sent in few packets, and given up when its client does not read."""

import asyncio
from typing import Any

STALLED_SECONDS = 30  # without a byte read by the client, after which an answer is given up
MAX_UNSENT = 16  # parts of an answer that is streamed; more wait until they can go
MAX_PART_BYTES = 64 * 1024  # a larger one does not wait for others


class Outlet:
    """A connection's transport that sends what was written once this turn of the event loop is over: so head and body
    are one packet, and the answers of one turn go out together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []
        self._handed_over = 0  # bytes, since the connection began
        self._taken = 0  # bytes of these that had left by the last look
        self._stalled_since: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._unsent.append(data)
        if len(self._unsent) > MAX_UNSENT or len(data) > MAX_PART_BYTES:
            self._send()
        elif len(self._unsent) == 1:
            self._loop.call_soon(self._send)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            data = b"".join(unsent)
            self._handed_over += len(data)
            self._transport.write(data)

    def is_stalled(self, now: float) -> bool:
        """Whether the client has read nothing for STALLED_SECONDS. Called once a second."""
        waiting = self._transport.get_write_buffer_size()
        taken = self._handed_over - waiting
        if not waiting:
            self._stalled_since = None
        elif self._stalled_since is None or taken > self._taken:
            self._stalled_since = now
        self._taken = taken
        return self._stalled_since is not None and now - self._stalled_since >= STALLED_SECONDS
