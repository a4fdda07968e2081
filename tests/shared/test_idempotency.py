"""The same key gives the same answer, once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from shared.database import Database, Transaction
from shared.errors import BadRequest, Problem
from shared.idempotency import KEPT_MS, Answer, IdempotencyKey, key_of, once, prune
from shared.pruning import MAX_PRUNED
from tests.shared.engines import Engine
from tests.shared.notes import add, ids

KEY = IdempotencyKey("POST /api/task caller", "key", "fingerprint")


def adding(id: str) -> Callable[[Transaction, IdempotencyKey | None], Answer]:
    """A unit that adds a note and answers with its id."""

    def unit(tx: Transaction, key: IdempotencyKey | None) -> Answer:
        return once(tx, key, lambda: Answer(202, add(tx, id)))

    return unit


async def send(database: Database, key: IdempotencyKey | None, id: str) -> Answer:
    return await database.write(lambda tx: adding(id)(tx, key))


def expire(tx: Transaction, by_ms: int = KEPT_MS) -> None:
    """Lets so much time go by, for the keys."""
    tx.run("UPDATE idempotency_key SET expires_at = expires_at - :by", by=by_ms)


def kept(tx: Transaction) -> int:
    row = tx.one("SELECT count(*) FROM idempotency_key")
    return int(row[0]) if row else -1


def test_the_same_key_and_body_replays_the_first_answer_and_does_nothing(engine: Engine) -> None:
    async def work(database: Database) -> tuple[list[Answer], list[str]]:
        answers = [await send(database, KEY, id) for id in "ab"]
        return answers, await database.read(ids)

    answers, found = engine.run(work)
    assert answers == [Answer(202, "a", is_replay=False), Answer(202, "a", is_replay=True)]
    assert found == ["a"]


def test_without_a_key_everything_is_done_and_nothing_kept(engine: Engine) -> None:
    async def work(database: Database) -> tuple[list[str], int]:
        await send(database, None, "a")
        await send(database, None, "b")
        return await database.read(ids), await database.read(kept)

    assert engine.run(work) == (["a", "b"], 0)


def test_the_same_key_with_another_body_is_a_422_and_does_nothing(engine: Engine) -> None:
    async def work(database: Database) -> tuple[Problem, list[str]]:
        await send(database, KEY, "a")
        with pytest.raises(Problem) as caught:
            await send(database, KEY._replace(fingerprint="another"), "b")
        return caught.value, await database.read(ids)

    problem, found = engine.run(work)
    assert (problem.status, problem.code) == (422, "idempotency_key_reused")
    assert found == ["a"]


@pytest.mark.parametrize("other", [KEY._replace(scope="POST /api/task another"), KEY._replace(key="another")])
def test_another_scope_or_key_is_another_request(engine: Engine, other: IdempotencyKey) -> None:
    async def work(database: Database) -> tuple[Answer, Answer, list[str]]:
        return await send(database, KEY, "a"), await send(database, other, "b"), await database.read(ids)

    assert engine.run(work) == (Answer(202, "a"), Answer(202, "b"), ["a", "b"])


def test_a_refused_request_keeps_no_key(engine: Engine) -> None:
    def refused(tx: Transaction) -> Answer:
        raise Problem("queue_full", status=503)

    async def work(database: Database) -> tuple[int, Answer]:
        with pytest.raises(Problem):
            await database.write(lambda tx: once(tx, KEY, lambda: refused(tx)))
        return await database.read(kept), await send(database, KEY, "a")

    assert engine.run(work) == (0, Answer(202, "a"))


def test_of_twenty_that_race_one_works_and_the_others_replay(engine: Engine) -> None:
    async def work(database: Database) -> tuple[list[Answer], list[str]]:
        others = [await engine.connect() for _ in range(3)]
        databases = [database, *others]
        answers = await asyncio.gather(*(send(databases[n % 4], KEY, f"{n:02}") for n in range(20)))
        for other in others:
            await other.close()
        return answers, await database.read(ids)

    answers, found = engine.run(work)
    assert len(found) == 1
    assert {answer.body for answer in answers} == set(found)
    assert sum(not answer.is_replay for answer in answers) == 1


def test_headers_are_replayed(engine: Engine) -> None:
    first = Answer(202, "a", headers=(("Task-Existing", "true"),))

    async def work(database: Database) -> list[Answer]:
        return [await database.write(lambda tx: once(tx, KEY, lambda: first)) for _ in range(2)]

    assert engine.run(work) == [first, first._replace(is_replay=True)]


def test_a_key_is_kept_for_24_hours(engine: Engine) -> None:
    async def work(database: Database) -> tuple[Answer, Answer, list[str]]:
        await send(database, KEY, "a")
        await database.write(lambda tx: expire(tx, KEPT_MS - 60_000))
        within = await send(database, KEY, "b")
        await database.write(lambda tx: expire(tx, 60_000))
        return within, await send(database, KEY, "c"), await database.read(ids)

    assert KEPT_MS == 24 * 3600 * 1000
    assert engine.run(work) == (Answer(202, "a", True), Answer(202, "c"), ["a", "c"])


def test_an_expired_key_may_come_with_another_body_and_is_kept_anew(engine: Engine) -> None:
    other = KEY._replace(fingerprint="another")

    async def work(database: Database) -> list[Answer]:
        await send(database, KEY, "a")
        await database.write(expire)
        return [await send(database, other, id) for id in "bc"]

    assert engine.run(work) == [Answer(202, "b"), Answer(202, "b", True)]


def test_pruning_removes_what_has_expired_and_nothing_else(engine: Engine) -> None:
    async def work(database: Database) -> tuple[int, int, Answer]:
        await send(database, KEY, "a")
        await database.write(expire)
        await send(database, KEY._replace(key="fresh"), "b")
        removed = await database.write(prune)
        return removed, await database.read(kept), await send(database, KEY._replace(key="fresh"), "c")

    assert engine.run(work) == (1, 1, Answer(202, "b", True))


def test_pruning_takes_a_bounded_number_at_a_time(engine: Engine) -> None:
    def many(tx: Transaction) -> None:
        for number in range(MAX_PRUNED + 10):
            once(tx, KEY._replace(key=str(number)), lambda: Answer(202, ""))
        expire(tx)

    async def work(database: Database) -> list[int]:
        await database.write(many)
        return [await database.write(prune) for _ in range(3)]

    assert engine.run(work) == [MAX_PRUNED, 10, 0]


def key_for(
    sent: str | None, body: Any = None, caller: str = "", route: str = "POST /api/task"
) -> IdempotencyKey | None:
    headers = [] if sent is None else [(b"idempotency-key", sent.encode("latin-1"))]
    scope = {"type": "http", "method": "POST", "path": "/prefix/x", "query_string": b"", "headers": headers}
    return key_of(Request(scope), route, caller, lambda: {} if body is None else body)


def test_a_request_without_the_header_has_no_key() -> None:
    assert key_for(None) is None


@pytest.mark.parametrize("sent", ["", " ", "a b", "é", "x" * 256, "\t", '"a b"', "a\x7f"])
def test_a_malformed_key_is_a_400(sent: str) -> None:
    with pytest.raises(BadRequest) as caught:
        key_for(sent)
    assert (caught.value.status, caught.value.code) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("sent", ["a", "x" * 255, "8e03978e-40d5-43dd-bc93-6894a57f9324", "~!@#$%^&*()"])
def test_any_visible_text_is_a_key(sent: str) -> None:
    key = key_for(sent)
    assert key is not None
    assert key.key == sent


def test_the_quoted_form_of_the_draft_is_the_same_key_as_the_bare_one() -> None:
    assert key_for('"abc"') == key_for("abc")


def test_the_order_of_members_makes_no_other_body() -> None:
    assert key_for("a", {"x": 1, "y": [2]}) == key_for("a", {"y": [2], "x": 1})


OTHER_BODIES: list[Any] = [{}, {"x": 2}, {"x": "1"}, {"x": True}, {"x": 1.5}, {"x": [1]}, {"x": 1, "y": None}, {"é": 1}]


@pytest.mark.parametrize("body", OTHER_BODIES, ids=str)
def test_any_difference_makes_another_body(body: Any) -> None:
    key, other = key_for("a", {"x": 1}), key_for("a", body)
    assert key is not None
    assert other is not None
    assert key.fingerprint != other.fingerprint


def test_caller_and_route_are_the_scope() -> None:
    keys = [key_for("a"), key_for("a", caller="someone"), key_for("a", route="POST /api/batch")]
    assert len({key.scope for key in keys if key}) == 3
