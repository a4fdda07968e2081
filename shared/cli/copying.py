"""Copies all that a service has in its database into another, of either engine: one snapshot, in one transaction.

Both services may share a database, before or after. So each copies its own tables, and adds to the shared ones
(shared/database/schema) the rows that are not there yet.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shared import idempotency, lasting_secrets
from shared.cli import backup
from shared.cli.terminal import Failure, Progress, failing
from shared.database import Row, Transaction, connection
from shared.database.connection import SQLITE, described, file_of, is_sqlite
from shared.database.hints import is_anyone_at
from shared.database.sqlite import MEMORY
from shared.settings import SettingsError

MADE_ANEW = {"migration", "exported", "probe"}  # by the migrations of each database, and by health checks
BATCH_BYTES = 2 * 1024 * 1024  # or one row that is larger
ROW_BYTES = 500  # about, beside its texts
FETCHED_ROWS = 10  # from PostgreSQL at once: each may have a megabyte

# Rows that may meet others at the target; all other shared ones are left out where their key is there.
SHARED = {"secret": lasting_secrets.ADD, "kept_answers": idempotency.RECOUNT}

Select = Callable[[str], Iterator[Row]]


class Table(NamedTuple):
    name: str
    columns: list[str]
    is_shared: bool

    @property
    def insert(self) -> str:
        names, values = ", ".join(self.columns), ", ".join(f":{column}" for column in self.columns)
        insert = f"INSERT INTO {self.name} ({names}) VALUES ({values})"
        return SHARED.get(self.name, f"{insert} ON CONFLICT DO NOTHING") if self.is_shared else insert


async def copy(
    source: str, target: str, schemas: Mapping[str, Path], transient: Collection[str], progress: Progress
) -> dict[str, int]:
    """How many rows each table had. Those of `transient` tables matter only while their process runs, and stay behind.
    Raises Failure, with nothing changed at the target but that it has the tables."""
    _check(source, target)
    await (await connection.connect(source, schemas)).close()  # brings its tables up to date
    tables = [table for table in await tables_of(schemas) if table.name not in MADE_ANEW.union(transient)]
    is_over = threading.Event()
    with _reading(source) as select:
        counts = {table.name: int(next(select(f"SELECT count(*) FROM {table.name}"))[0]) for table in tables}

        def unit(tx: Transaction) -> None:
            tx.lock("copy")
            _need_empty(tx, tables, described(target))
            for done in _fill(tx, tables, "".join(schemas), select):
                if is_over.is_set():
                    raise Failure("interrupted")
                progress(done, sum(counts.values()))

        try:
            database = await connection.connect(target, schemas)
        except SettingsError as error:
            raise Failure(str(error).replace("DATABASE_URL", "URL")) from None
        try:
            await database.write(unit, seconds=None, is_long=True)
        finally:
            is_over.set()  # or the unit would go on in its thread, to its commit
            await database.close()
    return counts


def _check(source: str, target: str) -> None:
    """Raises Failure where a copy would be useless, or would miss something."""
    file = file_of(source)
    if any(is_sqlite(url) and file_of(url) is None for url in (source, target)):
        raise Failure("a database in memory is gone with its process")
    if target == source or (file and file_of(target) == file):
        raise Failure(f"{described(target)} is the service's database already; set DATABASE_URL after the copy")
    if file and is_anyone_at(Path(f"{file}-hints")):
        raise Failure(f"a process has {file} open; stop the services first, or what they still write is left behind")


COLUMNS = """
SELECT sqlite_master.name, columns.name FROM sqlite_master, pragma_table_info(sqlite_master.name) AS columns
WHERE sqlite_master.type = 'table' ORDER BY sqlite_master.name, cid
"""


async def tables_of(schemas: Mapping[str, Path]) -> list[Table]:
    """The shared ones and those of `schemas`, as a new database has them."""
    shared = await _columns({})
    return [Table(name, columns, name in shared) for name, columns in (await _columns(schemas)).items()]


async def _columns(schemas: Mapping[str, Path]) -> dict[str, list[str]]:
    database = await connection.connect(f"{SQLITE}{MEMORY}", schemas)
    columns: defaultdict[str, list[str]] = defaultdict(list)
    for table, column in await database.read(lambda tx: tx.all(COLUMNS)):
        columns[table].append(column)
    await database.close()
    return columns


@contextmanager
def _reading(url: str) -> Iterator[Select]:
    """What gives the rows of one snapshot, one after the other."""
    file = file_of(url)
    if file is not None:
        with failing("the database can't be read", *backup.ERRORS), backup.snapshot(file) as reader:
            yield reader.execute
        return
    import psycopg  # takes 0.1 s, which a start without it saves

    from shared.database.postgres.connections import Connector
    from shared.database.postgres.transaction import QUERYING

    def select(sql: str) -> Iterator[Row]:
        with session.cursor("copy") as cursor:
            cursor.itersize = FETCHED_ROWS
            yield from cursor.execute(sql)

    with failing("the database can't be read", psycopg.Error), Connector(url).connect() as session:
        session.execute(QUERYING)
        yield select


def _need_empty(tx: Transaction, tables: Sequence[Table], target: str) -> None:
    for table in tables:
        if not table.is_shared and tx.one(f"SELECT 1 FROM {table.name} LIMIT 1"):
            raise Failure(f"{target} has rows of this service already (in {table.name}); name one that has none")


def _fill(tx: Transaction, tables: Sequence[Table], service: str, select: Select) -> Iterator[int]:
    """How many rows are done, again and again."""
    done = size = 0
    for table in tables:
        insert = table.insert
        for row in select(f"SELECT {', '.join(table.columns)} FROM {table.name}"):
            tx.put(insert, from_service=service, **dict(zip(table.columns, row, strict=True)))
            done += 1
            size += ROW_BYTES + sum(len(value) for value in row if isinstance(value, str))
            if size > BATCH_BYTES:
                tx.one("SELECT 1")  # waits for the server: what was not sent is in memory
                yield done
                size = 0
