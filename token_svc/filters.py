"""`where`: which items contain some JSON."""

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from shared import strict_json
from token_svc.items import ItemRow

MAX_CHARACTERS = 8192

Fits = Callable[[ItemRow], bool]


def containing(where: str) -> Fits:
    """Whether an item's data is an object with every member of `where`, and with that value: of an object every member
    within, of anything else all of it. Raises ValueError with what is wrong."""
    if len(where) > MAX_CHARACTERS:
        raise ValueError(f"must have at most {MAX_CHARACTERS} characters")
    try:
        strict_json.decode(where.encode())  # the rules are those of bodies
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from None
    wanted = _parsed(where)
    if not isinstance(wanted, dict):
        raise ValueError("must be a JSON object")
    return lambda item: _contains(_parsed(item.data), wanted)


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=_decimal)  # float takes 0.1 and 0.10000000000000001 for one number


def _decimal(written: str) -> Decimal:
    """Decimal refuses exponents beyond some 10**18. What has one is 0 or nearer to 0 than any Decimal, since JSON with
    a number above 1.8e308 is not accepted."""
    try:
        return Decimal(written)
    except InvalidOperation:
        return Decimal(0)


def _contains(data: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(data, dict) and all(
            name in data and _contains(data[name], value) for name, value in wanted.items()
        )
    return _is_same(data, wanted)


def _is_same(data: Any, wanted: Any) -> bool:
    """Whether two values are the same JSON: 1 and 1.0 are one number, 1 and true are not one value."""
    if isinstance(data, list) and isinstance(wanted, list):
        return len(data) == len(wanted) and all(map(_is_same, data, wanted))
    if isinstance(data, dict) and isinstance(wanted, dict):
        return data.keys() == wanted.keys() and all(_is_same(data[name], wanted[name]) for name in wanted)
    return isinstance(data, bool) == isinstance(wanted, bool) and bool(data == wanted)
