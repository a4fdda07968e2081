"""What PostgreSQL alone can do to a process: be silent, go away in the middle, refuse, be somebody else."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.database import Database, Transaction, connection
from shared.database.postgres import WRITE_SECONDS, PostgreSQL
from shared.database.postgres.lanes import SILENT_LOOKS
from shared.database.postgres.notifications import PING_SECONDS
from shared.database.postgres.wire import LOOK_SECONDS, PLANS_SECONDS
from shared.errors import Unavailable
from shared.settings import SettingsError
from tests.postgres import execute, new_database
from tests.processes import eventually
from tests.proxy import Loss, Proxy, proxied
from tests.shared.engines import Engine, postgres_engine
from tests.shared.notes import add, ids

SETTLED_SECONDS = 20


@pytest.fixture
def postgres(files: Path) -> Iterator[Engine]:
    with postgres_engine(files) as engine:
        yield engine


@pytest.fixture
def proxy(postgres: Engine) -> Iterator[Proxy]:
    with proxied(postgres.url) as proxy:
        yield proxy


@pytest.fixture
def remote(postgres: Engine, proxy: Proxy) -> Engine:
    """The same database, seen through a network that can fail."""
    return Engine("postgres", proxy.url, postgres.directory)


def test_a_database_in_an_encoding_that_refuses_texts_ends_the_start(files: Path) -> None:
    latin = new_database(options="ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    with latin as url, pytest.raises(SettingsError, match=r"^DATABASE_URL: .*encoding is LATIN1.*UTF8"):
        asyncio.run(connection.connect(url, {}, waits=True))


def test_an_unknown_parameter_of_the_url_is_named(postgres: Engine) -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: .*unknown parameter pool_size"):
        asyncio.run(connection.connect(f"{postgres.url}?pool_size=5", {}))


DEAD_ROWS = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'note'"


def test_rows_that_are_overwritten_do_not_pile_up(postgres: Engine) -> None:
    def overwrite(tx: Transaction, most: str) -> int:
        return tx.run("UPDATE note SET writer = writer + 1 WHERE id < :most", most=most)

    def dead_rows() -> int:
        return int(execute(postgres.url, DEAD_ROWS)[0][0])

    async def work(database: Database) -> None:
        execute(postgres.url, "ALTER TABLE note SET (autovacuum_enabled = off)")
        execute(postgres.url, "INSERT INTO note (id, writer) SELECT n::text, 0 FROM generate_series(10000, 21000) n")
        await database.write(partial(overwrite, most="11000"))
        eventually(dead_rows)
        await database.vacuum("note")
        assert dead_rows() == 1000  # not worth it yet
        await database.write(partial(overwrite, most="9"))
        eventually(lambda: dead_rows() > 10_000)
        await database.vacuum("note")
        eventually(lambda: dead_rows() == 0)

    postgres.run(work)


VACUUMED = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'note'"


def test_rows_that_an_old_transaction_still_sees_are_not_vacuumed_again_and_again(postgres: Engine) -> None:
    async def work(database: Database) -> None:
        execute(postgres.url, "ALTER TABLE note SET (autovacuum_enabled = off)")
        execute(postgres.url, "INSERT INTO note (id, writer) SELECT n::text, 0 FROM generate_series(1, 6000) n")
        with psycopg.connect(postgres.url) as old:
            old.execute("SELECT pg_current_xact_id()")  # until it ends, no VACUUM takes away what changes from here on
            await database.write(lambda tx: tx.run("UPDATE note SET writer = 1"))
            eventually(lambda: execute(postgres.url, DEAD_ROWS)[0][0] >= 6000)
            for _ in range(20):
                await database.vacuum("note")
        assert 1 <= execute(postgres.url, VACUUMED)[0][0] <= 5

    postgres.run(work)


def test_one_that_is_closed_while_it_connects_complains_of_nothing(
    postgres: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        database = await connection.connect(postgres.url, {})
        database.publish("hint")
        await asyncio.sleep(0)  # now it connects for hints
        await database.close()

    asyncio.run(work())
    assert caplog.messages == []


def adding_one_more(mark: str) -> Callable[[Transaction], str]:
    """A unit that adds a row of its own each time it runs."""
    return lambda tx: add(tx, f"{mark} {uuid.uuid4().hex}")


@pytest.mark.parametrize("is_answered", [False, True])
@pytest.mark.parametrize("size", [1, 5])
def test_a_unit_whose_commit_was_cut_off_is_never_run_again(
    remote: Engine, proxy: Proxy, size: int, is_answered: bool
) -> None:
    async def work(database: Database) -> tuple[list[Any], list[str]]:
        await asyncio.gather(*(database.write(adding_one_more("before")) for _ in range(20)))
        loss = proxy.lose(Loss(b"mark", is_answered=is_answered))
        writes = (database.write(adding_one_more(f"mark{number}")) for number in range(size))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert loss.has_happened
        await database.write(adding_one_more("after"))
        return outcomes, await database.read(ids)

    outcomes, found = remote.run(work)
    counts = Counter(id.split()[0] for id in found)
    assert counts["before"] == 20
    assert counts["after"] == 1
    for number, outcome in enumerate(outcomes):
        assert counts[f"mark{number}"] == 1, "it was on disk when the connection was cut"
        assert isinstance(outcome, Unavailable) or outcome in found
    assert is_answered or any(isinstance(outcome, Unavailable) for outcome in outcomes)


ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


async def asleep(engine: Engine, database: Database) -> "asyncio.Task[list[Any]]":
    """A write that is under way for a second."""
    write = asyncio.create_task(database.write(lambda tx: tx.all("SELECT pg_sleep(1)")))
    while execute(engine.url, ASLEEP) != [(1,)]:
        await asyncio.sleep(0.01)
    return write


def test_a_unit_that_was_given_up_before_its_turn_is_never_run(postgres: Engine) -> None:
    async def work(database: Database) -> list[str]:
        async with postgres.busy(database):
            with pytest.raises(Unavailable):
                await database.write(lambda tx: add(tx, "late"), seconds=0.3)
        await database.write(lambda tx: add(tx, "last"))
        return await database.read(ids)

    assert postgres.run(work) == ["last"]


def test_a_unit_that_is_held_up_does_not_hold_up_the_others(postgres: Engine) -> None:
    async def work(database: Database) -> None:
        slow = await asleep(postgres, database)
        for number in range(5):
            await database.write(lambda tx, id=str(number): add(tx, id))  # type: ignore[misc]
        assert not slow.done()
        await slow

    postgres.run(work)


def test_a_migration_may_take_longer_than_any_other_statement(postgres: Engine) -> None:
    (postgres.directory / "schema" / "0002.sql").write_text(f"SELECT pg_sleep({WRITE_SECONDS + 1});\n")

    async def start_two() -> list[list[str]]:
        databases = await asyncio.gather(postgres.connect(), postgres.connect())
        seen = [await database.read(ids) for database in databases]
        await asyncio.gather(*(database.close() for database in databases))
        return seen

    assert asyncio.run(start_two()) == [[], []]


def test_a_long_statement_is_not_taken_for_silence(postgres: Engine) -> None:
    async def work(database: Database) -> list[Any]:
        return await database.write(lambda tx: tx.all("SELECT pg_sleep(2.5)"), is_long=True)

    assert len(postgres.run(work)) == 1


KEPT = """
SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements
WHERE strpos(statement, 'FROM ' || 'note') > 0
"""


@pytest.mark.parametrize("way", ["write", "read"])
def test_a_statement_is_parsed_once_and_its_plan_is_kept(postgres: Engine, way: str) -> None:
    async def work(database: Database) -> tuple[Any, ...]:
        call = getattr(database, way)
        for number in range(10):
            await call(lambda tx, id=str(number): tx.one("SELECT id FROM note WHERE id = :id", id=id))
            await call(ids)
        row: tuple[Any, ...] = await call(lambda tx: tx.one(KEPT))
        return row

    assert postgres.run(work) == (0, 20)


# The planner works out what it believes to be immutable.
PLANNED_AT = """
CREATE FUNCTION planned_at() RETURNS TIMESTAMPTZ IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN clock_timestamp(); END'
"""


@pytest.mark.parametrize("way", ["write", "read"])
def test_a_plan_is_not_kept_for_long(postgres: Engine, way: str) -> None:
    async def work(database: Database) -> set[Any]:
        await database.write(lambda tx: tx.run(PLANNED_AT), is_long=True)
        seen, call, until = set(), getattr(database, way), time.monotonic() + 2.5 * PLANS_SECONDS
        while time.monotonic() < until:
            seen.add(await call(lambda tx: tx.one("SELECT planned_at(), CAST(:any AS BIGINT) * 0", any=1)))
            await asyncio.sleep(0.01)
        return seen

    assert len(postgres.run(work)) in (2, 3)


@pytest.mark.parametrize("way", ["write", "read"])
def test_what_is_cancelled_while_it_connects_can_be_closed(postgres: Engine, way: str) -> None:
    """As by a Ctrl-C in the middle of the start, which cancels all that is under way."""

    async def work() -> None:
        database = PostgreSQL(postgres.url)
        first = asyncio.create_task(getattr(database, way)(lambda tx: tx.one("SELECT 1")))
        for _ in range(3):  # it has begun to connect
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([first])
        async with asyncio.timeout(10):
            await database.close()

    asyncio.run(work())


@pytest.mark.parametrize("wrong_ms", [-60_000, 60_000])
def test_a_wrong_idea_of_the_servers_clock_is_put_right(postgres: Engine, wrong_ms: int) -> None:
    """As after a sleep of this process, or when the server's clock has been set."""

    async def work(database: Database) -> None:
        assert isinstance(database, PostgreSQL)
        before = await database.write(lambda tx: (add(tx, "before"), tx.now)[1])
        clock = database._writers._sessions._clock
        clock._ahead_ms += wrong_ms
        assert clock.supposed() is not None
        times = await asyncio.gather(*(database.write(lambda tx: tx.now) for _ in range(3)))
        assert all(before <= now < before + 5000 for now in times)

    postgres.run(work)


