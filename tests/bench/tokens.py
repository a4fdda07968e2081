"""The token service beside the limit."""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests import tokens
from tests.bench.load import ROUNDS, SECONDS, Load, idle_rows, post, row, storm
from tests.processes import TokenService
from token_svc.passwords import CONTEXT

USER = '{"username":"bench","password":"correct horse battery","email":"bench@example.com"}'
LOGIN = '{"username":"bench","password":"correct horse battery"}'
ITEM = '{"data":{"colour":"red","sizes":[1,2,3]}}'


def raw_hashes_a_second() -> float:
    """What the cores do at most: argon2id with the service's parameters and nothing else."""
    stored, ends = CONTEXT.hash("correct horse battery"), time.monotonic() + SECONDS

    def verify(_: int) -> int:
        count = 0
        while time.monotonic() < ends:
            CONTEXT.verify("correct horse battery", stored)
            count += 1
        return count

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return sum(threads.map(verify, range(os.cpu_count() or 1))) / SECONDS


def run(directory: Path, limit_url: str) -> None:
    settings = {"SECRET_KEY": tokens.SECRET, "MAX_ITEMS_PER_USER": "1000000"}
    service = TokenService(directory / "tokens", settings)
    lister = requests.post(f"{service.url}/register", data=USER, headers={"Content-Type": "application/json"}).json()
    writer = requests.post(
        f"{service.url}/register", json={"username": "two", "password": "correct horse battery", "email": "b@b"}
    )
    token, other = lister["access_token"], writer.json()["access_token"]
    for _ in range(50):
        requests.post(f"{service.url}/data", data=ITEM, headers={"Authorization": f"Bearer {token}"}).raise_for_status()
    pairs: dict[str, list[tuple[float, float]]] = {"hash": [], "list": [], "create": []}
    for _ in range(ROUNDS):
        pairs["hash"].append((raw_hashes_a_second(), Load(f"{service.url}/token", 8, post(LOGIN)).per_second))
        pairs["list"].append(
            (
                Load(f"{limit_url}/data", 32, token=token).per_second,
                Load(f"{service.url}/data", 32, token=token).per_second,
            )
        )
        pairs["create"].append(
            (
                Load(f"{limit_url}/create", 32, post(ITEM), token=token).per_second,
                Load(f"{service.url}/data", 32, post(ITEM), token=other).per_second,
            )
        )
    for what, limit_name, name in (
        ("POST /token, password, 8 conn., logins/s", "raw argon2id on all cores", "hash"),
        ("GET /data, 50 items, 32 conn., /s", "bare route, token checked, same 50 items", "list"),
        ("POST /data, on disk, 32 conn., /s", "bare route, token checked, same item", "create"),
    ):
        limit, ours = (statistics.median(values) for values in zip(*pairs[name], strict=True))
        row(f"limit: {limit_name}, /s", f"{limit:,.0f}", 1)
        row(what, f"{ours:,.0f}", ours / limit)
    me = statistics.median(Load(f"{service.url}/me", 32, token=token).per_second for _ in range(ROUNDS))
    row("GET /me (a token verified, its session and account looked up), /s", f"{me:,.0f}")
    with storm(f"{service.url}/token", 64, post(LOGIN)):
        health, data = Load(f"{service.url}/health", 1), Load(f"{service.url}/data", 1, token=token)
    row("64 clients log in without pause: GET /health p50 / p99 ms", f"{health.p50:.1f} / {health.p99:.1f}")
    row("64 clients log in without pause: GET /data p50 / p99 ms", f"{data.p50:.1f} / {data.p99:.1f}")
    idle_rows({"token": service.pid})
    service.kill()
