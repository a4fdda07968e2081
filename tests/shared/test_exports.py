"""What an export has of a registered view."""

import json
from typing import Any

from shared import exports
from shared.database import Database, Transaction
from tests.shared.engines import Engine

MANY = exports.PAGE + 1


def fill(tx: Transaction) -> None:
    tx.run("CREATE TABLE thing (owner TEXT, position TEXT, made_at BIGINT, data TEXT)")
    tx.run("CREATE INDEX thing_of ON thing (owner, position)")
    tx.run("INSERT INTO exported VALUES ('things', 'thing', 'made_at data/json')")
    put = "INSERT INTO thing VALUES (:owner, :position, :made_at, :data)"
    for number in range(MANY):
        for made_at in (number + 5000, number):
            data = f'{{"n":{number}}}'
            tx.run(put, owner="ada", position=f"{number:04}", made_at=made_at, data=data)
    tx.run(put, owner="bob", position="0000", made_at=1, data="1")


async def exported(database: Database, owner: str) -> list[dict[str, Any]]:
    text = "".join([piece async for piece in exports.members(database, owner)])
    things: list[dict[str, Any]] = json.loads(f"{{{text[1:]}}}")["things"]
    return things


def test_entries_come_by_position_and_at_one_position_by_their_first_column(engine: Engine) -> None:
    async def work(database: Database) -> list[dict[str, Any]]:
        await database.write(fill)
        return await exported(database, "ada")

    found = engine.run(work)
    assert [one["data"]["n"] for one in found] == [number for number in range(MANY) for _ in range(2)]
    assert [one["made_at"] for one in found[:2]] == ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:05.000Z"]


def test_an_owner_has_the_entries_of_no_other(engine: Engine) -> None:
    async def work(database: Database) -> list[list[dict[str, Any]]]:
        await database.write(fill)
        return [await exported(database, owner) for owner in ("bob", "carol")]

    assert engine.run(work) == [[{"made_at": "1970-01-01T00:00:00.001Z", "data": 1}], []]
