"""Turns at the threads that check passwords."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shared.errors import Unavailable
from token_svc import turns
from token_svc.turns import ACCOUNT_PLACES, AHEAD, Asker, Turns


class Work:
    """Work that takes until it is let go, and remembers whose was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = threading.Semaphore(0)

    def __call__(self, name: str) -> str:
        self.gate.acquire()
        self.done.append(name)
        return name


def run(act: Callable[[Turns, Work], Coroutine[Any, Any, Any]], places: int = 8) -> Any:
    async def with_turns() -> Any:
        made, work = Turns(1, places, "test"), Work()
        try:
            return await act(made, work)
        finally:
            work.gate.release(100)
            made.close()

    return asyncio.run(with_turns())


def ask(made: Turns, work: Work, address: str, account: str = "") -> "asyncio.Task[str]":
    return asyncio.create_task(made.run(Asker(address, account), work, address))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_turns_go_round_between_addresses_however_many_one_has() -> None:
    async def act(made: Turns, work: Work) -> list[str]:
        asked = [ask(made, work, "a") for _ in range(AHEAD + 4)]
        await settled()
        asked += [ask(made, work, "b"), ask(made, work, "c")]
        await settled()
        work.gate.release(AHEAD + 6)
        await asyncio.gather(*asked)
        assert made.pending == 0
        return work.done

    assert run(act) == ["a"] * AHEAD + ["a", "a", "b", "c", "a", "a"]


def test_a_thread_that_is_done_finds_the_next_work_while_the_event_loop_is_busy() -> None:
    async def act(made: Turns, work: Work) -> list[str]:
        asked = [ask(made, work, "a"), ask(made, work, "b")]
        await settled()
        work.gate.release(2)
        until = time.monotonic() + 20
        while len(work.done) < 2 and time.monotonic() < until:
            time.sleep(0.01)  # the event loop stands still
        done = list(work.done)
        await asyncio.gather(*asked)
        return done

    assert run(act) == ["a", "b"]


def test_one_address_holds_half_of_the_places_and_another_still_gets_in() -> None:
    async def act(made: Turns, work: Work) -> Counter[str]:
        asked = [ask(made, work, "a") for _ in range(AHEAD + 9)]
        await settled()
        other = ask(made, work, "b")
        await settled()
        work.gate.release(AHEAD + 10)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert await other == "b"
        return Counter(answer.code if isinstance(answer, Unavailable) else str(answer) for answer in answers)

    assert run(act) == {"a": 1 + AHEAD + 4, "busy": 4}


def test_one_account_has_four_places_whatever_the_addresses() -> None:
    async def act(made: Turns, work: Work) -> int:
        asked = [ask(made, work, f"address {number}", "ada") for number in range(AHEAD + 8)]
        await settled()
        other = ask(made, work, "address 9", "bob")
        await settled()
        work.gate.release(AHEAD + 10)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert await other
        return sum(isinstance(answer, Unavailable) for answer in answers)

    assert run(act, places=20) == 8 - 1 - ACCOUNT_PLACES


def test_one_that_leaves_takes_no_turn_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(made: Turns, work: Work) -> str:
        first, leaving, last = ask(made, work, "a"), ask(made, work, "b"), ask(made, work, "c")
        await settled()
        leaving.cancel()
        await settled()
        work.gate.release(3)
        await first
        return await last

    assert run(act) == "c"


def test_who_is_not_admitted_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE_SECONDS", 0)

    async def act(made: Turns, work: Work) -> None:
        for _ in range(1 + AHEAD + ACCOUNT_PLACES):
            ask(made, work, "a", "ada")
        await settled()
        with pytest.raises(Unavailable, match="account"):
            await made.admit(Asker("b", "ada"))
        await made.admit(Asker("b", "bob"))

    run(act, places=20)
