"""What a claim says of what it has left."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from only_post_svc import shares
from only_post_svc.shares import Candidate, Dealt, Kind, Lane
from shared.database import Transaction
from tests.only_post_svc.store import Store, open_store, token
from tests.shared.engines import ENGINES

SLOTS = 2  # of a child
PORTION = 6  # of one caller, in one claim
KINDS = {"a": Kind(), "b": Kind(is_alone=True)}
CASES = 150


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with open_store(request.param, tmp_path) as store:
        yield store


def hands(free: int, idle: int) -> Callable[[Candidate], bool]:
    """As many as children have that share `free` slots, beside `idle` ones."""
    portions: Counter[str] = Counter()

    def fits(one: Candidate) -> bool:
        nonlocal free, idle
        if portions[one.caller] == PORTION or (idle == 0 and (one.is_alone or free == 0)):
            return False
        portions[one.caller] += 1
        if one.is_alone:
            idle -= 1
        elif free:
            free -= 1
        else:
            free, idle = SLOTS - 1, idle - 1
        return True

    return fits


def claim(tx: Transaction, free: int, idle: int) -> Dealt:
    lanes = [Lane(False, shares.ALL, free + SLOTS * idle), Lane(True, shares.ALL, max(1, idle))]
    return shares.claim(tx, token(), lanes, KINDS, hands(free, idle), 30)


def claim_all(tx: Transaction) -> Dealt:
    lanes = [Lane(is_alone, shares.ALL, 100) for is_alone in (False, True)]
    return shares.claim(tx, token(), lanes, KINDS, shares.up_to(100), 30)


def test_where_a_claim_says_that_nothing_is_left_nothing_is(store: Store) -> None:
    seen = set()
    for seed in range(CASES):
        chance = random.Random(seed)
        store.do(lambda tx: tx.run("DELETE FROM task"))
        callers, types = chance.choice(["klmn", "kkkkkkkkkl"]), chance.choice([["a"], ["a", "a", "b", "strange"]])
        for _ in range(chance.choice([1, 3, 6, 12, 20])):
            type = chance.choice(types)
            store.submit(type, chance.choice(callers), is_alone=type == "b", priority=chance.randrange(2))
        free, idle = chance.choice([(0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (4, 2), (8, 0)])
        dealt = store.do(lambda tx, free=free, idle=idle: claim(tx, free, idle))  # type: ignore[misc]
        left = store.do(claim_all).claims
        assert dealt.has_left or not left, (seed, free, idle, left)
        seen.add((dealt.has_left, bool(left)))
    assert seen >= {(False, False), (True, True)}
