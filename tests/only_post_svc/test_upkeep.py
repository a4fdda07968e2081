"""What every worker does for all, over a database that does not always answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from only_post_svc import hints, queue, shares
from only_post_svc.main import SCHEMA
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import NewTask
from only_post_svc.settings import Settings
from only_post_svc.shares import Kind, Lane
from only_post_svc.worker.upkeep import Upkeep
from shared.database import Database, connection
from shared.errors import Unavailable
from tests.only_post_svc.store import token
from tests.shared.engines import ENGINES

NOW = NewTask(type="a", payload="{}", timeout_ms=1000, max_attempts=1)
DUE_SOON = NOW._replace(delay_ms=1)


def upkeep_of(database: Database) -> Upkeep:
    events = asyncio.Event(), asyncio.Event()
    settings = Settings.from_env({}, makes_files=False)
    return Upkeep(database, settings, list, *events, TaskCounts(), [], lambda is_pending: None)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_what_was_queued_is_told_though_the_answer_to_its_commit_was_lost(
    engine_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(url: str) -> tuple[list[str], bool]:
        database = await connection.connect(url, {"only_post": SCHEMA})
        await database.write(lambda tx: queue.submit(tx, "", DUE_SOON))
        heard: list[str] = []
        database.subscribe(hints.QUEUED, heard.append)
        write = database.write

        async def losing(*unit: Any, **options: Any) -> None:
            await write(*unit, **options)
            raise Unavailable("database_unavailable", "no answer")

        monkeypatch.setattr(database, "write", losing)
        with pytest.raises(Unavailable):
            await upkeep_of(database)._promote()
        has_queued = (await database.read(lambda tx: queue.look(tx, lease_seconds=30))).has_queued
        await database.close()
        return heard, has_queued

    with ENGINES[engine_name](tmp_path) as engine:
        assert asyncio.run(work(engine.url)) == ([""], True)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_lane_that_no_worker_looks_into_is_opened_again(engine_name: str, tmp_path: Path) -> None:
    """Its type's code ran elsewhere, and a process that does not know better has stored another task since."""

    async def work(url: str) -> list[str]:
        database = await connection.connect(url, {"only_post": SCHEMA})
        await database.write(lambda tx: queue.submit(tx, "", DUE_SOON._replace(lane="a")))
        await upkeep_of(database)._settle_lanes()
        lanes = await database.read(shares.own_lanes)
        await database.close()
        return [lane.type for lane in lanes]

    with ENGINES[engine_name](tmp_path) as engine:
        assert asyncio.run(work(engine.url)) == ["a"]


@pytest.mark.parametrize("engine_name", ENGINES)
def test_the_permits_of_a_cancelled_run_whose_worker_has_died_are_given_back(engine_name: str, tmp_path: Path) -> None:
    async def work(url: str) -> list[Any]:
        database = await connection.connect(url, {"only_post": SCHEMA})
        await database.write(lambda tx: queue.submit(tx, "", NOW))
        lanes, kinds = [Lane(False, "", 1)], {"a": Kind(False, 1)}
        dealt = await database.write(lambda tx: shares.claim(tx, token(), lanes, kinds, shares.up_to(1), 30))
        await database.write(lambda tx: queue.cancel(tx, "", dealt.claims[0].id))
        await upkeep_of(database)._mend_gates()
        before = await database.read(lambda tx: tx.all("SELECT taken FROM gate"))
        await database.write(lambda tx: tx.put("UPDATE stopping SET until = :now", now=tx.now))
        await upkeep_of(database)._mend_gates()
        after = await database.read(lambda tx: tx.all("SELECT taken FROM gate"))
        await database.close()
        return [*before, after]

    with ENGINES[engine_name](tmp_path) as engine:
        assert asyncio.run(work(engine.url)) == [(1,), []]
