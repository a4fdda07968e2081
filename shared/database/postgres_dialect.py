"""The words of PostgreSQL where they are not those of the domain's SQL."""

import re
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

from psycopg import DataError

NAME = re.compile(r"(?<!:):([a-z_][a-z_0-9]*)")
DEFINITION = re.compile(r"(\s|--.*\n)*(CREATE|ALTER) TABLE")

# What the server is told of a value's type (oid, in pg_type.dat); 0 leaves it to the place where the value stands.
OIDS = {NoneType: 0, str: 0, bool: 16, int: 20, float: 701}


class Statement(NamedTuple):
    text: bytes
    names: tuple[str, ...]  # of $1, $2 …


@lru_cache(maxsize=4096)
def translated(sql: str) -> Statement:
    """Texts compare by their bytes, as on SQLite, not as a language sorts them."""
    if DEFINITION.match(sql):
        sql = re.sub(r"\bTEXT\b", 'TEXT COLLATE "C"', sql)
    names = tuple(dict.fromkeys(NAME.findall(sql)))
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    return Statement(NAME.sub(lambda match: numbers[match[1]], sql).encode(), names)


def lateral(outer: str, inner: str) -> str:
    inner = inner.replace(":each.", "each.")
    return f"SELECT found.* FROM ({outer}) AS each CROSS JOIN LATERAL ({inner}) AS found"


def as_text(value: Any) -> bytes | None:
    """A value as the server reads it. Raises DataError, UnicodeEncodeError and KeyError for what it has no word for."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.encode()
        if b"\0" in text:  # where libpq would end it
            raise DataError("PostgreSQL's texts have no NUL")
        return text
    return str(value).encode()


def statement(sql: str, **values: Any) -> tuple[Statement, list[bytes | None], list[int]]:
    """What a wire sends: the statement, the values of $1, $2 … and their types."""
    translation = translated(sql)
    given = [values[name] for name in translation.names]
    return translation, [as_text(value) for value in given], [OIDS[type(value)] for value in given]