def test_the_supposed_clock_does_not_run_backwards_or_ahead(postgres: Engine) -> None:
    async def work(database: Database) -> None:
        last = 0
        for number in range(200):
            now = await database.write(lambda tx, id=str(number): (add(tx, id), tx.now)[1])  # type: ignore[misc]
            told = await database.read(lambda tx: tx.now)
            assert last <= now <= told
            last = now

    postgres.run(work)


END_ALL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def test_a_connection_that_was_lost_before_the_commit_costs_nobody_an_error(postgres: Engine) -> None:
    async def work(database: Database) -> list[str]:
        for _ in range(5):
            await asyncio.gather(*(database.write(adding_one_more("note")) for _ in range(30)))
            await asyncio.gather(*(database.read(ids) for _ in range(10)))
            await database.query(ids)
            execute(postgres.url, END_ALL)
        return await database.read(ids)

    assert len(postgres.run(work)) == 150


def test_a_process_that_was_cut_off_within_a_transaction_keeps_no_locks(
    postgres: Engine, remote: Engine, proxy: Proxy
) -> None:
    def cut_off(tx: Transaction) -> None:
        tx.lock("name")
        tx.all("SELECT id FROM note FOR UPDATE")
        proxy.swallow()
        tx.all("SELECT id FROM note")

    def lock(tx: Transaction) -> None:
        tx.lock("name")
        assert tx.all("SELECT id FROM note FOR UPDATE SKIP LOCKED") == [("a",)]

    async def work(database: Database) -> None:
        other = await postgres.connect()
        await other.write(lambda tx: add(tx, "a"))
        with pytest.raises(Unavailable):
            await database.write(cut_off)
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                with contextlib.suppress(Unavailable, AssertionError):
                    await other.write(lock)
                    break
                await asyncio.sleep(0.1)
        await other.close()

    remote.run(work)


