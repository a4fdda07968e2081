"""When a worker that hears of a task claims it."""

import asyncio

import pytest

from only_post_svc.worker import bell
from only_post_svc.worker.bell import Bell

LONG_SECONDS = 1000.0
PATIENCE_SECONDS = 20


def test_it_rings_at_once_until_two_claims_have_been_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bell, "PAUSE_SECONDS", LONG_SECONDS)

    async def act() -> None:
        event = asyncio.Event()
        made = Bell(event)
        for was_in_vain, is_at_once in [(False, True), (True, True), (True, False), (True, False), (False, True)]:
            event.clear()
            made.note(was_in_vain=was_in_vain)
            made.ring()
            assert event.is_set() == is_at_once

    asyncio.run(act())


def test_it_rings_a_little_later_after_claims_in_vain() -> None:
    async def act() -> None:
        event = asyncio.Event()
        made = Bell(event)
        made.note(was_in_vain=True)
        made.note(was_in_vain=True)
        made.ring()
        made.ring()
        assert not event.is_set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await event.wait()

    asyncio.run(act())
