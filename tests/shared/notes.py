"""A database of notes, as each process of a test opens it: this module imports little, since many are started."""

from dataclasses import dataclass
from pathlib import Path

from shared.database import Database, Transaction, connection

SCHEMA = "CREATE TABLE note (id TEXT PRIMARY KEY, writer BIGINT NOT NULL);\n"
ADD = "INSERT INTO note (id, writer) VALUES (:id, :writer)"


def add(tx: Transaction, id: str, writer: int = 0) -> str:
    tx.run(ADD, id=id, writer=writer)
    return id


def ids(tx: Transaction) -> list[str]:
    return [row[0] for row in tx.all("SELECT id FROM note ORDER BY id")]


@dataclass
class Notes:
    """`name` says which engine; `url` is what DATABASE_URL would be."""

    name: str
    url: str
    directory: Path

    async def connect(self) -> Database:
        return await connection.connect(self.url, {"notes": self.directory / "schema"})
