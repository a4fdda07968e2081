"""A copy in another database has every row of every table, is made whole or not at all, and takes little memory."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from only_post_svc.__main__ import SERVICE as TASKS
from only_post_svc.settings import Settings
from shared.cli import copying
from shared.database import Database, Row, Transaction, connection
from shared.lasting_secrets import lasting_secrets
from tests.commands import Done, command, environment, said
from tests.postgres import execute
from tests.processes import eventually
from tests.shared.engines import ENGINES
from token_svc.__main__ import SERVICE as TOKENS

T = TypeVar("T")
SERVICES = ("only_post_svc", "token_svc")
SCHEMAS = {**TASKS.schemas, **TOKENS.schemas}
LEFT_BEHIND = {"migration", "exported", "probe", "worker"}
ODD = "'\"\\ \t\r\n{},:name $1 ü 😀"


class Column(NamedTuple):
    table: str
    name: str
    type: str
    is_needed: int

    def value(self, number: int) -> Any:
        """Of a row's; every other is NULL where it may be. There are two owners."""
        if self.name == "owner":
            return f"{number % 2} {ODD}"
        if not self.is_needed and number % 2:
            return None
        return f"{self.name} {number:04d} {ODD}" if self.type == "TEXT" else 2**53 + number


COLUMNS = """
SELECT m.name, c.name, c.type, c."notnull" OR c.pk FROM sqlite_master AS m, pragma_table_info(m.name) AS c
WHERE m.type = 'table' ORDER BY m.name, c.cid
"""


@cache
def columns() -> dict[str, list[Column]]:
    """Of each table that is copied, as a new database has them."""
    found: defaultdict[str, list[Column]] = defaultdict(list)
    for row in do("sqlite:///:memory:", lambda tx: tx.all(COLUMNS)):
        if row[0] not in LEFT_BEHIND:
            found[row[0]].append(Column(*row))
    return found


class Databases(NamedTuple):
    """Two that both services may use, by their URLs: what is copied, and where it is to be."""

    source: str
    target: str

    def fill(self, *tables: str, count: int = 5, first: int = 0) -> None:
        """The source, in these tables or all."""

        def unit(tx: Transaction) -> None:
            for table in tables or columns().keys() - {"kept_answers"}:
                names = [column.name for column in columns()[table]]
                insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
                for number in range(first, first + count):
                    tx.put(insert, **{column.name: column.value(number) for column in columns()[table]})
            tx.run("DELETE FROM kept_answers")
            tx.run("INSERT INTO kept_answers SELECT owner, sum(bytes) FROM idempotency_key GROUP BY owner")

        do(self.source, unit)

    def copy(self, service: str) -> Done:
        """By the service's command."""
        return command(Path.cwd(), service, "copy", self.target, DATABASE_URL=self.source)


