"""A child's end of the socket to its coordinator."""

import os
import socket
import threading
from typing import Any

from only_post_svc.worker.frames import pack


class Channel:
    """Used by the process that was started, and no other: a copy made by fork closes it, and programs that are started
    do not inherit it."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.socket.set_inheritable(False)
        self._pid = os.getpid()
        self._sending = threading.Lock()
        os.register_at_fork(after_in_child=self.socket.close)

    @property
    def is_ours(self) -> bool:
        """False in a copy made by fork, also where C code has made it."""
        return os.getpid() == self._pid

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        if self.is_ours:
            with self._sending:
                self.socket.sendall(pack(message, blob))

    def send_in_signal_handler(self, message: dict[str, Any]) -> None:
        """Sends nothing while the interrupted code is sending: waiting for its lock would deadlock."""
        if self._sending.acquire(blocking=False):
            self._sending.release()
            self.send(message)

    def receive(self) -> bytes:
        return self.socket.recv(65536)
