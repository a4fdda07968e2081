"""The connections of a process: how many there may be, and which of them ends for a new one."""

import asyncio
import contextlib
import logging
import resource
from collections import OrderedDict
from collections.abc import Set
from itertools import islice
from typing import Protocol
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState

LOOK_SECONDS = 1
WARNING_SECONDS = 60
MAX_CONNECTIONS = 16_384  # where the limit of files is higher: an idle one takes about 10 KiB
LOOKED_AT = 16  # of the longest idle, to find one that has no unread request
OTHER_FILES = 128  # databases, children, logs, and connections accepted in one turn of the event loop

log = logging.getLogger(__name__)


class Connection(Protocol):
    """What this module needs of a connection."""

    def end(self) -> None: ...

    def has_unread(self) -> bool: ...

    def look(self, now: float) -> None: ...


class Connections:
    """All connections of a server, `most` at once, and in `waiting` those that wait for their client, the longest
    first."""

    def __init__(self, all_of_server: Set[Connection], most: int) -> None:
        self.most = most
        self.waiting: OrderedDict[Connection, None] = OrderedDict()
        self._all = all_of_server
        self._looks: asyncio.TimerHandle | None = None
        self._ended = 0
        self._warned_at: float | None = None

    def admit(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a new connection may stay. Where there is no room, the longest idle one is closed for it; none whose
        client waits for an answer."""
        if self._looks is None:
            self._looks = loop.call_later(LOOK_SECONDS, self._look, loop)
        if len(self._all) > self.most:
            self._warn(loop.time())
            if not self.waiting:
                return False
            self._take_longest_idle().end()
        self.waits(connection)
        return True

    def _take_longest_idle(self) -> Connection:
        """The longest idle connection, preferably one without a request that is not read yet."""
        looked_at = islice(self.waiting, LOOKED_AT)
        found = next((one for one in looked_at if not one.has_unread()), None) or next(iter(self.waiting))
        del self.waiting[found]
        return found

    def waits(self, connection: Connection) -> None:
        """The connection waits for its client: it may be closed for a new one."""
        self.waiting[connection] = None
        self.waiting.move_to_end(connection)

    def works(self, connection: Connection) -> None:
        """The client waits for an answer, or has gone: the connection is not to be closed for a new one."""
        self.waiting.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all connections, instead of two for each request."""
        now = loop.time()
        for connection in tuple(self._all):
            connection.look(now)
        self._looks = loop.call_later(LOOK_SECONDS, self._look, loop) if self._all else None

    def _warn(self, now: float) -> None:
        self._ended += 1
        if self._warned_at is None or now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            log.warning("connections.full", extra={"max": self.most, "ended": self._ended})
            self._ended = 0


def most_connections() -> int:
    """What the limit of open files leaves room for, once it is as high as this process may set it."""
    limit = raise_file_limit()
    return min(MAX_CONNECTIONS, max(limit - OTHER_FILES, limit // 2))


def raise_file_limit() -> int:
    """The limit of open files, once the soft one (often 1,024, for the sake of select(2)) is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS reports no hard limit, and refuses that as the soft one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS + OTHER_FILES if soft == resource.RLIM_INFINITY else soft


_by_server: WeakKeyDictionary[ServerState, Connections] = WeakKeyDictionary()


def of(state: ServerState, most: int = 0) -> Connections:
    """The connections of a server, made by the first call."""
    if state not in _by_server:
        _by_server[state] = Connections(state.connections, most or most_connections())  # type: ignore[arg-type]
    return _by_server[state]
