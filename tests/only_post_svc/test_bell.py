"""When a worker that hears of a task claims it."""

import asyncio

import pytest

from only_post_svc.worker import bell
from only_post_svc.worker.bell import Bell

LONG_SECONDS = 1000.0
PATIENCE_SECONDS = 20


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def test_it_rings_at_once_until_two_claims_have_been_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bell, "PAUSE_SECONDS", LONG_SECONDS)

    async def act() -> None:
        event = asyncio.Event()
        made = Bell(event)
        for has_found, is_at_once in [(True, True), (False, True), (False, False), (False, False), (True, True)]:
            event.clear()
            made.note(has_found=has_found)
            made.ring()
            assert event.is_set() == is_at_once

    asyncio.run(act())


def test_it_rings_a_little_later_after_claims_in_vain() -> None:
    async def act() -> None:
        event = asyncio.Event()
        made = Bell(event)
        made.note(has_found=False)
        made.note(has_found=False)
        made.ring()
        made.ring()
        assert not event.is_set()
        assert await is_set_within(event, PATIENCE_SECONDS)

    asyncio.run(act())
