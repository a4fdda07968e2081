"""What every engine promises."""

import asyncio
import contextlib
import gc
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.database import Database, Transaction, Unit, Unstorable, connection, listed, migrate
from shared.database.jobs import ENOUGH, MAX_TURNS, Gathering
from shared.database.sqlite import WRITE_SECONDS
from shared.errors import Conflict, ExceptionHandler, Unavailable
from shared.settings import SettingsError
from tests.processes import eventually
from tests.shared.engines import Engine, sqlite_engine
from tests.shared.notes import ADD, add, ids
from tests.shared.test_errors import answered


def adding(id: str) -> Unit[str]:
    return lambda tx: add(tx, id)


def test_a_write_gives_the_units_value(engine: Engine) -> None:
    async def work(database: Database) -> str:
        return await database.write(adding("a"))

    assert engine.run(work) == "a"


def test_what_was_written_is_seen_by_another_connection_at_once(engine: Engine) -> None:
    async def work(database: Database) -> list[list[str]]:
        other = await engine.connect()
        seen = []
        for id in "abcde":
            await database.write(adding(id))
            seen.append(await other.read(ids))
        await other.close()
        return seen

    assert engine.run(work) == [list("abcde"[:count]) for count in range(1, 6)]


def test_what_was_written_is_there_after_closing_and_opening(engine: Engine) -> None:
    async def write(database: Database) -> None:
        await database.write(adding("a"))

    async def read(database: Database) -> list[str]:
        return await database.read(ids)

    engine.run(write)
    assert engine.run(read) == ["a"]


def test_rows_values_and_counts_come_back(engine: Engine) -> None:
    def unit(tx: Transaction) -> list[Any]:
        add(tx, "a", 2**63 - 1)
        add(tx, "é😀'\";--", -(2**63))
        return [
            tx.all("SELECT id, writer FROM note ORDER BY writer"),
            tx.one("SELECT writer FROM note WHERE id = :id", id="a"),
            tx.one("SELECT writer FROM note WHERE id = :id", id="none"),
            tx.one("UPDATE note SET writer = 1 WHERE id = :id RETURNING writer", id="a"),
            tx.run("UPDATE note SET writer = 2"),
            tx.run("DELETE FROM note WHERE id = :id", id="none"),
        ]

    async def work(database: Database) -> list[Any]:
        return await database.write(unit)

    rows = [("é😀'\";--", -(2**63)), ("a", 2**63 - 1)]
    assert engine.run(work) == [rows, (2**63 - 1,), None, (1,), 2, 0]


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "read"])
def test_a_refused_unit_is_let_go_of_with_its_answer(engine: Engine, is_written: bool) -> None:
    """And with it a request's body, without a garbage collector."""

    class Held:
        pass

    def refusing(held: Held) -> Unit[None]:
        def unit(tx: Transaction) -> None:
            ids(tx)
            raise Conflict("refused", repr(held))

        return unit

    async def work(database: Database) -> int:
        held = []

        async def app(*_: Any) -> None:
            one = Held()
            held.append(weakref.ref(one))
            await (database.write if is_written else database.read)(refusing(one))

        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(answered(ExceptionHandler(app), type="http", path="/") for _ in range(5)))
            return sum(one() is not None for one in held)
        finally:
            gc.enable()

    assert engine.run(work) == 0


def test_what_a_unit_expects_is_so_or_it_leaves_nothing(engine: Engine) -> None:
    """Each unit gets its own error, and those beside it commit."""

    def expecting(id: str, found: int, changed: int) -> Unit[str]:
        def unit(tx: Transaction) -> str:
            tx.put(ADD, id=id, writer=7)
            tx.expect(found, Conflict("found", id), "SELECT id FROM note WHERE id = :id FOR UPDATE", id=id)
            tx.expect(changed, Conflict("changed", id), "UPDATE note SET writer = 8 WHERE id = :id", id=id)
            tx.put(ADD, id=f"{id}2", writer=9)
            return id

        return unit

    async def work(database: Database) -> tuple[list[Any], list[str]]:
        units = [expecting("a", 1, 1), expecting("b", 2, 1), expecting("c", 1, 0), expecting("d", 1, 1)]
        return await grouped(engine, database, units), await database.read(ids)

    outcomes, found = engine.run(work)
    assert found == ["a", "a2", "d", "d2"]
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == ["a", "found", "changed", "d"]


def test_rows_may_be_asked_for_within_a_unit_or_once_it_is_committed(engine: Engine) -> None:
    def unit(tx: Transaction) -> tuple[list[Any], Callable[[], list[Any]]]:
        tx.put(ADD, id="a", writer=1)
        found = tx.later("SELECT writer FROM note")
        changed = tx.later("UPDATE note SET writer = writer + 1 RETURNING writer")
        return found(), changed

    async def work(database: Database) -> tuple[list[Any], list[Any]]:
        found, changed = await database.write(unit)
        return found, changed()

    assert engine.run(work) == ([(1,)], [(2,)])


