"""What both services' /health is made of."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.database import Database
from shared.errors import Unavailable
from shared.health import Health, Report, probe
from tests.shared.engines import Engine


def test_a_database_that_stores_is_ok_as_often_as_it_is_asked(engine: Engine) -> None:
    async def work(database: Database) -> list[str]:
        return [(await probe(database))["status"] for _ in range(3)]

    assert engine.run(work) == ["ok"] * 3


def test_a_database_that_stores_nothing_is_not_ok_though_it_answers(engine: Engine) -> None:
    async def work(database: Database) -> None:
        await database.write(lambda tx: tx.run("ALTER TABLE probe RENAME TO gone"))
        with pytest.raises(Unavailable):
            await probe(database)
        assert await database.read(lambda tx: tx.now)

    engine.run(work)


def counting(reports: list[Report]) -> Callable[[], Awaitable[Report]]:
    async def look() -> Report:
        reports.append(Report(True, {"number": len(reports)}))
        await asyncio.sleep(0)
        return reports[-1]

    return look


def test_many_that_ask_at_once_cost_one_look() -> None:
    async def work() -> list[Report]:
        health = Health(counting([]))
        return await asyncio.gather(*(health.report() for _ in range(100)))

    assert {report.body["number"] for report in asyncio.run(work())} == {0}


def test_an_answer_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.health.FRESH_SECONDS", 0)

    async def work() -> list[int]:
        health = Health(counting([]))
        return [(await health.report()).body["number"] for _ in range(3)]

    assert asyncio.run(work()) == [0, 1, 2]