@pytest.mark.parametrize(("size", "used"), [(1, 0), (3, 0), (1, 5)])
def test_who_waits_for_a_lock_is_not_told_that_the_server_is_silent(postgres: Engine, size: int, used: int) -> None:
    """As on a busy machine: whoever has it is not done for longer than a silence may last. Nor does anybody trip over
    a statement that psycopg would have prepared, as it does with what was `used` five times, behind the failure."""
    is_held, is_over = asyncio.Event(), threading.Event()

    async def work(database: Database) -> list[Any]:
        loop, other = asyncio.get_running_loop(), await postgres.connect()

        def hold(tx: Transaction) -> None:
            tx.lock("name")
            tx.all("SELECT id FROM note")
            loop.call_soon_threadsafe(is_held.set)
            is_over.wait(SILENT_LOOKS * LOOK_SECONDS + 1)

        def wait(tx: Transaction) -> list[str]:
            tx.lock("name")
            return ids(tx)

        def fail(tx: Transaction) -> None:
            tx.one("SELECT 1")
            raise ZeroDivisionError

        with contextlib.suppress(ZeroDivisionError):
            await database.write(fail)
        for _ in range(used):
            await database.write(wait)
        holding = asyncio.create_task(other.write(hold, seconds=None, is_long=True))
        await is_held.wait()
        waited = await asyncio.gather(*(database.write(wait) for _ in range(size)), return_exceptions=True)
        await holding
        await other.close()
        return waited

    assert postgres.run(work) == [[]] * size