@pytest.mark.parametrize("way", ["read", "write"])
@pytest.mark.parametrize(("values", "count"), [([], 0), (["a"], 1), (["b", "a", "z"], 2)])
def test_rows_are_those_in_a_list_or_the_others_however_short_it_is(
    engine: Engine, values: list[str], count: int, way: str
) -> None:
    def unit(tx: Transaction) -> list[int]:
        names, of_names = listed("id", values)
        return [len(tx.all(f"SELECT 1 FROM note WHERE id {which} {names}", **of_names)) for which in ("IN", "NOT IN")]

    async def work(database: Database) -> list[int]:
        await asyncio.gather(*map(database.write, map(adding, "abc")))
        found: list[int] = await getattr(database, way)(unit)
        return found

    assert engine.run(work) == [count, 3 - count]


def test_a_read_may_expect_too(engine: Engine) -> None:
    def unit(tx: Transaction) -> None:
        tx.expect(1, Conflict("none", "there is none"), "SELECT 1 FROM note")

    async def work(database: Database) -> None:
        await database.read(unit)

    with pytest.raises(Conflict):
        engine.run(work)


@pytest.mark.parametrize("count", [1, 2, 33, 100])
def test_rows_that_are_put_one_by_one_are_all_there_when_a_unit_asks(engine: Engine, count: int) -> None:
    """Whatever their values are, and those of other units beside them."""

    def unit(tx: Transaction, mark: str) -> list[Any]:
        for number in range(count):
            tx.put(ADD, id=f"{mark}'{number:03}\\\"{{,}}", writer=number)
        return tx.all("SELECT writer FROM note WHERE id >= :mark AND id < :mark || 'z' ORDER BY id", mark=mark)

    async def work(database: Database) -> list[list[Any]]:
        return await grouped(engine, database, [partial(unit, mark=mark) for mark in "abc"])

    assert engine.run(work) == [[(number,) for number in range(count)]] * 3


def test_a_row_that_can_not_be_put_is_its_own_units_fault(engine: Engine) -> None:
    def put(id: Any) -> Unit[None]:
        return lambda tx: tx.put(ADD, id=id, writer=1 if id else None)

    async def work(database: Database) -> tuple[list[Any], list[str]]:
        units = [put("a"), put("lone \ud800"), put("b"), put(None), put("b"), put("c")]
        return await grouped(engine, database, units), await database.read(ids)

    outcomes, found = engine.run(work)
    assert found == ["a", "b", "c"]
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        Unstorable,
        type(None),
        *[Unavailable] * 2,
        type(None),
    ]


def test_a_unit_sees_what_it_wrote_itself(engine: Engine) -> None:
    async def work(database: Database) -> list[str]:
        return await database.write(lambda tx: [add(tx, "a"), *ids(tx)])

    assert engine.run(work) == ["a", "a"]


def test_the_clock_stands_still_within_a_unit_and_tells_the_time(engine: Engine) -> None:
    def unit(tx: Transaction) -> tuple[int, int]:
        before = tx.now
        time.sleep(0.01)
        return before, tx.now

    async def work(database: Database) -> tuple[int, int]:
        return await database.write(unit)

    before, after = engine.run(work)
    assert before == after
    assert abs(before - time.time() * 1000) < 10_000


def test_a_read_sees_the_clock_go_on(engine: Engine) -> None:
    async def work(database: Database) -> tuple[int, int]:
        first = await database.read(lambda tx: tx.now)
        await asyncio.sleep(0.01)
        return first, await database.read(lambda tx: tx.now)

    first, second = engine.run(work)
    assert first < second


def test_all_statements_of_a_query_see_one_snapshot(engine: Engine) -> None:
    is_between, may_go_on = threading.Event(), threading.Event()

    def unit(tx: Transaction) -> list[list[str]]:
        before = ids(tx)
        is_between.set()
        assert may_go_on.wait(10)
        return [before, ids(tx)]

    async def work(database: Database) -> list[list[str]]:
        query = asyncio.create_task(database.query(unit))
        await asyncio.to_thread(is_between.wait, 10)
        await database.write(adding("a"))
        may_go_on.set()
        return await query

    assert engine.run(work) == [[], []]


def test_a_query_that_takes_long_stops_nobody_else(engine: Engine) -> None:
    may_go_on = threading.Event()

    async def work(database: Database) -> list[str]:
        query = asyncio.create_task(database.query(lambda tx: may_go_on.wait(10)))
        await asyncio.sleep(0)
        await database.write(adding("a"))
        seen = await database.read(ids)
        may_go_on.set()
        await query
        return seen

    assert engine.run(work) == ["a"]


SLOW_SECONDS = 2.5


def test_a_query_and_a_patient_write_may_take_long(engine: Engine) -> None:
    def slow(tx: Transaction) -> list[str]:
        threading.Event().wait(SLOW_SECONDS)
        return ids(tx)

    async def work(database: Database) -> list[list[str]]:
        return [await database.query(slow), await database.write(slow, seconds=None, is_long=True)]

    assert engine.run(work) == [[], []]


def test_a_long_write_keeps_nobody_from_reading(engine: Engine) -> None:
    is_under_way, may_go_on = threading.Event(), threading.Event()

    def long(tx: Transaction) -> str:
        is_under_way.set()
        assert may_go_on.wait(10)
        return add(tx, "long")

    async def work(database: Database) -> list[list[str]]:
        before = asyncio.create_task(database.write(adding("before")))
        write = asyncio.create_task(database.write(long, is_long=True))
        await asyncio.to_thread(is_under_way.wait, 10)
        after = asyncio.create_task(database.write(adding("after")))
        seen = [await database.read(ids), await database.query(ids)]
        may_go_on.set()
        await asyncio.gather(before, write, after)
        return [*seen, await database.read(ids)]

    *seen, found = engine.run(work)
    assert all("long" not in each for each in seen)
    assert found == ["after", "before", "long"]


