"""Hints between the processes of one machine: a datagram to each that listens.

Every process binds a socket of its own in a directory beside the database and sends to all the others there, so
processes that share the file find each other even where their temporary directories differ (containers, PrivateTmp).
While idle it costs nothing.
"""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

MAX_DATAGRAM_BYTES = 60_000
BIND_TRIES = 100
MAX_ADDRESS_BYTES = 100  # 104 with the final NUL on BSD and macOS, 108 on Linux
PEERS_SECONDS = 0.5  # how long the list of the others is cached

log = logging.getLogger(__name__)


class Subscribers:
    """Of this process, by topic."""

    def __init__(self) -> None:
        self._callbacks: defaultdict[str, list[Callable[[str], None]]] = defaultdict(list)

    @property
    def topics(self) -> list[str]:
        return list(self._callbacks)

    def add(self, topic: str, callback: Callable[[str], None]) -> None:
        self._callbacks[topic].append(callback)

    def deliver(self, hint: str) -> None:
        """One that raises is logged: the others hear the hint all the same, and the write that it tells of is done."""
        topic = topic_of(hint)
        for callback in self._callbacks.get(topic, ()):
            try:
                callback(hint[len(topic) + 1 :])
            except Exception:
                log.exception("hints.not_heard", extra={"hint": hint})


class Hints:
    """Reach this process alone where there is no `directory`, or where it can't be used."""

    def __init__(self, directory: Path | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.subscribers = Subscribers()
        self._pending: dict[str, None] = {}
        self._peers: list[Path] = []
        self._peers_until = 0.0
        self._directory = directory
        self._mailbox: Mailbox | None = None
        self._open()

    def _open(self) -> None:
        if self._directory is None:
            return
        try:
            self._mailbox = Mailbox(self._directory)
        except OSError as error:
            log.warning("hints.unavailable", extra={"reason": str(error), "instead": "a poll every few seconds"})
        else:
            self._loop.add_reader(self._mailbox.socket, self._receive, self._mailbox)

    def publish(self, hint: str) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending[hint] = None
        self.subscribers.deliver(hint)

    def close(self) -> None:
        if self._mailbox is not None:
            self._loop.remove_reader(self._mailbox.socket)
            self._mailbox.close()
            self._mailbox = None

    def _flush(self) -> None:
        hints, self._pending = list(self._pending), {}
        datagrams = [datagram.encode() for datagram in packed(hints, MAX_DATAGRAM_BYTES)]
        for peer in self._others():
            for datagram in datagrams:
                self._send(peer, datagram)

    def _others(self) -> list[Path]:
        now = time.monotonic()
        if self._mailbox is not None and now > self._peers_until:
            self._peers_until = now + PEERS_SECONDS
            if not self._mailbox.path.exists():  # its directory was cleared
                self.close()
                self._open()
            self._peers = self._mailbox.others() if self._mailbox else []
        return self._peers

    def _send(self, peer: Path, datagram: bytes) -> None:
        if self._mailbox is not None and not self._mailbox.send(peer, datagram):
            peer.unlink(missing_ok=True)
            self._peers_until = 0

    def _receive(self, mailbox: "Mailbox") -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                for hint in mailbox.socket.recv(MAX_DATAGRAM_BYTES).decode(errors="replace").split("\n"):
                    self.subscribers.deliver(hint)


class Mailbox:
    """A socket of this process's own in a directory that it shares with others."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.path = self._bind(directory)
        except BaseException:
            self.socket.close()
            raise

    def _bind(self, directory: Path) -> Path:
        for _ in range(BIND_TRIES):
            with contextlib.suppress(FileNotFoundError):  # the last process to end has just removed the directory
                self._handle = _opened(directory)
                try:
                    path = directory / uuid.uuid4().hex[:12]
                    self.socket.bind(self._address(path))
                    return path
                except BaseException:
                    os.close(self._handle)
                    raise
        raise FileNotFoundError(directory)

    def _address(self, path: Path) -> str:
        """An address has room for about 100 bytes (unix(7)); a longer path is shortened by proc_pid_fd(5)."""
        if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
            return str(path)
        return f"/proc/self/fd/{self._handle}/{path.name}"

    def others(self) -> list[Path]:
        with contextlib.suppress(OSError):  # cleared in between
            return [path for path in self.path.parent.iterdir() if path != self.path]
        return []

    def send(self, peer: Path, datagram: bytes) -> bool:
        """False when the process at the other end is gone."""
        try:
            self.socket.sendto(datagram, self._address(peer))
        except ConnectionRefusedError:
            return False
        except OSError:  # its buffer is full, or it has just ended: receivers poll as well
            pass
        return True

    def close(self) -> None:
        self.socket.close()
        os.close(self._handle)
        with contextlib.suppress(OSError):  # others are still there
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()


def is_anyone_at(directory: Path) -> bool:
    """Whether a process listens there, as far as this one can see."""
    try:
        mailbox = Mailbox(directory)
    except OSError:
        return False
    try:
        return any(mailbox.send(other, b"") for other in mailbox.others())
    finally:
        mailbox.close()


def _opened(directory: Path) -> int:
    """A handle of the directory, made where it is missing. Raises OSError unless it is this user's alone: through a
    link, or in another's directory, strangers would read the hints or keep them."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(handle)
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return handle
    os.close(handle)
    raise PermissionError(f"{directory} is not this user's alone")


def topic_of(hint: str) -> str:
    return hint.partition(" ")[0]


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
