"""What a login computes says nothing of why it failed: one hash, whatever is wrong. Times are not
measured here, since a busy machine would fail such a test; the hash is what takes the time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shared.errors import Problem
from tests.token_svc.inside import ADDRESS, PASSWORD, Inside, run
from tests.tokens import claims_of
from token_svc import accounts, sessions
from token_svc.models.accounts import RegisterRequest
from token_svc.passwords import MAX_LENGTH
from token_svc.turns import ACCOUNT_PLACES


async def disable(inside: Inside, account_id: str) -> None:
    await inside.database.write(lambda tx: accounts.set_disabled(tx, account_id, is_disabled=True))


async def unknown_user(inside: Inside) -> int:
    return await inside.counted(inside.login("nobody"))


async def impossible_user(inside: Inside) -> int:
    return await inside.counted(inside.login("no such name " * 1000))


async def wrong_password(inside: Inside) -> int:
    return await inside.counted(inside.login(password="not the right one"))


async def right_password(inside: Inside) -> int:
    return await inside.counted(inside.login())


async def disabled_user(inside: Inside) -> int:
    await disable(inside, await inside.register("bob"))
    return await inside.counted(inside.login("bob"))


async def disabled_user_wrong_password(inside: Inside) -> int:
    await disable(inside, await inside.register("bob"))
    return await inside.counted(inside.login("bob", "not the right one"))


PATHS = [unknown_user, impossible_user, wrong_password, right_password, disabled_user, disabled_user_wrong_password]


@pytest.mark.parametrize("path", PATHS)
def test_a_login_computes_exactly_one_hash(path: Callable[[Inside], Coroutine[Any, Any, int]]) -> None:
    async def work(inside: Inside) -> int:
        await inside.register()
        return await path(inside)

    assert run(work) == 1


@pytest.mark.parametrize("username", ["ada", "nobody"])
def test_a_password_that_nobody_can_have_computes_none_whoever_is_named(username: str) -> None:
    async def work(inside: Inside) -> int:
        await inside.register()
        return await inside.counted(inside.login(username, "x" * (MAX_LENGTH + 1)))

    assert run(work) == 0


def test_the_hash_for_an_unknown_user_costs_what_a_stored_one_does() -> None:
    async def work(inside: Inside) -> tuple[str, str]:
        await inside.register()
        return inside.grants.passwords._decoy, await inside.stored()

    nobodys, stored = run(work)
    assert nobodys.split("$")[:4] == stored.split("$")[:4]  # scheme, version, memory, passes
    assert [*map(len, nobodys.split("$"))] == [*map(len, stored.split("$"))]


REFUSED = {
    "short": RegisterRequest("bob", "short", "bob@example.org"),
    "a megabyte": RegisterRequest("bob", "x" * 1_000_000, "bob@example.org"),
    "common": RegisterRequest("bob", "password", "bob@example.org"),
    "bad name": RegisterRequest("b", PASSWORD, "bob@example.org"),
    "taken name": RegisterRequest("ADA", PASSWORD, "bob@example.org"),
    "taken email": RegisterRequest("bob", PASSWORD, "ada@example.org"),
}


@pytest.mark.parametrize("wanted", REFUSED.values(), ids=REFUSED)
def test_a_registration_that_is_refused_computes_no_hash(wanted: RegisterRequest) -> None:
    async def work(inside: Inside) -> int:
        await inside.register()
        return await inside.counted(inside.grants.register(vars(wanted), ADDRESS))

    assert run(work) == 0


def test_a_closed_registration_computes_no_hash() -> None:
    wanted = RegisterRequest("bob", PASSWORD, "bob@example.org")
    assert run(lambda inside: inside.counted(inside.grants.register(vars(wanted), ADDRESS)), REGISTRATION="closed") == 0


def test_a_login_that_has_to_wait_computes_no_hash() -> None:
    async def work(inside: Inside) -> list[int]:
        return [await inside.counted(inside.login("nobody")) for _ in range(4)]

    assert run(work, RATE_LIMITS="login=2/minute") == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_the_spellings_of_an_email_count_as_one_whoever_has_it(name: str) -> None:
    async def work(inside: Inside) -> list[str]:
        await inside.register()
        codes = []
        for number, email in enumerate((f"{name}@example.org", f"{name}\u00ad@example.org", f"{name}@example.org.")):
            with pytest.raises(Problem) as caught:
                await inside.grants.by_password(email, "not the right one", None, f"198.51.100.{number}")
            codes.append(caught.value.code)
        return codes

    assert run(work, RATE_LIMITS="login=1/minute") == ["invalid_grant", "invalid_grant", "rate_limited"]


def test_a_change_that_a_new_password_overtook_changes_nothing() -> None:
    async def work(inside: Inside) -> tuple[int, Any]:
        account_id = await inside.register()
        before = await inside.database.read(lambda tx: accounts.by_id(tx, account_id))
        assert before is not None
        (session,) = await inside.database.read(lambda tx: sessions.of(tx, account_id))
        claims = claims_of(account_id, before.version, session["id"])
        changed, _ = await inside.grants.change(before, claims, None, "the owner's new password", ADDRESS)
        assert changed.version == before.version + 1
        with pytest.raises(Problem) as caught:
            await inside.grants.change(before, claims, None, "somebody else's password", ADDRESS)
        return caught.value.status, await inside.login(password="the owner's new password")

    assert run(work) == (401, None)


def test_of_many_wrong_logins_at_once_every_one_is_the_same_answer() -> None:
    async def work(inside: Inside) -> set[tuple[Any, ...]]:
        await inside.register()
        names = ["ada", "nobody"] * ACCOUNT_PLACES
        found = await asyncio.gather(*(inside.login(name, "not the right one") for name in names))
        return {(problem.status, problem.code, problem.detail) for problem in found if problem}

    assert len(run(work)) == 1
