"""Hints between the processes of one machine: a datagram to each that listens.

Every process binds a socket of its own in one directory and sends to all the others there. It
costs nothing while nobody has anything to say; a poll every 5 ms, as fast, would cost half a
per cent of a core.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

MAX_DATAGRAM_BYTES = 60_000
BIND_TRIES = 100
PEERS_SECONDS = 0.5  # how long a list of the others is good for


class Hints:
    def __init__(self, topic: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks: list[Callable[[str], None]] = []
        self._pending: dict[str, None] = {}
        self._peers: list[Path] = []
        self._peers_until = 0.0
        self._topic = topic
        self._bind()

    def _bind(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for _ in range(BIND_TRIES):
            with contextlib.suppress(FileNotFoundError):  # the last one out has just taken the directory along
                self._path = _private_directory(self._topic) / uuid.uuid4().hex[:12]
                self._socket.bind(str(self._path))
                self._loop.add_reader(self._socket, self._receive)
                return
        raise FileNotFoundError(self._path.parent)

    def subscribe(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def publish(self, hint: str) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending[hint] = None

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the last one out
            self._path.parent.rmdir()

    def _flush(self) -> None:
        hints, self._pending = list(self._pending), {}
        for hint in hints:
            self._deliver(hint)
        for datagram in packed(hints, MAX_DATAGRAM_BYTES):
            for peer in self._others():
                self._send(peer, datagram.encode())

    def _others(self) -> list[Path]:
        now = time.monotonic()
        if now > self._peers_until:
            self._peers_until = now + PEERS_SECONDS
            if not self._path.exists():  # cleaners of /tmp take what is old
                self.close()
                self._bind()
            self._peers = [path for path in self._path.parent.iterdir() if path != self._path]
        return self._peers

    def _send(self, peer: Path, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, str(peer))
        except ConnectionRefusedError:  # its process is gone
            peer.unlink(missing_ok=True)
            self._peers_until = 0
        except OSError:  # its buffer is full, or it has just gone: it polls
            pass

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                for hint in self._socket.recv(MAX_DATAGRAM_BYTES).decode(errors="replace").split("\n"):
                    self._deliver(hint)

    def _deliver(self, hint: str) -> None:
        for callback in self._callbacks:
            callback(hint)


def packed(hints: list[str], max_bytes: int) -> list[str]:
    """As few texts as hold them all, a line each."""
    texts: list[str] = []
    size = max_bytes
    for hint in hints:
        size += len(hint.encode()) + 1
        if size > max_bytes:
            texts.append(hint)
            size = len(hint.encode())
        else:
            texts[-1] += f"\n{hint}"
    return texts


def _private_directory(topic: str) -> Path:
    """Short, because a socket's path has room for about 100 bytes, and nobody else's."""
    name = hashlib.sha256(topic.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hints-{os.getuid()}-{name}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else")
    return path