def test_reads_that_wait_on_a_connection_that_is_given_up_are_done_again(postgres: Engine) -> None:
    """Once one connection is lost, the others are taken for lost as well."""
    end_writers = f"{END_ALL} AND query = 'COMMIT'"

    async def work(database: Database) -> list[Any]:
        await database.write(ids)
        await database.read(ids)
        slow = [asyncio.create_task(database.read(lambda tx: tx.all("SELECT pg_sleep(0.3)"))) for _ in range(3)]
        await asyncio.sleep(0)
        assert await asyncio.to_thread(execute, postgres.url, end_writers)
        await database.write(ids)
        async with asyncio.timeout(SETTLED_SECONDS):
            return await asyncio.gather(*slow, *(database.read(ids) for _ in range(3)))

    assert postgres.run(work) == [[("",)]] * 3 + [[]] * 3


@pytest.mark.parametrize("way", ["write", "read", "query"])
def test_a_server_that_falls_silent_is_left_and_found_again(remote: Engine, proxy: Proxy, way: str) -> None:
    async def work(database: Database) -> list[str]:
        call = getattr(database, way)
        await database.write(lambda tx: add(tx, "a"))
        await asyncio.gather(*(call(ids) for _ in range(10)))
        proxy.swallow()
        silent = await asyncio.gather(*(call(ids) for _ in range(10)), return_exceptions=True)
        assert {getattr(error, "code", error) for error in silent} == {"database_unavailable"}
        proxy.heal()
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                with contextlib.suppress(Unavailable):
                    return list(await call(ids))

    assert remote.run(work) == ["a"]


def test_what_was_found_out_writing_nobody_finds_out_again(remote: Engine, proxy: Proxy) -> None:
    async def work(database: Database) -> list[list[str]]:
        ways = (database.write, database.read, database.query)
        for way in ways:
            await way(ids)
        proxy.swallow()
        with pytest.raises(Unavailable):
            await database.write(ids, seconds=None)
        proxy.heal()
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                with contextlib.suppress(Unavailable):
                    await database.write(ids)
                    break
        return [await way(ids) for way in ways]

    assert remote.run(work) == [[], [], []]


def test_whoever_waits_as_long_as_it_takes_is_told_that_the_server_is_silent(remote: Engine, proxy: Proxy) -> None:
    async def work(database: Database) -> str:
        await database.write(ids)
        proxy.swallow()
        with pytest.raises(Unavailable) as caught:
            async with asyncio.timeout(SETTLED_SECONDS):
                await database.write(ids, seconds=None)
        proxy.heal()
        return caught.value.code

    assert remote.run(work) == "database_unavailable"


def test_closing_takes_no_longer_because_the_server_is_silent(remote: Engine, proxy: Proxy) -> None:
    async def work() -> None:
        database = await remote.connect()
        database.subscribe("told", lambda about: None)
        await asyncio.gather(*(way(ids) for way in (database.write, database.read, database.query)))
        proxy.swallow()
        stuck = [asyncio.create_task(way(ids)) for way in (database.write, database.read, database.query)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):  # foreman kills then
            await database.close()
        await asyncio.gather(*stuck, return_exceptions=True)

    asyncio.run(work())