def over(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    async def over_a_database() -> T:
        database = await connection.connect(url, SCHEMAS)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(over_a_database())


def do(url: str, unit: Callable[[Transaction], T]) -> T:
    return over(url, lambda database: database.write(unit, seconds=None, is_long=True))


def rows_of(url: str) -> dict[str, list[Row]]:
    def unit(tx: Transaction) -> dict[str, list[Row]]:
        selects = {table: f"SELECT {', '.join(one.name for one in some)} FROM {table}" for table, some in tables}
        return {table: sorted(tx.all(select), key=repr) for table, select in selects.items()}

    tables = columns().items()
    return do(url, unit)


@pytest.fixture(params=[("sqlite", "postgres")], ids="-".join)
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    directories = [tmp_path / "source", tmp_path / "target"]
    with contextlib.ExitStack() as stack:
        urls = []
        for engine, directory in zip(request.param, directories, strict=True):
            directory.mkdir()
            urls.append(stack.enter_context(ENGINES[engine](directory)).url)
        yield Databases(*urls)


ALL = [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite"), ("postgres", "postgres")]
on_all_engines = pytest.mark.parametrize("databases", ALL, ids="-".join, indirect=True)


@on_all_engines
def test_every_row_of_every_table_is_in_the_copy(databases: Databases) -> None:
    databases.fill()
    before = rows_of(databases.source)
    assert all(before.values())
    for service in SERVICES:
        done = databases.copy(service)
        assert (done.returncode, done.stderr) == (0, "")
    assert rows_of(databases.target) == rows_of(databases.source) == before


def test_every_table_is_copied_or_named_as_one_that_is_not() -> None:
    named = {*copying.MADE_ANEW, *TASKS.transient, *TOKENS.transient}
    assert named == LEFT_BEHIND
    for service in (TASKS, TOKENS):
        for table in asyncio.run(copying.tables_of(service.schemas)):
            assert table.name in named or [column.name for column in columns()[table.name]] == table.columns


@pytest.mark.parametrize("databases", ALL[:2], ids="-".join, indirect=True)
def test_a_copy_is_of_one_moment(databases: Databases) -> None:
    databases.fill("task", count=10_000)
    databases.fill("webhook")
    before = rows_of(databases.source)

    def meanwhile(done: int, total: int) -> None:
        assert done < total == 10_005
        do(databases.source, lambda tx: tx.run("DELETE FROM webhook"))

    asyncio.run(copying.copy(databases.source, databases.target, TASKS.schemas, TASKS.transient, meanwhile))
    assert rows_of(databases.target) == before
    assert rows_of(databases.source) != before


def test_what_is_copied_is_told(databases: Databases) -> None:
    databases.fill("task", count=2500)
    databases.fill("gate", "item", count=1)
    done = databases.copy("only_post_svc")
    *table, last = done.stdout.splitlines()
    assert table == ["TABLE  ROWS", "gate   1", "task   2500"]
    assert "set DATABASE_URL to it" in last and "@" not in last


@on_all_engines
def test_of_one_database_each_service_may_go_at_its_time(databases: Databases) -> None:
    """Of what both have, the newer stays. What a user's kept answers add up to is what they are then."""
    databases.fill()
    databases.copy("only_post_svc")
    for sql in ("DELETE FROM idempotency_key WHERE key LIKE '%0001%'", "UPDATE idempotency_key SET body = 'newer'"):
        do(databases.target, lambda tx: tx.run(sql))  # noqa: B023
    databases.fill("idempotency_key", count=2, first=100)
    assert databases.copy("token_svc").returncode == 0
    source, target = (rows_of(url) for url in databases)
    assert target["kept_answers"] == source["kept_answers"]
    assert len(target["idempotency_key"]) == 7
    assert str(target["idempotency_key"]).count("newer") == 4
    assert target["item"] == source["item"]


@on_all_engines
def test_secrets_of_two_databases_that_become_one_all_verify(databases: Databases, tmp_path: Path) -> None:
    def secrets(url: str) -> list[bytes]:
        return over(url, lambda database: lasting_secrets(database, settings))

    settings = Settings.from_env({"JWKS": '{"keys": []}'})
    second = databases._replace(source=f"sqlite:///{tmp_path / 'second.db'}")
    expected = secrets(databases.source) + secrets(second.source)
    for each, service in zip((databases, second), SERVICES, strict=True):
        assert each.copy(service).returncode == 0
    assert secrets(databases.target) == expected


@on_all_engines
def test_where_the_service_has_rows_nothing_is_changed(databases: Databases) -> None:
    databases.fill()
    do(databases.target, lambda tx: tx.run("INSERT INTO gate VALUES ('type', 'key', 1, 1, '')"))
    before = rows_of(databases.target)
    assert "already (in gate)" in said(databases.copy("only_post_svc"), 1)
    assert rows_of(databases.target) == before
    assert databases.copy("token_svc").returncode == 0  # it has none


def test_a_second_copy_is_refused(databases: Databases) -> None:
    databases.fill()
    assert databases.copy("token_svc").returncode == 0
    assert "already (in account)" in said(databases.copy("token_svc"), 1)


@pytest.mark.parametrize("databases", [("sqlite", "sqlite")], indirect=True)
def test_a_database_is_not_copied_into_itself_and_none_into_memory(databases: Databases, tmp_path: Path) -> None:
    databases.fill("task")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    linked = f"sqlite:///{tmp_path / 'link' / 'notes.db'}"
    for target in (databases.source, linked):
        assert "set DATABASE_URL after" in said(databases._replace(target=target).copy("only_post_svc"), 1)
    assert "memory" in said(databases._replace(target="sqlite:///:memory:").copy("only_post_svc"), 1)
    assert "memory" in said(databases._replace(source="sqlite:///:memory:").copy("only_post_svc"), 1)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgres://ann:hunter2@127.0.0.1:1/db", "refused"),
        ("postgres://ann:hunter2@/db?nonsense=1", "parameter"),
        ("sqlite:////proc/nowhere/copy.db", "No such file"),
        ("mysql://ann:hunter2@host/db", "postgresql://"),
    ],
)
@pytest.mark.parametrize("databases", [("sqlite", "sqlite")], indirect=True)
def test_a_target_that_can_not_be_opened_is_one_line(databases: Databases, url: str, why: str) -> None:
    databases.fill("task")
    line = said(databases._replace(target=url).copy("only_post_svc"), 1)
    assert "URL" in line and "DATABASE_URL" not in line and why in line
    assert "hunter2" not in line