@pytest.mark.parametrize("way", ["read", "query"])
def test_reading_can_not_write(engine: Engine, way: str) -> None:
    async def work(database: Database) -> list[str]:
        with pytest.raises(Unavailable):
            await getattr(database, way)(adding("a"))
        await database.write(adding("b"))
        return await database.read(ids)

    assert engine.run(work) == ["b"]


@pytest.mark.parametrize("way", ["read", "query"])
def test_an_exception_of_a_reading_unit_reaches_its_caller(engine: Engine, way: str) -> None:
    def unit(tx: Transaction) -> None:
        raise KeyError("mine")

    async def work(database: Database) -> list[str]:
        with pytest.raises(KeyError, match="mine"):
            await getattr(database, way)(unit)
        return list(await getattr(database, way)(ids))

    assert engine.run(work) == []


class Guilty(Exception):
    pass


def raises_at_once(tx: Transaction) -> None:
    raise Guilty


def raises_after_reading(tx: Transaction) -> None:
    ids(tx)
    raise Guilty


def raises_after_writing(tx: Transaction) -> None:
    add(tx, "guilty")
    raise Guilty


def raises_after_returning(tx: Transaction) -> None:
    tx.one(ADD + " RETURNING id", id="guilty", writer=0)
    raise Guilty


def raises_after_making_a_table(tx: Transaction) -> None:
    tx.run("CREATE TABLE guilty (id TEXT)")
    raise Guilty


def breaks_a_constraint(tx: Transaction) -> None:
    add(tx, "guilty")
    add(tx, "guilty")


def breaks_the_language(tx: Transaction) -> None:
    add(tx, "guilty")
    tx.run("THIS IS NO SQL")


def gives_a_number_too_large(tx: Transaction) -> None:
    add(tx, "guilty")
    tx.run(ADD, id="large", writer=2**63)


OWN = [raises_at_once, raises_after_reading, raises_after_writing, raises_after_returning, raises_after_making_a_table]
ALL = [*OWN, breaks_a_constraint, breaks_the_language, gives_a_number_too_large]


@pytest.mark.parametrize("guilty", ALL)
def test_a_long_write_that_fails_leaves_nothing_and_the_next_is_kept(engine: Engine, guilty: Unit[None]) -> None:
    async def work(database: Database) -> list[str]:
        with pytest.raises((Guilty, Unavailable, Unstorable)):
            await database.write(guilty, is_long=True)
        await database.write(adding("next"), is_long=True)
        return await database.read(ids)

    assert engine.run(work) == ["next"]


@pytest.mark.parametrize("guilty", OWN)
def test_an_exception_of_a_unit_reaches_its_caller(engine: Engine, guilty: Unit[None]) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(Guilty):
            await database.write(guilty)

    engine.run(work)


def tables(tx: Transaction, engine: Engine) -> set[str]:
    names = {"sqlite": "SELECT name FROM sqlite_master"}.get(
        engine.name, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    )
    return {row[0] for row in tx.all(names)}


async def grouped(engine: Engine, database: Database, units: list[Unit[Any]]) -> list[Any]:
    """What became of each of them, all given to the database while it was busy."""
    async with engine.busy(database):
        writes = [asyncio.create_task(database.write(unit)) for unit in units]
        await asyncio.sleep(0.02)
    return await asyncio.gather(*writes, return_exceptions=True)


@pytest.mark.parametrize("guilty", ALL)
def test_a_unit_that_fails_leaves_nothing_and_its_neighbours_are_kept(engine: Engine, guilty: Unit[None]) -> None:
    async def work(database: Database) -> tuple[list[Any], list[str], set[str]]:
        outcomes = await grouped(engine, database, [adding("a"), adding("b"), guilty, adding("c")])
        found = await database.read(ids)
        return outcomes, found, await database.read(lambda tx: tables(tx, engine))

    outcomes, found, names = engine.run(work)
    assert [outcomes[0], outcomes[1], outcomes[3]] == ["a", "b", "c"]
    assert isinstance(outcomes[2], Exception)
    assert found == ["a", "b", "c"]
    assert "guilty" not in names


def test_of_many_failing_units_each_sees_its_own_exception(engine: Engine) -> None:
    def failing(number: int) -> Unit[None]:
        def unit(tx: Transaction) -> None:
            add(tx, f"guilty {number}")
            raise Guilty(number)

        return unit

    async def work(database: Database) -> tuple[list[Any], list[str]]:
        units: list[Unit[Any]] = [failing(n) if n % 2 else adding(f"{n:02}") for n in range(20)]
        return await grouped(engine, database, units), await database.read(ids)

    outcomes, found = engine.run(work)
    assert [error.args[0] for error in outcomes[1::2]] == list(range(1, 20, 2))
    assert outcomes[::2] == found == [f"{n:02}" for n in range(0, 20, 2)]