async def heard(database: Database, other: Database, hint: str) -> None:
    """Returns once a hint of the one has reached the other."""
    is_heard = asyncio.Event()
    database.subscribe("told", lambda heard: is_heard.set() if heard == hint else None)
    async with asyncio.timeout(2 * PING_SECONDS + SETTLED_SECONDS):
        while not is_heard.is_set():
            other.publish(f"told {hint}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await is_heard.wait()


def end_listener(engine: Engine, proxy: Proxy) -> None:
    assert execute(engine.url, f"{END_ALL} AND query ~ 'LISTEN|pg_notify'")


def swallow_for_a_moment(engine: Engine, proxy: Proxy) -> None:
    proxy.swallow()
    time.sleep(0.5)
    proxy.heal()


BREAKS = {
    "ended": end_listener,
    "reset": lambda engine, proxy: proxy.cut(),
    "swallowed": lambda engine, proxy: swallow_for_a_moment(engine, proxy),
}


@pytest.mark.parametrize("how", BREAKS)
def test_hints_go_on_after_the_connection_that_listens_is_lost(
    postgres: Engine, remote: Engine, proxy: Proxy, how: str
) -> None:
    async def work(database: Database) -> None:
        other = await postgres.connect()
        other.subscribe("told", lambda about: None)
        await heard(database, other, "before")
        database.publish("told what may be lost with it")
        await asyncio.to_thread(BREAKS[how], postgres, proxy)
        database.publish("told more")
        await heard(database, other, "to it")
        await heard(other, database, "from it")
        await other.close()

    remote.run(work)


def test_hints_go_on_after_a_silence_in_which_nothing_was_published(
    postgres: Engine, remote: Engine, proxy: Proxy
) -> None:
    async def work(database: Database) -> None:
        other = await postgres.connect()
        await heard(database, other, "before")
        await asyncio.to_thread(swallow_for_a_moment, postgres, proxy)
        await heard(database, other, "after")
        await other.close()

    remote.run(work)


def test_a_session_is_woken_by_the_topics_that_it_listens_to_alone(postgres: Engine) -> None:
    async def work(database: Database) -> list[str]:
        with psycopg.connect(postgres.url, autocommit=True) as listening:
            listening.execute("LISTEN only_post_told")
            for hint in ("other", "told you", "another", "told"):
                database.publish(hint)
            news = await asyncio.to_thread(lambda: list(listening.notifies(timeout=20, stop_after=1)))
            return [hint for one in news for hint in one.payload.split("\n")[1:]]

    assert postgres.run(work) == ["told you", "told"]


MANY_FILES = """
import resource
async def main(engine):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = [open("/dev/null") for _ in range(1100)]  # as many as a web process with long polls has
    one, other = await engine.connect(), await engine.connect()
    heard = asyncio.Event()
    one.subscribe("told", lambda about: heard.set())
    other.subscribe("told", lambda about: None)
    async with asyncio.timeout(20):
        while not heard.is_set():
            other.publish("told")
            await asyncio.sleep(0.05)
    await one.close()
    await other.close()
    print("heard")
"""


def test_hints_are_heard_by_a_process_with_thousands_of_connections(postgres: Engine) -> None:
    assert postgres.start(MANY_FILES).communicate(timeout=60)[0] == "heard\n"


def test_one_that_is_last_does_not_wait_for_a_lock_that_another_waits_for(postgres: Engine) -> None:
    def locking(tx: Transaction) -> None:
        tx.lock("a name")
        add(tx, "a")

    async def work(database: Database) -> list[str]:
        with psycopg.connect(postgres.url) as holder:
            holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('a name', 0))")
            waiting = asyncio.create_task(database.write(locking, seconds=None))
            async with asyncio.timeout(20):
                await database.write(lambda tx: add(tx, "last"), is_last=True)
            found = await database.read(ids)
        await waiting
        return found

    assert postgres.run(work) == ["last"]
