"""The service's grants without HTTP, with passwords that count the hashes they compute."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.database import Database, connection
from shared.errors import Problem
from tests.tokens import SECRET
from token_svc.grants import Grants
from token_svc.main import SCHEMA
from token_svc.passwords import Passwords
from token_svc.settings import Settings
from token_svc.turns import Asker, Turns

T = TypeVar("T")
ADDRESS = "192.0.2.1"
PASSWORD = "correct horse battery staple"


class CountingTurns(Turns):
    taken = 0

    async def run(self, asker: Asker, work: Callable[..., T], *arguments: str) -> T:
        self.taken += 1
        return await super().run(asker, work, *arguments)


@dataclass
class Inside:
    database: Database
    turns: CountingTurns
    grants: Grants

    async def register(self, username: str = "ada") -> str:
        """The id of a new user."""
        wanted = {"username": username, "password": PASSWORD, "email": f"{username}@example.org"}
        return (await self.grants.register(wanted, ADDRESS)).account.id

    async def login(self, username: str = "ada", password: str = PASSWORD) -> Problem | None:
        """What is wrong with it."""
        try:
            await self.grants.by_password(username, password, None, ADDRESS)
        except Problem as problem:
            return problem
        return None

    async def counted(self, work: Coroutine[Any, Any, Any]) -> int:
        """How many hashes `work` computes."""
        before = self.turns.taken
        with suppress(Problem):
            await work
        return self.turns.taken - before

    async def stored(self) -> str:
        row = await self.database.read(lambda tx: tx.one("SELECT password_hash FROM account"))
        return str(row[0]) if row else ""

    async def store(self, password_hash: str) -> None:
        """As the only account's hash."""
        sql = "UPDATE account SET password_hash = :hash"
        await self.database.write(lambda tx: tx.run(sql, hash=password_hash))


def run(work: Callable[[Inside], Coroutine[Any, Any, T]], **env: str) -> T:
    """The value of `work` over an empty service that is there for as long as it takes."""

    async def inside() -> T:
        settings = Settings.from_env({"SECRET_KEY": SECRET, "RATE_LIMITS": "off", **env})
        database = await connection.connect("sqlite:///:memory:", {"token": SCHEMA})
        passwords = Passwords(settings.password_min_length)
        passwords.turns = turns = CountingTurns(2, 32, "passwords")
        try:
            return await work(Inside(database, turns, Grants(database, passwords, settings, [SECRET.encode()])))
        finally:
            passwords.close()
            await database.close()

    return asyncio.run(inside())
