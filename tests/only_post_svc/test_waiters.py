"""Who waits for a task's end is told, also where the hint gets lost."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from only_post_svc import lookup, queue
from only_post_svc.lookup import TaskRow
from only_post_svc.main import SCHEMA
from only_post_svc.metrics import TaskCounts
from only_post_svc.queue import Ending, NewTask
from only_post_svc.waiters import MAX_TOGETHER, NEW_SECONDS, Waiters
from only_post_svc.worker.runs import Runs
from shared.database import Database, connection
from tests.only_post_svc.store import claim
from tests.shared.engines import ENGINES

T = TypeVar("T")
NEW = NewTask(type="a", payload="{}", timeout_ms=1000, max_attempts=1)
PATIENCE_SECONDS = 20


def on_a_database(work: Callable[[Database, Waiters], Awaitable[T]]) -> T:
    async def connected() -> T:
        database = await connection.connect("sqlite:///:memory:", {"only_post": SCHEMA})
        waiters = Waiters(database)
        waiters.start()
        try:
            return await work(database, waiters)
        finally:
            await database.close()

    return asyncio.run(connected())


async def submit(database: Database, notify: str | None = None) -> str:
    return (await database.write(lambda tx: queue.submit(tx, "", NEW._replace(notify=notify)))).id


async def end_all(database: Database) -> None:
    """Whatever is queued, and nobody is told."""
    for run in (await database.write(lambda tx: claim(tx, "t", {"a": 1000}))).claims:
        assert await database.write(lambda tx, run=run: queue.finish(tx, run, Ending(result="1")))  # type: ignore[misc]


def test_an_end_of_which_no_hint_tells_is_found() -> None:
    async def work(database: Database, waiters: Waiters) -> list[TaskRow | None]:
        ids = [await submit(database) for _ in range(3)]
        polls = [asyncio.create_task(waiters.until_final("", id, PATIENCE_SECONDS)) for id in [*ids, ids[0]]]
        await asyncio.sleep(0)
        await end_all(database)
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            return await asyncio.gather(*polls)

    assert [task and task.status for task in on_a_database(work)] == ["succeeded"] * 4


def test_a_hint_wakes_only_those_whose_task_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was taken back from a dead worker goes on, though others may have seen it end."""
    monkeypatch.setattr("only_post_svc.waiters.POLL_SECONDS", PATIENCE_SECONDS)

    async def work(database: Database, waiters: Waiters) -> list[TaskRow | None]:
        ids = [await submit(database) for _ in range(2 * MAX_TOGETHER)]
        polls = [asyncio.create_task(waiters.until_final("", id, PATIENCE_SECONDS)) for id in ids]
        await asyncio.sleep(0.02)
        for id in ids:
            database.publish(f"ended {id}")
        await asyncio.sleep(0.02)
        assert not any(poll.done() for poll in polls)
        await end_all(database)
        for id in ids:
            database.publish(f"ended {id}")
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            return await asyncio.gather(*polls)

    tasks = on_a_database(work)
    assert [(task.status, task.result) for task in tasks if task] == [("succeeded", "1")] * 2 * MAX_TOGETHER


def never(*arguments: object, **named: object) -> NoReturn:
    raise AssertionError("nobody has to look")


@pytest.mark.parametrize("engine", ENGINES)
def test_who_waits_where_a_task_was_stored_and_runs_is_told_without_a_look(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("only_post_svc.waiters.NEW_SECONDS", PATIENCE_SECONDS)

    async def work(url: str) -> tuple[TaskRow | None, TaskRow | None]:
        database = await connection.connect(url, {"only_post": SCHEMA})
        waiters = Waiters(database)
        waiters.start()
        runs = Runs(database, waiters, 30, TaskCounts(), lambda claim: None, asyncio.Event())
        told, quiet = await submit(database), await submit(database, notify="https://example.com/told")
        claims = (await database.write(lambda tx: claim(tx, "t", {"a": 1000}))).claims
        of_told, of_quiet = sorted(map(runs.add, claims), key=lambda run: run.claim.id != told)
        waiters.note_new("", told)
        with monkeypatch.context() as patch:
            patch.setattr(lookup, "find", never)
            patch.setattr(lookup, "find_ended", never)
            poll = asyncio.create_task(waiters.until_final("", told, PATIENCE_SECONDS))
            await asyncio.sleep(0)
            runs.end(of_told, Ending(result="1"))
            first = await poll
        poll = asyncio.create_task(waiters.until_final("", quiet, PATIENCE_SECONDS))
        await asyncio.sleep(0)
        runs.end(of_quiet, Ending(result="1"))
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            second = await poll
        await database.close()
        return first, second

    with ENGINES[engine](tmp_path) as found:
        told, with_webhook = asyncio.run(work(found.url))
    assert told and (told.status, told.result, told.notify) == ("succeeded", "1", None)
    assert with_webhook and with_webhook.notify and "example.com" in with_webhook.notify


def test_a_new_task_is_not_looked_at_before_there_is_news_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("only_post_svc.waiters.POLL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("only_post_svc.waiters.NEW_SECONDS", PATIENCE_SECONDS)

    async def work(database: Database, waiters: Waiters) -> TaskRow | None:
        id = await submit(database)
        waiters.note_new("", id)
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            assert await waiters.until_final("other", id, PATIENCE_SECONDS) is None  # it is new for its caller alone
        await end_all(database)
        poll = asyncio.create_task(waiters.until_final("", id, PATIENCE_SECONDS))
        await asyncio.sleep(0.02)
        assert not poll.done()
        database.publish(f"ended {id}")
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            assert await poll == await waiters.until_final("", id, PATIENCE_SECONDS)  # it is not new any more
        return await poll

    task = on_a_database(work)
    assert task and task.status == "succeeded"


def test_a_task_is_new_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("only_post_svc.waiters.POLL_SECONDS", PATIENCE_SECONDS)

    async def work(database: Database, waiters: Waiters) -> TaskRow | None:
        id = await submit(database)
        waiters.note_new("", id)
        await end_all(database)
        await asyncio.sleep(NEW_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            return await waiters.until_final("", id, PATIENCE_SECONDS)

    task = on_a_database(work)
    assert task and task.status == "succeeded"


def test_of_new_tasks_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("only_post_svc.waiters.POLL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("only_post_svc.waiters.NEW_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("only_post_svc.waiters.MAX_NEW", 2)

    async def work(database: Database, waiters: Waiters) -> TaskRow | None:
        ids = [await submit(database) for _ in range(3)]
        for id in ids:
            waiters.note_new("", id)
        await end_all(database)
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            return await waiters.until_final("", ids[0], PATIENCE_SECONDS)

    task = on_a_database(work)
    assert task and task.status == "succeeded"


def test_nobody_is_told_of_a_task_of_somebody_else() -> None:
    async def work(database: Database, waiters: Waiters) -> TaskRow | None:
        id = await submit(database)
        poll = asyncio.create_task(waiters.until_final("other", id, PATIENCE_SECONDS))
        await end_all(database)
        database.publish(f"ended {id}")
        return await poll

    assert on_a_database(work) is None


def test_more_than_one_statement_can_ask_for_are_found() -> None:
    async def work(database: Database, waiters: Waiters) -> set[str]:
        ids = [await submit(database) for _ in range(3)]
        unknown = ["none"] * lookup.MAX_LISTED
        await end_all(database)
        return set(await database.query(lambda tx: lookup.ended(tx, [ids[0], *unknown, *ids[1:]]))) ^ set(ids)

    assert on_a_database(work) == set()
