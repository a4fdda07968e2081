"""PostgreSQL: plain units of work inside the event loop, suspended while they wait for the server.

    caller          what waits                                   wire: a session, libpq's pipeline
    ------          ----------                                   ---------------------------------
    write(unit) ──► Lane: all that come in together      ──────► one of WRITERS, a group on each:
                    are a group, in one greenlet                 BEGIN, clock, statements, COMMIT
    read(unit)  ──► Reader: a greenlet each,             ──────► the reader's: each statement for itself,
                    all on one wire                              those of one turn of the loop in one packet
    write(is_long) ► Aside: one after the other,         ──────► of the thread's own
    query(unit) ──►  in a thread
    publish     ──► Notifications                        ──────► of their own, which listens as well

A unit that asks for rows sends what it has, and its greenlet gives way to the event loop. When the socket can be read,
the loop takes in what has come and switches to the greenlets whose answers are complete; so no thread waits for the
server in the loop's place, and none fights with it for the interpreter. Callers wait for futures: for the commit, or
for WRITE_SECONDS at most. Nothing waits for a silent server for long: a look every half a second ends what has heard
nothing (Wire.look, Lane._look).

Sessions are set up once, at connect. Where a pooler stands in between (PgBouncer in transaction mode), transactions set
up themselves, nothing is prepared, and reads are groups in transactions of a Lane.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from shared.database import Unit
from shared.database.jobs import Helper
from shared.database.postgres.connections import Connector
from shared.database.postgres.lanes import Aside, Lane
from shared.database.postgres.notifications import Notifications
from shared.database.postgres.reader import Reader
from shared.database.postgres.transaction import QUERYING, WRITING
from shared.errors import stopping

T = TypeVar("T")

WRITERS = 2  # connections of a process, opened when they are needed
WRITE_SECONDS = 5.0  # how long a caller waits for its commit before it gets a 503
READ_SECONDS = 5.0
QUERY_SECONDS = 10.0
VACUUM_PAUSES = 20  # times as long as the last VACUUM took: while an old transaction sees the rows, it is in vain

# Dead rows are those that were overwritten or deleted.
HAS_DEAD_ROWS = """
SELECT 1 FROM pg_stat_user_tables
WHERE relid = CAST(:table AS regclass) AND n_dead_tup > 5000 + 0.05 * n_live_tup
"""


class PostgreSQL:
    """A Database (see shared.database) on one server, shared by any number of processes of any number of hosts."""

    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        """Raises psycopg.Error when the URL is none. Connects when there is something to do."""
        self._connections = connections = Connector(url)
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._vacuums_at = 0.0
        self._notifications = Notifications(connections)
        self._writers = Lane(connections, WRITING, self.publish, width=WRITERS, seconds=WRITE_SECONDS)
        self._long = Aside(connections, WRITING, self.publish, seconds=WRITE_SECONDS)
        self._reader = Reader(connections, seconds=READ_SECONDS)
        self._aside = Aside(connections, QUERYING, seconds=QUERY_SECONDS)

    async def refusal(self) -> str:
        """Why the server can't be used, in its own words or libpq's; empty when it can."""
        return await asyncio.to_thread(self._connections.refusal)

    async def write(
        self, unit: Unit[T], seconds: float | None = WRITE_SECONDS, *, is_long: bool = False, is_last: bool = False
    ) -> T:
        if self._is_closing:
            raise stopping()
        if is_long:
            return await self._long.run(unit, seconds, is_long=True)
        return await self._writers.run(unit, seconds, is_last=is_last)

    async def read(self, unit: Unit[T]) -> T:
        if self._is_closing:
            raise stopping()
        return await self._reader.run(unit)

    async def query(self, unit: Unit[T]) -> T:
        await self.read(lambda tx: tx.now)  # finds out about a silent server before QUERY_SECONDS
        if self._is_closing:
            raise stopping()
        return await self._aside.run(unit, QUERY_SECONDS)

    async def vacuum(self, table: str) -> None:
        """The server's own autovacuum looks once a minute, and comes when a fifth of a table has changed."""
        started = self._loop.time()
        if started < self._vacuums_at or not await self.read(lambda tx: tx.one(HAS_DEAD_ROWS, table=table)):
            return
        thread = Helper("postgres-vacuum")
        try:
            await thread.do(lambda: self._connections.vacuum(table))
        finally:
            thread.stop()
            self._vacuums_at = self._loop.time() + VACUUM_PAUSES * (self._loop.time() - started)

    def publish(self, hint: str) -> None:
        self._notifications.publish(hint)

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> None:
        self._notifications.subscribe(topic, callback)

    async def close(self) -> None:
        """Waits for what is under way; later units are refused."""
        self._is_closing = True
        aside = (asyncio.to_thread(lane.close) for lane in (self._long, self._aside))
        await asyncio.gather(self._writers.close(), self._reader.close(), *aside)
        await self._notifications.close()