def test_a_unit_may_be_run_again_and_its_writes_count_once(engine: Engine) -> None:
    runs = 0

    def counted(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        return tx.run(ADD, id="once", writer=0)

    async def work(database: Database) -> tuple[list[Any], list[str]]:
        return await grouped(engine, database, [counted, raises_after_writing]), await database.read(ids)

    outcomes, found = engine.run(work)
    assert (outcomes[0], found) == (1, ["once"])
    assert runs >= 1


def test_a_caller_that_left_before_its_turn_changes_nothing(engine: Engine) -> None:
    async def work(database: Database) -> list[str]:
        async with engine.busy(database):
            left = asyncio.create_task(database.write(adding("left")))
            guilty = asyncio.create_task(database.write(raises_after_writing))
            stayed = asyncio.create_task(database.write(adding("stayed")))
            await asyncio.sleep(0.02)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
        await asyncio.gather(guilty, stayed, return_exceptions=True)
        return await database.read(ids)

    assert engine.run(work) == ["stayed"]


def test_thousands_of_writes_at_once_are_all_kept(engine: Engine) -> None:
    async def work(database: Database) -> int:
        await asyncio.gather(*(database.write(adding(str(number))) for number in range(3000)))
        return len(await database.query(ids))

    assert engine.run(work) == 3000


WRITERS = 4
EACH = 250

WRITE_MANY = """
async def main(engine, writer, each):
    database = await engine.connect()
    for start in range(0, each, 10):
        numbers = range(start, start + 10)
        await asyncio.gather(*(database.write(lambda tx, n=n: add(tx, f"{writer} {n}", writer)) for n in numbers))
        await database.read(lambda tx: tx.one("SELECT count(*) FROM note"))
    await database.close()
    print("done")
"""


def test_writers_in_many_processes_lose_nothing_and_never_fail(engine: Engine) -> None:
    engine.run(lambda database: asyncio.sleep(0))
    processes = [engine.start(WRITE_MANY, writer=writer, each=EACH) for writer in range(WRITERS)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * WRITERS

    async def work(database: Database) -> list[Any]:
        return await database.query(lambda tx: tx.all("SELECT writer, count(*) FROM note GROUP BY writer ORDER BY 1"))

    assert engine.run(work) == [(writer, EACH) for writer in range(WRITERS)]
    assert_sound(engine)


WRITE_UNTIL_KILLED = """
async def main(engine):
    database = await engine.connect()
    for number in range(10**9):
        await database.write(lambda tx: add(tx, f"{number:09}"))
        print(f"{number:09}", flush=True)
"""


def test_what_a_killed_process_was_told_is_written_is_there(engine: Engine) -> None:
    process = engine.start(WRITE_UNTIL_KILLED)
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(200)]
    process.kill()
    told += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()

    async def work(database: Database) -> list[str]:
        await database.write(adding("z: and others go on"))
        return await database.read(ids)

    kept = engine.run(work)
    assert set(told) <= set(kept)
    assert len(kept) <= len(set(told)) + 2  # at most one more was on its way to its caller
    assert_sound(engine)


def assert_sound(engine: Engine) -> None:
    if engine.name == "sqlite":
        with contextlib.closing(sqlite3.connect(engine.url.removeprefix("sqlite:///"))) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


START_AND_READ = """
async def main(engine):
    database = await engine.connect()
    print((await database.read(lambda tx: tx.one("SELECT count(*) FROM note")))[0])
    await database.close()
"""


def test_four_that_start_at_once_apply_each_migration_once(engine: Engine) -> None:
    second = "INSERT INTO note (id, writer) VALUES ('first', 1);\nINSERT INTO note (id, writer) VALUES ('second', 2);\n"
    (engine.directory / "schema" / "0002.sql").write_text(second)
    processes = [engine.start(START_AND_READ) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["2\n"] * 4


def test_a_migration_that_comes_later_is_applied_to_what_is_there(engine: Engine) -> None:
    async def write(database: Database) -> None:
        await database.write(adding("a"))

    async def read(database: Database) -> Any:
        return await database.read(lambda tx: tx.one("SELECT id, colour FROM note"))

    engine.run(write)
    (engine.directory / "schema" / "0002.sql").write_text("ALTER TABLE note ADD COLUMN colour TEXT;\n")
    assert engine.run(read) == ("a", None)


def test_what_one_engine_alone_needs_comes_after_what_all_have(engine: Engine) -> None:
    schema = engine.directory / "schema"
    (schema / "0002.sql").write_text("CREATE TABLE later (engine TEXT);\n")
    (schema / "0002.postgresql.sql").write_text("INSERT INTO later VALUES ('postgres');\n")
    (schema / "0002.sqlite.sql").write_text("INSERT INTO later VALUES ('sqlite');\n")

    async def read(database: Database) -> Any:
        return await database.read(lambda tx: tx.all("SELECT engine FROM later"))

    assert engine.run(read) == [(engine.name,)]


def test_texts_compare_by_their_bytes_whatever_stands_before_their_table(engine: Engine) -> None:
    """A server sorts by its language, and an index in one order serves nobody who asks in another."""
    (engine.directory / "schema" / "0002.sql").write_text("-- Why.\n-- And how.\nCREATE TABLE later (id TEXT);\n")
    sql = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'later' AND collation_name = 'C'"

    async def read(database: Database) -> Any:
        return await database.read(lambda tx: tx.one(sql) if database.dialect == "postgresql" else (1,))

    assert engine.run(read) == (1,)


def test_a_migration_that_fails_leaves_nothing_behind(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0001.sql").write_text("CREATE TABLE half (id TEXT);\nTHIS IS NO SQL;\n")

    async def work(database: Database) -> set[str]:
        with pytest.raises(Unavailable):
            await migrate(database, "broken", broken)
        return await database.read(lambda tx: tables(tx, engine))

    assert "half" not in engine.run(work)


@pytest.mark.parametrize("way", ["write", "read", "query"])
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "closing"])
def test_from_close_on_units_are_refused_as_shutting_down(engine: Engine, way: str, is_closed: bool) -> None:
    async def work() -> Unavailable:
        database = await engine.connect()
        await database.read(ids)
        closing = asyncio.create_task(database.close())
        await asyncio.wait([closing], timeout=None if is_closed else 0)
        with pytest.raises(Unavailable) as caught:
            await getattr(database, way)(ids)
        await closing
        return caught.value

    refused = asyncio.run(work())
    assert (refused.status, refused.code) == (503, "shutting_down")
    assert int(refused.headers["Retry-After"]) >= 1


def test_close_waits_for_what_is_under_way(engine: Engine) -> None:
    async def work() -> list[str]:
        database = await engine.connect()
        writes = [asyncio.create_task(database.write(adding(id))) for id in "abc"]
        await asyncio.sleep(0)
        await database.close()
        return await asyncio.gather(*writes)

    assert asyncio.run(work()) == ["a", "b", "c"]
    assert engine.run(lambda database: database.read(ids)) == ["a", "b", "c"]


@pytest.mark.parametrize("way", ["read", "query"])
def test_a_look_that_close_overtakes_has_its_rows_or_is_refused_as_shutting_down(engine: Engine, way: str) -> None:
    async def work() -> list[Any]:
        database = await engine.connect()
        await database.write(adding("a"))
        looks = [asyncio.create_task(getattr(database, way)(ids)) for _ in range(3)]
        await asyncio.sleep(0)
        await database.close()
        return [getattr(one, "code", one) for one in await asyncio.gather(*looks, return_exceptions=True)]

    assert all(one in (["a"], "shutting_down") for one in asyncio.run(work()))


PUBLISH = """
async def main(engine, hint):
    database = await engine.connect()
    heard = asyncio.Event()
    database.subscribe("enough", lambda about: heard.set())
    while not heard.is_set():
        database.publish(hint)
        await asyncio.sleep(0.02)
    await database.close()
"""


async def heard_within(database: Database, hint: str, seconds: float = 10) -> None:
    heard = asyncio.Event()
    topic, _, about = hint.partition(" ")
    database.subscribe(topic, lambda other: heard.set() if other == about else None)
    async with asyncio.timeout(seconds):
        await heard.wait()


def test_a_hint_reaches_its_own_process(engine: Engine) -> None:
    async def work(database: Database) -> None:
        heard = asyncio.create_task(heard_within(database, "queued"))
        await asyncio.sleep(0)
        database.publish("queued")
        await heard

    engine.run(work)


def test_hints_reach_another_process_and_come_back(engine: Engine) -> None:
    async def work(database: Database) -> None:
        process = engine.start(PUBLISH, hint="ended é 1")
        await heard_within(database, "ended é 1", 20)
        while process.poll() is None:
            database.publish("enough")
            await asyncio.sleep(0.02)
        process.communicate()
        assert process.returncode == 0

    engine.run(work)


def test_a_topic_that_is_subscribed_to_later_is_heard_as_well(engine: Engine) -> None:
    async def work(database: Database) -> None:
        first = engine.start(PUBLISH, hint="first")
        await heard_within(database, "first", 20)
        second = engine.start(PUBLISH, hint="second of many")
        await heard_within(database, "second of many", 20)
        while first.poll() is None or second.poll() is None:
            database.publish("enough")
            await asyncio.sleep(0.02)
        assert [process.communicate()[0] for process in (first, second)] == ["", ""]

    engine.run(work)


def test_hints_of_other_topics_are_not_heard(engine: Engine) -> None:
    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("told", heard.append)
        for hint in ("tol d", "toldyou", "told you", "untold", "told"):
            database.publish(hint)
        await asyncio.sleep(0)
        return heard

    assert engine.run(work) == ["you", ""]


# A transaction that supposes the time, and was held up meanwhile, is run again, each unit alone. Where there is none to
# suppose, it asks the server first.
SUPPOSED_TIME = "shared.database.postgres.clock.Clock.supposed"


@pytest.mark.parametrize("is_long", [False, True])
def test_a_units_hint_goes_out_with_its_commit_and_before_the_next_unit_begins(
    engine: Engine, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.postgres.lanes.HELD_UP_SECONDS", 1000.0)  # however slow the commit is

    async def work(database: Database) -> list[list[str]]:
        heard: list[str] = []
        during: list[list[str]] = []
        database.subscribe("added", heard.append)

        def unit(tx: Transaction) -> None:
            add(tx, "a")
            tx.publish("added a")
            during.append(list(heard))

        first = asyncio.create_task(database.write(unit, is_long=is_long))
        while not during:
            await asyncio.sleep(0)
        next_one = asyncio.create_task(database.write(lambda tx: list(heard)))
        await first
        return [*during, list(heard), await next_one]

    during, after, in_next = engine.run(work)
    assert (during, after) == ([], ["a"])
    if not is_long:  # beside one that is, others go on
        assert in_next == ["a"]


def test_the_hint_of_a_unit_that_leaves_nothing_behind_is_never_heard(engine: Engine) -> None:
    def failing(tx: Transaction) -> None:
        tx.publish("written not at all")
        add(tx, "a")
        raise Conflict("refused", "no")

    def speaking(tx: Transaction) -> None:
        tx.publish("written b")
        add(tx, "b")

    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("written", heard.append)
        together = (database.write(unit) for unit in (failing, speaking))
        await asyncio.gather(*together, return_exceptions=True)
        return heard

    assert engine.run(work) == ["b"]


def test_a_unit_that_is_last_runs_behind_the_others_of_its_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more wait than one group takes, and behind long ones: it waits for none of a later group."""
    monkeypatch.setattr("shared.database.sqlite.LOOP_SECONDS", 0)
    monkeypatch.setattr(SUPPOSED_TIME, lambda clock: None)
    transactions: list[Transaction] = []  # of the others
    looks: list[tuple[Transaction, int, int]] = []

    def look(tx: Transaction) -> None:
        looks.append((tx, transactions.count(tx), len(ids(tx))))
        tx.republish("added", "added seen")
        tx.republish("added unheard", "added unmade")

    def adding_one(id: str) -> Unit[None]:
        def unit(tx: Transaction) -> None:
            add(tx, id)
            tx.publish("added")
            transactions.append(tx)

        return unit

    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("added", heard.append)
        async with engine.busy(database):
            first = asyncio.create_task(database.write(look, is_last=True))
            await asyncio.sleep(0)
            others = [asyncio.create_task(database.write(adding_one(f"{number}"))) for number in range(400)]
            others.append(asyncio.create_task(database.write(adding_one("long"), is_long=True)))
            await asyncio.sleep(0)
        await asyncio.gather(first, *others)
        return heard

    heard = engine.run(work)
    ((tx, before, seen),) = looks
    assert transactions.count(tx) == before
    assert seen >= before > 0
    assert len(transactions) > before
    assert (heard.count("seen"), set(heard)) == (1, {"seen", ""})


def test_one_that_is_last_and_fails_harms_no_other_and_changes_no_hint(engine: Engine) -> None:
    def failing(tx: Transaction) -> None:
        tx.republish("added", "added seen")
        raise Conflict("refused", "no")

    def speaking(tx: Transaction) -> None:
        add(tx, "a")
        tx.publish("added")

    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("added", heard.append)
        both = (database.write(failing, is_last=True), database.write(speaking))
        await asyncio.gather(*both, return_exceptions=True)
        return [*heard, *await database.read(ids)]

    assert engine.run(work) == ["", "a"]


def test_units_that_follow_each_other_at_once_share_a_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.sqlite.LOOP_SECONDS", 1000.0)  # however slow the machine is
    monkeypatch.setattr(SUPPOSED_TIME, lambda clock: None)
    transactions: list[Transaction] = []

    async def work(database: Database) -> None:
        await database.write(adding("before"))
        writes = []
        for _ in range(4):
            writes.append(asyncio.create_task(database.write(transactions.append)))
            await asyncio.sleep(0)
        await asyncio.gather(*writes)

    engine.run(work)
    assert len(set(map(id, transactions))) == 1


def test_a_group_begins_though_units_go_on_coming_in() -> None:
    gathering = Gathering()
    counts = [1 + turn // 2 for turn in range(MAX_TURNS)]
    assert [gathering.is_over(count) for count in counts] == [False] * (MAX_TURNS - 1) + [True]
    assert gathering.is_over(ENOUGH)
    assert [gathering.is_over(1) for _ in range(3)] == [False, False, True]


def test_what_waits_when_it_is_closed_is_still_written(engine: Engine) -> None:
    async def work() -> list[str]:
        database = await engine.connect()
        write = asyncio.create_task(database.write(adding("a")))
        await asyncio.sleep(0)
        await database.close()
        await write
        other = await engine.connect()
        found = await other.read(ids)
        await other.close()
        return found

    assert asyncio.run(work()) == ["a"]


def test_a_subscriber_that_raises_harms_neither_the_others_nor_the_write(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("added", lambda about: [][0])
        database.subscribe("added", heard.append)

        def unit(tx: Transaction) -> None:
            add(tx, "a")
            tx.publish("added a")

        await asyncio.gather(database.write(unit), database.write(adding("b")))
        await database.write(adding("c"))
        assert await database.read(ids) == ["a", "b", "c"]
        return heard

    assert engine.run(work) == ["a"]
    assert "hints.not_heard" in caplog.text


def test_a_thousand_hints_at_once_all_arrive_where_they_were_published(engine: Engine) -> None:
    async def work(database: Database) -> set[str]:
        heard: set[str] = set()
        database.subscribe("ended", heard.add)
        for number in range(1000):
            database.publish(f"ended {number}")
        async with asyncio.timeout(10):
            while len(heard) < 1000:
                await asyncio.sleep(0.01)
        return heard

    assert engine.run(work) == {f"{number}" for number in range(1000)}


@pytest.fixture
def sqlite(files: Path) -> Iterator[Engine]:
    with sqlite_engine(files) as engine:
        yield engine


OPEN_AND_WAIT = """
async def main(engine):
    database = await engine.connect()
    print("open", flush=True)
    await asyncio.sleep(60)
"""


def hints_of(sqlite: Engine) -> Path:
    return sqlite.directory / "notes.db-hints"


def sockets(sqlite: Engine) -> list[Path]:
    return list(hints_of(sqlite).glob("*"))


def test_the_socket_of_a_killed_process_is_cleared_away(sqlite: Engine) -> None:
    process = sqlite.start(OPEN_AND_WAIT)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    process.kill()
    process.communicate()
    assert len(sockets(sqlite)) == 1

    async def work(database: Database) -> None:
        database.publish("anyone?")
        async with asyncio.timeout(10):
            while len(sockets(sqlite)) > 1:
                await asyncio.sleep(0.01)

    sqlite.run(work)
    assert sockets(sqlite) == []


def test_the_directory_of_hints_is_its_owners_alone_and_goes_with_the_last(sqlite: Engine) -> None:
    async def mode(database: Database) -> int:
        return hints_of(sqlite).stat().st_mode & 0o777

    assert sqlite.run(mode) == 0o700
    assert not hints_of(sqlite).exists()


def heard_from_another_process(engine: Engine) -> None:
    async def work(database: Database) -> None:
        process = engine.start(PUBLISH, hint="there")
        await heard_within(database, "there", 20)
        process.kill()
        process.communicate()

    engine.run(work)


def test_hints_need_no_temporary_directory_and_no_short_path(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    deep = files.joinpath(*["a directory with a long name"] * 6)
    shutil.copytree(files / "schema", deep / "schema")
    with sqlite_engine(deep) as engine:
        heard_from_another_process(engine)


def another_users(directory: Path) -> None:
    directory.mkdir(0o777)
    directory.chmod(0o777)


def a_link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir(0o700)
    directory.symlink_to(directory.parent / "elsewhere")


@pytest.mark.parametrize("make", [another_users, a_link, Path.touch])
def test_what_another_user_put_in_the_place_of_the_hints_is_left_alone_and_told(
    sqlite: Engine, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(hints_of(sqlite))

    async def work(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("told", heard.append)
        database.publish("told here")
        await asyncio.sleep(0)
        return heard

    assert sqlite.run(work) == ["here"]
    assert [record.message for record in caplog.records] == ["hints.unavailable"]
    assert not list(sqlite.directory.glob("*/????????????"))  # no socket


def removed(file: Path) -> None:
    file.unlink()


def moved(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replaced(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    copy.replace(file)


@pytest.mark.parametrize("lose", [removed, moved, replaced])
@pytest.mark.parametrize("suffix", ["", "-wal", "-lock"])
def test_a_file_that_was_lost_under_the_process_takes_no_write(
    sqlite: Engine, suffix: str, lose: Callable[[Path], None]
) -> None:
    async def work(database: Database) -> None:
        await database.write(adding("before"))
        lose(sqlite.directory / f"notes.db{suffix}")
        for is_long in (False, True):
            with pytest.raises(Unavailable):
                await database.write(adding(f"after {is_long}"), is_long=is_long)
        if not suffix:
            for look in (database.read, database.query):
                with pytest.raises(Unavailable):
                    await look(ids)

    sqlite.run(work)


def test_a_file_that_was_moved_away_and_back_is_written_again(sqlite: Engine) -> None:
    async def work(database: Database) -> list[str]:
        file, aside = sqlite.directory / "notes.db", sqlite.directory / "aside"
        file.rename(aside)
        with pytest.raises(Unavailable):
            await database.write(adding("meanwhile"))
        aside.rename(file)
        await database.write(adding("after"))
        return await database.read(ids)

    assert "after" in sqlite.run(work)


@pytest.mark.parametrize(("id", "writer"), [("a", 2**63), ("\ud800", 1)])
def test_a_value_that_can_not_be_stored_is_its_callers_fault_alone(engine: Engine, id: str, writer: int) -> None:
    async def work(database: Database) -> list[str]:
        units: list[Unit[str]] = [adding("before"), lambda tx: add(tx, id, writer), adding("after")]
        outcomes = await asyncio.gather(*map(database.write, units), return_exceptions=True)
        assert [getattr(outcome, "status", 0) for outcome in outcomes] == [0, 422, 0]
        return await database.read(ids)

    assert engine.run(work) == ["after", "before"]


COME_AND_GO = """
from shared.database.hints import Mailbox

async def main(engine):
    for _ in range(500):
        Mailbox(engine.directory / "hints").close()
    print("done")
"""


def test_one_that_comes_as_the_last_one_goes_gets_its_socket(sqlite: Engine) -> None:
    processes = [sqlite.start(COME_AND_GO) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * 3


def test_hints_outlive_the_loss_of_their_directory(sqlite: Engine) -> None:
    async def hear_after_cleaning(database: Database) -> list[str]:
        heard: list[str] = []
        database.subscribe("told", heard.append)
        shutil.rmtree(hints_of(sqlite))
        database.publish("told one")
        await asyncio.sleep(0.6)  # a list of the others is looked at again after half a second
        database.publish("told two")
        await asyncio.sleep(0.1)
        assert len(sockets(sqlite)) == 1
        return heard

    assert sqlite.run(hear_after_cleaning) == ["one", "two"]


def test_a_writer_stuck_behind_another_process_gives_up_in_bounded_time_and_works_again_after(sqlite: Engine) -> None:
    async def work(database: Database) -> tuple[Unavailable, float, list[str]]:
        started = time.monotonic()
        with sqlite.held():
            with pytest.raises(Unavailable) as caught:
                await database.write(adding("too late"))
            seconds = time.monotonic() - started
        await database.write(adding("after"))
        return caught.value, seconds, await database.read(ids)

    refused, seconds, found = sqlite.run(work)
    assert (refused.status, refused.code) == (503, "database_unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert seconds < WRITE_SECONDS + 1
    assert "after" in found


def test_reading_goes_on_behind_a_stuck_writer(sqlite: Engine) -> None:
    async def work(database: Database) -> list[list[str]]:
        await database.write(adding("before"))
        with sqlite.held():
            stuck = asyncio.create_task(database.write(adding("stuck")))
            await asyncio.sleep(0.02)
            seen = [await database.read(ids), await database.query(ids)]
        await stuck
        return seen

    assert sqlite.run(work) == [["before"], ["before"]]


def test_a_program_that_knows_nothing_of_the_lock_is_waited_for_and_stops_no_reader(
    sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.sqlite.LOCKED_MS", 30_000)
    is_held, is_read = threading.Event(), threading.Event()

    def hold() -> bool:
        path = sqlite.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            is_held.set()
            was_read = is_read.wait(5)
            shell.execute("COMMIT")
        return was_read

    async def work(database: Database) -> tuple[bool, list[list[str]]]:
        await database.write(adding("before"))
        holding = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(is_held.wait, 10)
        waiting = asyncio.create_task(database.write(adding("waiting")))
        await asyncio.sleep(0.02)
        seen = [await database.read(ids), await database.query(ids)]
        is_read.set()
        await waiting
        return await holding, [*seen, await database.read(ids)]

    assert sqlite.run(work) == (True, [["before"], ["before"], ["before", "waiting"]])


def test_a_group_that_takes_long_lets_others_have_the_loop_in_between(
    sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.sqlite.LOOP_SECONDS", 0)
    transactions: list[Transaction] = []

    async def work(database: Database) -> None:
        async with sqlite.busy(database):
            writes = [asyncio.create_task(database.write(transactions.append)) for _ in range(3)]
            await asyncio.sleep(0.02)
        await asyncio.gather(*writes)

    sqlite.run(work)
    assert len(set(map(id, transactions))) == 3


def test_close_ends_in_bounded_time_behind_another_process(sqlite: Engine) -> None:
    async def work() -> float:
        database = await sqlite.connect()
        with sqlite.held():
            started = time.monotonic()
            await asyncio.wait_for(database.close(), WRITE_SECONDS + 5)
            return time.monotonic() - started

    assert asyncio.run(work()) < WRITE_SECONDS + 1


def test_a_database_in_memory_works(sqlite: Engine) -> None:
    async def work() -> tuple[list[str], list[str], int]:
        database = await connection.connect("sqlite:///:memory:", {"notes": sqlite.directory / "schema"})
        await asyncio.gather(*(database.write(adding(id)) for id in "abc"))
        with pytest.raises(Guilty):
            await database.write(raises_after_writing)
        found = await database.read(ids), await database.query(ids), await database.read(lambda tx: tx.now)
        await database.close()
        return found

    read, queried, now = asyncio.run(work())
    assert read == queried == ["a", "b", "c"]
    assert abs(now - time.time() * 1000) < 10_000


def test_two_databases_in_memory_share_nothing(sqlite: Engine) -> None:
    async def work() -> list[str]:
        schemas = {"notes": sqlite.directory / "schema"}
        one = await connection.connect("sqlite:///:memory:", schemas)
        other = await connection.connect("sqlite:///:memory:", schemas)
        await one.write(adding("a"))
        found = await other.read(ids)
        await one.close()
        await other.close()
        return found

    assert asyncio.run(work()) == []


DURABLE: dict[str, dict[str, Any]] = {
    "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": 2},
    "postgres": {"SHOW synchronous_commit": "on"},
}


def test_a_commit_is_as_durable_as_promised(engine: Engine) -> None:
    def shown(tx: Transaction) -> dict[str, Any]:
        add(tx, "a")
        return {sql: row[0] for sql in DURABLE[engine.name] if (row := tx.one(sql))}

    async def work(database: Database) -> dict[str, Any]:
        return await database.write(shown)

    assert engine.run(work) == DURABLE[engine.name]


@pytest.mark.parametrize("content", [b"this is no database, but it is longer than the header of one " * 20])
def test_a_file_that_is_no_database_is_one_line_that_names_the_setting(sqlite: Engine, content: bytes) -> None:
    (sqlite.directory / "notes.db").write_bytes(content)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: "):
        sqlite.run(lambda database: asyncio.sleep(0))


def test_a_directory_that_can_not_be_made_is_one_line_that_names_the_setting(sqlite: Engine) -> None:
    (sqlite.directory / "file").write_text("")
    broken = Engine("sqlite", f"sqlite:///{sqlite.directory / 'file' / 'x.db'}", sqlite.directory)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: .*STATE_DIR"):
        broken.run(lambda database: asyncio.sleep(0))


def test_nothing_is_left_open_after_close(sqlite: Engine) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    sqlite.run(lambda database: asyncio.sleep(0))
    before = opened()
    for _ in range(5):
        sqlite.run(lambda database: database.write(lambda tx: ids(tx)))
    eventually(lambda: opened() <= before, 2)