@pytest.mark.parametrize("databases", [("sqlite", "sqlite")], indirect=True)
def test_the_url_may_come_by_stdin(databases: Databases) -> None:
    databases.fill("task")
    done = command(
        Path.cwd(), "only_post_svc", "copy", "-", stdin=f"{databases.target}\n", DATABASE_URL=databases.source
    )
    assert done.returncode == 0
    assert rows_of(databases.target) == rows_of(databases.source)


def test_a_copy_that_fails_half_way_leaves_nothing(databases: Databases) -> None:
    databases.fill("task", count=10_000)
    databases.fill("task_result")
    do(databases.source, lambda tx: tx.run("UPDATE task_result SET body = body || char(0)"))  # which no service stores
    done = databases.copy("only_post_svc")
    assert done.returncode == 1
    assert "NUL" in done.stderr and "can't store" in done.stderr and "Traceback" not in done.stderr
    assert not any(rows_of(databases.target).values())


@pytest.mark.parametrize("databases", [("sqlite", "postgres"), ("sqlite", "sqlite")], ids="-".join, indirect=True)
def test_a_damaged_file_leaves_nothing(databases: Databases) -> None:
    databases.fill("task", count=10_000)
    file = Path(databases.source.removeprefix("sqlite:///"))
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\xff" * (file.stat().st_size // 2))
    done = databases.copy("only_post_svc")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not any(rows_of(databases.target).values())


IS_COPYING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT INTO task%%' AND datname = current_database()"


def test_a_copy_that_is_interrupted_leaves_nothing(databases: Databases, tmp_path: Path) -> None:
    databases.fill("task", count=100_000)
    with subprocess.Popen(
        [sys.executable, "-m", "only_post_svc", "copy", databases.target],
        env=environment({"DATABASE_URL": databases.source}),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started the tests may ignore it
    ) as process:
        assert process.stderr is not None
        eventually(lambda: execute(databases.target, IS_COPYING), 30, every=0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130
    assert not any(rows_of(databases.target).values())


@pytest.mark.parametrize("databases", ALL[:2], ids="-".join, indirect=True)
def test_large_rows_are_not_in_memory_together(databases: Databases, tmp_path: Path) -> None:
    databases.fill("task", count=10)
    small = kibibytes(databases._replace(target=f"sqlite:///{tmp_path / 'small.db'}"))

    def unit(tx: Transaction) -> None:
        for number in range(150):
            tx.put("INSERT INTO task_result (task_id, body) VALUES (:id, :body)", id=str(number), body="x" * 1024**2)

    do(databases.source, unit)
    assert kibibytes(databases) < small + 75 * 1024


# getrusage(2) would tell of the memory of the process that it was forked from, too.
MEASURED = """
from only_post_svc.__main__ import main
main()
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def kibibytes(databases: Databases) -> int:
    """The most memory that a copy has taken."""
    arguments = [sys.executable, "-c", MEASURED, "copy", databases.target]
    printed = subprocess.check_output(arguments, env=environment({"DATABASE_URL": databases.source}), text=True)
    return int(printed.split()[-1])
