"""What a user may store, in bytes: items, and the answers kept for idempotency keys."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import idempotency
from shared.database import Transaction
from shared.errors import Conflict
from shared.idempotency import KEPT_MS, Answer, IdempotencyKey
from tests.databases import rows
from tests.processes import TokenService
from tests.shared.engines import ENGINES
from tests.token_svc.answers import problem
from tests.token_svc.users import User
from tests.transactions import Timeline, opened
from token_svc import accounts, items
from token_svc.items import ItemRow, Room
from token_svc.main import SCHEMA


@pytest.fixture(params=ENGINES)
def timeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timeline]:
    with opened(Timeline, request.param, tmp_path, {"token": SCHEMA}) as timeline:
        yield timeline


STORED = """
SELECT item_bytes + coalesce((SELECT bytes FROM kept_answers WHERE owner = account.id), 0) FROM account WHERE id = :id
"""


class Owner:
    def __init__(self, timeline: Timeline, room: Room) -> None:
        self.timeline = timeline
        self.room = room
        self.id = timeline.do(lambda tx: accounts.create(tx, "ada", "ada@example.org", "hash")).id

    @property
    def stored(self) -> int:
        ((stored,),) = self.timeline.do(lambda tx: tx.all(STORED, id=self.id))
        return int(stored)

    def add(self, data: str, key: str = "") -> ItemRow | None:
        """With a key, whose answer is the item's data twice."""
        made: list[ItemRow] = []

        def work(tx: Transaction) -> Answer:
            made.append(items.create(tx, self.id, data, self.room, lambda item: 2 * len(data) if key else 0))
            return Answer(201, data * 2)

        kept = IdempotencyKey(f"POST /data {self.id}", key, "f", self.id, is_counted=True) if key else None
        try:
            self.timeline.do(lambda tx: idempotency.once(tx, kept, lambda: work(tx)))
        except Conflict:
            return None
        return made[-1]

    def replace(self, item: ItemRow, data: str) -> ItemRow | None:
        try:
            return self.timeline.do(lambda tx: items.replace(tx, self.id, item, data, self.room))
        except Conflict:
            return None

    def delete(self, item: ItemRow) -> None:
        self.timeline.do(lambda tx: items.delete(tx, self.id, item))


def test_what_is_stored_is_counted_to_the_byte_whatever_becomes_of_it(timeline: Timeline) -> None:
    owner = Owner(timeline, Room(10, 10**6))
    first, second = owner.add('"é"'), owner.add('"abc"', key="k")
    assert first and second
    assert owner.stored == 4 + 5 + 10
    second = owner.replace(second, '"abcdef"')
    assert second
    assert owner.stored == 4 + 8 + 10
    owner.delete(first)
    owner.delete(second)
    assert owner.stored == 10
    timeline.now += KEPT_MS
    timeline.do(idempotency.prune)
    assert owner.stored == 0


def test_a_key_that_is_used_again_after_its_time_counts_once(timeline: Timeline) -> None:
    owner = Owner(timeline, Room(10, 10**6))
    for _ in range(3):
        owner.add("1", key="k")
        timeline.now += KEPT_MS
    assert owner.stored == 3 + 2


def test_above_the_bound_nothing_grows_and_everything_may_shrink(timeline: Timeline) -> None:
    owner = Owner(timeline, Room(10, 20))
    item = owner.add("1" * 20)
    assert item
    assert owner.add("1") is None
    assert owner.replace(item, "1" * 21) is None
    smaller = owner.replace(item, "1" * 17)
    assert smaller
    assert owner.add("1", key="k") is not None
    assert owner.stored == 20
    owner.delete(smaller)
    assert owner.add("1" * 6, key="other") is None  # with its answer it would be 18
    assert owner.add("1" * 5, key="other") is not None


def test_above_a_lowered_number_of_items_those_that_are_there_may_grow(timeline: Timeline) -> None:
    owner = Owner(timeline, Room(2, 20))
    item, _ = owner.add("1"), owner.add("2")
    assert item
    owner.room = Room(1, 20)
    assert owner.add("3") is None
    assert owner.replace(item, "1" * 10) is not None


def test_creating_and_deleting_with_keys_ends_at_the_bound(start_tokens: Callable[..., TokenService]) -> None:
    user = User(start_tokens(MAX_BYTES_PER_USER="10000", MAX_ITEMS_PER_USER="1"))
    for number in range(10):
        answer = user.post("/data", json={"data": "x" * 1500}, headers={"Idempotency-Key": str(number)})
        if answer.status_code == 409:
            break
        user.delete(answer.headers["Location"])
    problem(answer, 409, "quota_exceeded")
    assert 3 <= number <= 6
    ((kept,),) = rows(user.service, "SELECT sum(length(body)) FROM idempotency_key WHERE owner = ?", user.profile["id"])
    assert kept <= 10000
    small = user.add("x")
    for method, body in (("PUT", {"data": "x" * 9000}), ("PATCH", {"data": {"x": "x" * 9000}})):
        problem(user.request(method, f"/data/{small['id']}", json=body), 409, "quota_exceeded")
    assert user.get(f"/data/{small['id']}").json() == small


def test_many_at_once_do_not_slip_past_the_bytes(start_tokens: Callable[..., TokenService]) -> None:
    user = User(start_tokens(MAX_BYTES_PER_USER="10000"))

    async def all_at_once() -> list[Any]:
        def one() -> int:
            return user.service.post("/data", {"data": "x" * 998}, headers=dict(user.headers)).status_code

        return await asyncio.gather(*(asyncio.to_thread(one) for _ in range(20)))

    assert sorted(asyncio.run(all_at_once())) == [201] * 10 + [409] * 10
