"""Stored passwords: other schemes, better and worse ones, broken ones, and how many at once."""

import asyncio
import threading
import unicodedata
from typing import Any

import pytest
from passlib.context import CryptContext

from shared.errors import Problem, Unavailable
from tests.token_svc.inside import PASSWORD, Inside, run
from token_svc.passwords import MEMORY_KIB, WAITING_PER_THREAD, Passwords
from token_svc.turns import ACCOUNT_PLACES, AHEAD, Asker

TODAYS = "$argon2id$v=19$m=19456,t=2,p=1$"


def hashed(scheme: str, password: str = PASSWORD, **costs: Any) -> str:
    options = {f"{scheme}__{name}": cost for name, cost in costs.items()}
    return str(CryptContext(schemes=[scheme], **options).hash(password))


def argon2_hash(memory_kib: int, passes: int, kind: str = "ID", parallelism: int = 1) -> str:
    return hashed("argon2", type=kind, memory_cost=memory_kib, time_cost=passes, parallelism=parallelism)


def test_a_new_password_is_stored_in_todays_scheme() -> None:
    async def work(inside: Inside) -> str:
        await inside.register()
        return await inside.stored()

    assert run(work).startswith(TODAYS)


OTHERS = {
    "scrypt": lambda: hashed("scrypt", rounds=14),
    "pbkdf2-sha256": lambda: hashed("pbkdf2_sha256", rounds=29_000),
    "pbkdf2-sha512": lambda: hashed("pbkdf2_sha512", rounds=25_000),
    "less memory": lambda: argon2_hash(8 * 1024, 2),
    "fewer passes": lambda: argon2_hash(MEMORY_KIB, 1),
    "argon2i": lambda: argon2_hash(MEMORY_KIB, 2, "I"),
    "more memory": lambda: argon2_hash(2 * MEMORY_KIB, 2),
    "more passes": lambda: argon2_hash(MEMORY_KIB, 3),
    "more lanes": lambda: argon2_hash(MEMORY_KIB, 2, parallelism=4),
    "argon2-cffi's own": lambda: argon2_hash(65536, 3, parallelism=4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_hash_of_other_costs_verifies_and_is_renewed_by_the_login(name: str) -> None:
    async def work(inside: Inside) -> list[Any]:
        await inside.register()
        await inside.store(OTHERS[name]())
        wrong = await inside.login(password="not the right one")
        kept = await inside.stored()
        right = await inside.login()
        return [wrong is None, kept.startswith(TODAYS), right, (await inside.stored())[: len(TODAYS)]]

    assert run(work) == [False, False, None, TODAYS]


def test_a_renewed_hash_is_of_the_same_password_and_ends_no_session() -> None:
    async def work(inside: Inside) -> tuple[Any, Any]:
        await inside.register()
        await inside.store(OTHERS["scrypt"]())
        await inside.login()
        row = await inside.database.read(lambda tx: tx.one("SELECT version FROM account"))
        return await inside.login(), row

    assert run(work) == (None, (1,))


DECOMPOSED = unicodedata.normalize("NFD", "pässwörter für alle")


@pytest.mark.parametrize("stored", [DECOMPOSED, unicodedata.normalize("NFC", DECOMPOSED)], ids=["NFD", "NFC"])
def test_a_password_that_another_system_hashed_as_it_was_sent_logs_in_and_is_composed_from_then_on(stored: str) -> None:
    async def work(inside: Inside) -> list[Any]:
        await inside.register()
        await inside.store(hashed("pbkdf2_sha256", stored, rounds=1000))
        first = await inside.login(password=DECOMPOSED)
        return [first, await inside.login(password=unicodedata.normalize("NFC", DECOMPOSED))]

    assert run(work) == [None, None]


def test_a_hash_of_todays_costs_is_checked_with_the_composed_password_alone() -> None:
    async def work(inside: Inside) -> Problem | None:
        await inside.register()
        await inside.store(hashed("argon2", DECOMPOSED, type="ID", memory_cost=MEMORY_KIB, time_cost=2, parallelism=1))
        return await inside.login(password=DECOMPOSED)

    assert run(work) is not None


def test_a_hash_of_todays_costs_stays_as_it_is() -> None:
    async def work(inside: Inside) -> tuple[Any, bool]:
        await inside.register()
        stored = argon2_hash(MEMORY_KIB, 2)
        await inside.store(stored)
        return await inside.login(), await inside.stored() == stored

    assert run(work) == (None, True)


SALT, DIGEST = "c29tZXNhbHRzb21lc2FsdA", "ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGk"
BROKEN = {
    "empty": "",
    "text": "password",
    "scheme alone": "$argon2id$",
    "no parameters": f"$argon2id$v=19$${SALT}${DIGEST}",
    "no digest": f"{TODAYS}{SALT}",
    "bad base64": f"{TODAYS}{SALT}$???",
    "another version": f"$argon2id$v=99$m=19456,t=2,p=1${SALT}${DIGEST}",
    "unknown scheme": "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
    "plain MD5": "5f4dcc3b5aa765d61d8327deb882cf99",
    "not ASCII": f"{TODAYS}é${DIGEST}",
    "a megabyte": TODAYS + "A" * 1_000_000,
    "4 TiB": f"$argon2id$v=19$m=4294967295,t=2,p=1${SALT}${DIGEST}",
    "4 TiB, argon2i": f"$argon2i$v=19$m=4294967295,t=2,p=1${SALT}${DIGEST}",
    "4 TiB, no version": f"$argon2d$m=4294967295,t=2,p=1${SALT}${DIGEST}",
    "too many passes": f"$argon2id$v=19$m=19456,t=4294967295,p=1${SALT}${DIGEST}",
    "ln=31": f"$scrypt$ln=31,r=8,p=1${SALT}${DIGEST}",
    "r=16 million": f"$scrypt$ln=16,r=16777216,p=1${SALT}${DIGEST}",
    "p=16 million": f"$scrypt$ln=16,r=8,p=16777216${SALT}${DIGEST}",
    "ln=9999": f"$scrypt$ln=9999,r=8,p=1${SALT}${DIGEST}",
    "scrypt of another form": f"$7$z6..../....{SALT}${DIGEST}",
    "4 billion rounds": f"$pbkdf2-sha256$4294967295${SALT}${DIGEST}",
    "4 billion rounds of SHA-512": f"$pbkdf2-sha512$4294967295${SALT}${DIGEST}",
}


@pytest.mark.parametrize("stored", BROKEN.values(), ids=BROKEN)
def test_a_hash_that_can_not_be_checked_lets_nobody_in_and_is_no_other_answer(stored: str) -> None:
    async def work(inside: Inside) -> list[Problem | None]:
        await inside.register()
        await inside.store(stored)
        async with asyncio.timeout(10):
            return [await inside.login(password=password) for password in (PASSWORD, "", "x")]

    assert [problem and problem.code for problem in run(work)] == ["invalid_grant"] * 3


def test_what_waits_for_a_hash_is_bounded_and_there_is_room_again_after() -> None:
    async def work() -> tuple[list[Any], bool]:
        passwords = Passwords(8, threads=1)
        room = passwords.turns.limit
        found = await asyncio.gather(
            *(passwords.verify(PASSWORD, None, Asker(f"192.0.2.{n}")) for n in range(room + 3)), return_exceptions=True
        )
        again = await passwords.verify(PASSWORD, await passwords.hash(PASSWORD))
        passwords.close()
        return found, again

    found, again = asyncio.run(work())
    refused = [one for one in found if isinstance(one, Unavailable)]
    assert [(one.status, one.code, one.headers["Retry-After"]) for one in refused] == [(503, "busy", "2")] * 3
    assert [one for one in found if one not in refused] == [False] * (1 + AHEAD + WAITING_PER_THREAD)
    assert again


SPELLINGS = [
    "@example.org",
    "@EXAMPLE.org",
    "@example.org.",
    "\u00ad@example.org",
    "\u200d@example.org",
    "@exa\u00admple.org",
]


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_one_account_has_four_places_by_whatever_email_it_is_named(name: str) -> None:
    async def work(inside: Inside) -> list[str]:
        await inside.register()
        gate = threading.Event()
        threads = [inside.turns.run(Asker(), lambda: gate.wait(60)) for _ in range(2 + AHEAD)]
        held = asyncio.gather(*threads)
        await asyncio.sleep(0)
        logins = [asyncio.create_task(inside.login(name + rest, "wrong")) for rest in SPELLINGS]
        async with asyncio.timeout(30):
            while sum(login.done() for login in logins) < len(SPELLINGS) - ACCOUNT_PLACES:
                await asyncio.sleep(0.01)
        gate.set()
        await held
        return sorted(problem.code for problem in await asyncio.gather(*logins) if problem)

    assert run(work) == ["busy"] * 2 + ["invalid_grant"] * ACCOUNT_PLACES


def test_hashing_leaves_the_loop_free() -> None:
    async def work() -> int:
        passwords = Passwords(8, threads=2)
        hashing = asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(6)))
        turns = 0
        while not hashing.done():
            await asyncio.sleep(0)
            turns += 1
        passwords.close()
        return turns

    assert asyncio.run(work()) > 100
