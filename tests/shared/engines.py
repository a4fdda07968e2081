"""The storage engines under test, each an empty database that this process and others can open."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from shared.database import Database, Transaction
from shared.database.postgres import WRITERS
from tests.postgres import execute, new_database
from tests.shared.notes import Notes

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent


class Engine(Notes):
    """What a test does with it."""

    def run(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """The value of `work` over a database that is open for as long as it takes."""

        async def over_a_database() -> T:
            database = await self.connect()
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(over_a_database())

    def start(self, script: str, **values: Any) -> "subprocess.Popen[str]":
        """Another process that runs `script`, an `async def main(engine, …)`."""
        arguments = {"name": self.name, "url": self.url, "directory": str(self.directory)}
        return subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script + CALL, json.dumps(arguments), json.dumps(values)],
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock beside SQLite's file, as another process holds it while it writes."""
        descriptor = os.open(self.url.removeprefix("sqlite:///") + "-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def busy(self, database: Database) -> AsyncIterator[None]:
        """What is given to the database meanwhile has to wait, and is then taken together."""
        if self.name == "sqlite":
            with self.held():
                yield
            return
        with psycopg.connect(self.url) as holder:
            holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('busy', 0))")
            waiting = []
            for number in range(1, WRITERS + 1):
                waiting.append(asyncio.create_task(database.write(wait_for_its_turn, seconds=None)))
                while self._waiting_for_locks() < number:
                    await asyncio.sleep(0.01)
            yield
        await asyncio.gather(*waiting)

    def _waiting_for_locks(self) -> int:
        return int(execute(self.url, WAITING_HERE)[0][0])


# Of this database: other tests have the same server.
WAITING_HERE = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE NOT granted AND datname = current_database()
"""


def wait_for_its_turn(tx: Transaction) -> None:
    tx.lock("busy")
    tx.one("SELECT 1")


PREAMBLE = """
import asyncio, json, sys
from pathlib import Path
from tests.shared.notes import Notes, add
"""

CALL = """
given = json.loads(sys.argv[1])
engine = Notes(given["name"], given["url"], Path(given["directory"]))
asyncio.run(main(engine, **json.loads(sys.argv[2])))
"""


@contextmanager
def sqlite_engine(directory: Path) -> Iterator[Engine]:
    yield Engine("sqlite", f"sqlite:///{directory / 'notes.db'}", directory)


@contextmanager
def postgres_engine(directory: Path) -> Iterator[Engine]:
    with new_database() as url:
        yield Engine("postgres", url, directory)


ENGINES = {"sqlite": sqlite_engine, "postgres": postgres_engine}
