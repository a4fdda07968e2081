"""The words of PostgreSQL where they are not those of the domain's SQL."""

import re
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

from psycopg import DataError

from shared.database import is_reading

NAME = re.compile(r"(?<!:):([a-z_][a-z_0-9]*)")
DEFINITION = re.compile(r"(\s|--.*\n)*(CREATE|ALTER) TABLE")

# What the server is told of a value's type (oid, in pg_type.dat); 0 leaves it to the place where the value stands.
OIDS = {NoneType: 0, str: 0, list: 0, bool: 16, int: 20, float: 701}


# `listed` names each of its values; as an array they are one, and the statement is the same for any number of them.
LIST = re.compile(r"\b(NOT )?IN \((:([a-z_]+)\d+(?:, :\3\d+)*)\)")


class Statement(NamedTuple):
    text: bytes
    names: tuple[str | tuple[str, ...], ...]  # of $1, $2 …; an array has those of all its values


@lru_cache(maxsize=4096)
def translated(sql: str) -> Statement:
    """Texts compare by their bytes, as on SQLite, not as a language sorts them."""
    if DEFINITION.match(sql):
        sql = re.sub(r"\bTEXT\b", 'TEXT COLLATE "C"', sql)
    arrays = {f"all_{name}": tuple(NAME.findall(list)) for _, list, name in LIST.findall(sql)}
    sql = LIST.sub(lambda found: f"{'<> ALL' if found[1] else '= ANY'}(:all_{found[3]})", sql)
    names = list(dict.fromkeys(NAME.findall(sql)))
    text = NAME.sub(lambda name: f"${names.index(name[1]) + 1}", sql)
    return Statement(text.encode(), tuple(arrays.get(name, name) for name in names))


ROW = re.compile(r"\s*INSERT INTO \w+ \([\w\s,]+\)\s*VALUES\s*(\([\w\s,:']+\))\s*")


@lru_cache(maxsize=4096)
def adds_a_row(sql: str) -> bool:
    """Whether it is an INSERT of one row and no more, so that many of them may be one statement."""
    return ROW.fullmatch(sql) is not None


@lru_cache(maxsize=4096)
def repeated(sql: str, count: int) -> Statement:
    """An INSERT of one row, as one of `count` rows."""
    row = ROW.fullmatch(sql)
    assert row is not None
    names = tuple(dict.fromkeys(NAME.findall(row[1])))
    rows = (NAME.sub(lambda name, n=n: f"${n * len(names) + names.index(name[1]) + 1}", row[1]) for n in range(count))
    return Statement(f"{sql[: row.start(1)]}{', '.join(rows)}".encode(), names * count)


@lru_cache(maxsize=4096)
def expecting(sql: str) -> str:
    """Fails, and the transaction with it, unless there are :expected rows."""
    rows = sql if is_reading(sql) else f"{sql} RETURNING 1"
    return f"WITH met AS ({rows}) SELECT 1 / (count(*) = :expected)::int FROM met"


def lateral(outer: str, inner: str) -> str:
    inner = inner.replace(":each.", "each.")
    return f"SELECT found.* FROM ({outer}) AS each CROSS JOIN LATERAL ({inner}) AS found"


def statement(sql: str, **values: Any) -> tuple[Statement, list[bytes | None], list[int]]:
    """What a wire sends: the statement, the values of $1, $2 … and their types. Raises DataError, UnicodeEncodeError
    and KeyError for what it has no word for."""
    translation = translated(sql)
    given = [values[name] if isinstance(name, str) else [values[one] for one in name] for name in translation.names]
    return translation, [as_text(value) for value in given], [OIDS[type(value)] for value in given]


def as_text(value: Any) -> bytes | None:
    """A value as the server reads it."""
    if value is None:
        return None
    text = _array(value) if isinstance(value, list) else str(value).encode()
    if b"\0" in text:  # where libpq would end it
        raise DataError("PostgreSQL's texts have no NUL")
    return text


def _array(values: list[Any]) -> bytes:
    return f"{{{','.join(_quoted(value) if isinstance(value, str) else str(value) for value in values)}}}".encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
