"""What a worker writes of its runs, where they end together and not all of them may."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from only_post_svc import lookup, queue
from only_post_svc.lookup import TaskRow
from only_post_svc.main import SCHEMA
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Claim, Ending, NewTask
from only_post_svc.waiters import Waiters
from only_post_svc.worker import runs as runs_of_worker
from only_post_svc.worker.runs import Run, Runs
from shared.database import Database, Transaction, connection
from shared.errors import Unavailable
from tests.only_post_svc.store import claim
from tests.shared.engines import ENGINES

T = TypeVar("T")
NEW = NewTask(type="a", payload="{}", timeout_ms=1000, max_attempts=3)
SETTLED_SECONDS = 20


@pytest.fixture(params=ENGINES)
def with_runs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., T]:
    """Does some work over a database and the runs of five tasks."""

    def do(work: Callable[[Database, Runs, list[Run]], Awaitable[T]], due: asyncio.Event | None = None) -> T:
        async def connected(url: str) -> T:
            database = await connection.connect(url, {"only_post": SCHEMA})
            runs = Runs(database, Waiters(database), 30, TaskCounts(), lambda claim: None, due or asyncio.Event())
            try:
                return await work(database, runs, [runs.add(claim) for claim in await database.write(_claimed)])
            finally:
                await database.close()

        with ENGINES[request.param](tmp_path) as engine:
            return asyncio.run(connected(engine.url))

    return do


def _claimed(tx: Transaction) -> list[Claim]:
    for _ in range(5):
        queue.submit(tx, "", NEW)
    return claim(tx, "t", {"a": 5}).claims


async def _ended(database: Database, runs: Runs, some: list[Run], endings: list[Ending]) -> list[TaskRow | None]:
    for run, ending in zip(some, endings, strict=True):
        runs.end(run, ending)
    async with asyncio.timeout(SETTLED_SECONDS):
        await runs.settled()
    return [await database.read(lambda tx, run=run: lookup.find(tx, "", run.claim.id)) for run in some]  # type: ignore[misc]


def test_runs_that_end_together_each_get_their_own_result(with_runs: Callable[..., list[TaskRow]]) -> None:
    endings = [Ending(result=str(number)) for number in range(5)]
    tasks = with_runs(lambda database, runs, some: _ended(database, runs, some, endings))
    assert [(task.status, task.result) for task in tasks] == [("succeeded", str(number)) for number in range(5)]


def test_one_that_has_lost_its_lease_keeps_none_of_the_others_from_ending(
    with_runs: Callable[..., list[TaskRow]],
) -> None:
    async def work(database: Database, runs: Runs, some: list[Run]) -> list[TaskRow | None]:
        await database.write(lambda tx: queue.cancel(tx, "", some[2].claim.id))
        return await _ended(database, runs, some, [Ending(result="1")] * 5)

    statuses = [task.status for task in with_runs(work)]
    assert statuses == ["succeeded", "succeeded", "cancelled", "succeeded", "succeeded"]


def test_a_try_that_a_lost_commit_has_scheduled_is_looked_for_at_once(with_runs: Callable[..., list[TaskRow]]) -> None:
    due, failed = asyncio.Event(), Ending(error=json.dumps({"code": "task_error"}))

    async def work(database: Database, runs: Runs, some: list[Run]) -> list[TaskRow | None]:
        await database.write(lambda tx: queue.finish(tx, some[0].claim, failed))  # the commit whose answer got lost
        return await _ended(database, runs, some, [failed, *[Ending(result="1")] * 4])

    assert [task.status for task in with_runs(work, due)] == ["scheduled", *["succeeded"] * 4]
    assert due.is_set()


NO_TEXT = "\ud800"  # no database takes a lone surrogate


def test_a_result_that_no_database_takes_ends_its_run_with_a_code_and_keeps_no_other_from_ending(
    with_runs: Callable[..., list[TaskRow]],
) -> None:
    endings = [Ending(result="1")] * 4 + [Ending(result=NO_TEXT)]
    tasks = with_runs(lambda database, runs, some: _ended(database, runs, some, endings))
    assert [task.status for task in tasks] == ["succeeded"] * 4 + ["failed"]
    assert json.loads(tasks[-1].error or "")["code"] == "invalid_result"


def test_an_error_that_no_database_takes_ends_its_run_with_a_code(with_runs: Callable[..., list[TaskRow]]) -> None:
    endings = [Ending(error=f'{{"message": "{NO_TEXT}"}}')] + [Ending(result="1")] * 4
    task = with_runs(lambda database, runs, some: _ended(database, runs, some, endings))[0]
    assert (task.status, json.loads(task.error or "")["code"]) == ("failed", "invalid_result")


def test_progress_that_no_database_takes_is_said_once_and_keeps_no_other_from_being_stored(
    with_runs: Callable[..., list[TaskRow | None]],
) -> None:
    async def work(database: Database, runs: Runs, some: list[Run]) -> list[TaskRow | None]:
        for run, progress in zip(some, ["1", NO_TEXT, "2"], strict=False):
            run.progress, run.is_reported = progress, False
        await runs.store_progress()
        assert all(run.is_reported for run in some)
        return [await database.read(lambda tx, run=run: lookup.find(tx, "", run.claim.id)) for run in some]  # type: ignore[misc]

    assert [task and task.progress for task in with_runs(work)] == ["1", None, "2", None, None]


def test_ends_that_a_database_does_not_take_are_stored_once_it_does(
    with_runs: Callable[..., list[TaskRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not even have begun with them."""
    monkeypatch.setattr(runs_of_worker, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(runs_of_worker, "MAX_TOGETHER", 2)

    async def work(database: Database, runs: Runs, some: list[Run]) -> list[TaskRow | None]:
        write, refused = database.write, 0

        async def refusing(*args: Any, **options: Any) -> Any:
            nonlocal refused
            refused += 1
            if refused <= 8:
                raise Unavailable("database_unavailable", "the database does not answer")
            return await write(*args, **options)

        monkeypatch.setattr(database, "write", refusing)
        return await _ended(database, runs, some, [Ending(result=str(number)) for number in range(5)])

    assert [task.result for task in with_runs(work)] == [str(number) for number in range(5)]


def test_more_runs_than_one_statement_takes_may_end_at_once(
    with_runs: Callable[..., list[TaskRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_of_worker, "MAX_TOGETHER", 2)
    endings = [Ending(result=str(number)) for number in range(5)]
    tasks = with_runs(lambda database, runs, some: _ended(database, runs, some, endings))
    assert [task.result for task in tasks] == [str(number) for number in range(5)]


def test_who_has_handed_out_the_runs_is_told_when_one_has_left_whatever_became_of_it() -> None:
    async def work() -> tuple[list[Claim], list[tuple[str, int]]]:
        database = await connection.connect("sqlite:///:memory:", {"only_post": SCHEMA})
        left: list[tuple[str, int]] = []
        made: list[Runs] = []
        runs = Runs(
            database,
            Waiters(database),
            30,
            TaskCounts(),
            lambda claim: left.append((claim.id, len(made[0].of_task(claim.id)))),
            asyncio.Event(),
        )
        made.append(runs)
        claims = await database.write(_claimed)
        well, failed, cancelled, released = map(runs.add, claims[:4])
        await database.write(lambda tx: queue.cancel(tx, "", cancelled.claim.id))
        runs.give_back(released, is_alone=False)
        await _ended(database, runs, [well, failed, cancelled], [Ending(result="1"), Ending(error="{}"), Ending()])
        await database.close()
        return claims[:4], left

    claims, left = asyncio.run(work())
    assert sorted(left) == sorted((claim.id, 0) for claim in claims)


def test_progress_that_could_not_be_stored_is_still_to_be_said() -> None:
    async def work() -> bool:
        database = await connection.connect("sqlite:///:memory:", {"only_post": SCHEMA})
        runs = Runs(database, Waiters(database), 30, TaskCounts(), lambda claim: None, asyncio.Event())
        run = runs.add((await database.write(_claimed))[0])
        run.progress, run.is_reported = "1", False
        await database.close()
        with pytest.raises(Unavailable):
            await runs.store_progress()
        return run.is_reported

    assert not asyncio.run(work())
