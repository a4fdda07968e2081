"""The token service beside the limit."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from shared.database import Transaction, connection
from tests.bench.lab import Lab, Measured
from tests.bench.load import post, wrk
from tests.bench.table import Row
from token_svc import items
from token_svc.items import Room
from token_svc.main import SCHEMA
from token_svc.passwords import CONTEXT

PASSWORD = "correct horse battery"
DATA = '{"colour":"red","sizes":[1,2,3]}'
ITEM = f'{{"data":{DATA}}}'
PAGE = 50
GROUP = 500  # rows that are made in one transaction


def _register(lab: Lab, name: str) -> tuple[str, str]:
    """A new user: an access token, and the id."""
    user = {"username": name, "password": PASSWORD, "email": f"{name}@example.com"}
    answer = lab.tokens.post("/register", user)
    answer.raise_for_status()
    return answer.json()["access_token"], answer.json()["user"]["id"]


def _login(name: str) -> str:
    return post(f'{{"username":"{name}","password":"{PASSWORD}"}}')


def _fill(lab: Lab, owner: str, count: int) -> None:
    async def fill() -> None:
        database = await connection.connect(lab.databases.url("tokens"), {"token": SCHEMA})
        for start in range(0, count, GROUP):
            number = min(GROUP, count - start)
            await database.write(partial(_create, owner=owner, count=number), seconds=None)
        await database.close()

    asyncio.run(fill())


def _create(tx: Transaction, owner: str, count: int) -> None:
    for _ in range(count):
        items.create(tx, owner, DATA, Room(10**9, 10**12))


def list_items(lab: Lab) -> Measured:
    token, owner = _register(lab, "lister")
    _fill(lab, owner, PAGE)
    return lab.beside(
        lambda: lab.load(f"{lab.limit}/data", 32, token=token).per_second,
        lambda: lab.load(f"{lab.tokens.url}/data", 32, token=token).per_second,
    )


def create(lab: Lab) -> Measured:
    token, _ = _register(lab, "writer")
    return lab.beside(
        lambda: lab.load(f"{lab.limit}/create", 32, post(ITEM), token).per_second,
        lambda: lab.load(f"{lab.tokens.url}/data", 32, post(ITEM), token).per_second,
    )


def late_page(lab: Lab) -> Measured:
    token, owner = _register(lab, "collector")
    _fill(lab, owner, PAGE * lab.options.page + 1)
    first, late = f"{lab.tokens.url}/data", _page(lab, token, lab.options.page)
    return lab.beside(*(lambda url=url: lab.load(url, 32, token=token).per_second for url in (first, late)))


def _page(lab: Lab, token: str, number: int) -> str:
    """The URL of the page of that number."""
    query = ""
    for _ in range(number - 1):
        page: Any = lab.tokens.get(f"/data{query}", headers={"Authorization": f"Bearer {token}"}).json()
        query = f"?cursor={page['next_cursor']}"
    return f"{lab.tokens.url}/data{query}"


def login(lab: Lab) -> Measured:
    _register(lab, "visitor")
    return lab.beside(
        lambda: _hashes_a_second(lab.options.seconds),
        lambda: lab.load(f"{lab.tokens.url}/token", 8, _login("visitor"), may_refuse=True).per_second,
    )


def login_of_one(lab: Lab) -> Measured:
    _register(lab, "shared")
    return lab.beside(
        lambda: _hashes_a_second(lab.options.seconds),
        lambda: lab.load(f"{lab.tokens.url}/token", 32, _login("shared"), may_refuse=True).per_second,
    )


def _hashes_a_second(seconds: int) -> float:
    """What the cores do at most: argon2id with the service's parameters and nothing else."""
    stored, cores, ends = CONTEXT.hash(PASSWORD), os.cpu_count() or 1, time.monotonic() + seconds

    def verify(_: int) -> int:
        count = 0
        while time.monotonic() < ends:
            CONTEXT.verify(PASSWORD, stored)
            count += 1
        return count

    with ThreadPoolExecutor(cores) as threads:
        return sum(threads.map(verify, range(cores))) / seconds


def health(lab: Lab) -> Measured:
    _register(lab, "crowd")
    seconds = 2 * lab.options.rounds * lab.options.seconds + 60  # it is killed before
    with wrk(f"{lab.tokens.url}/token", 64, _login("crowd"), seconds):
        return lab.latency(lambda: lab.load(f"{lab.tokens.url}/health", 1))


ROWS = [
    Row(
        "list",
        "`GET /data`, 50 items, 32 connections (limit: as many, token check)",
        "0.8",
        list_items,
        "0.45",
    ),
    Row("create", "`POST /data`, on disk, 32 connections (limit: the same token check)", "0.35", create, "0.30"),
    Row("page", "`GET /data` on a late page (limit: on the first)", "0.9", late_page),
    Row(
        "login",
        "logins to one account, 8 connections, without those refused (limit: raw argon2id on all cores)",
        "0.9",
        login,
    ),
    Row(
        "login-of-one",
        "logins to one account, 32 connections, without those refused (limit: raw argon2id)",
        "0.9",
        login_of_one,
    ),
    Row("health-logins", "`GET /health` while 64 clients log in: p50 / p99", "p99 50 ms", health),
]
