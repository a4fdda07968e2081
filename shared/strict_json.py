"""Strict JSON: texts that two parsers may read differently are refused.

RFC 8259 with the limits of I-JSON (RFC 7493 §2): UTF-8, no key twice, no NaN, no lone surrogate. Integers keep every
digit.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64


class NotJSON(ValueError):
    """Says what is wrong, for the client to read."""


encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def decode(body: bytes) -> Any:
    """The value of a JSON text. Raises NotJSON."""
    try:
        text = body.decode()
        value = DECODER.decode(text)
        _check_strings(text, value)
        _check_depth(text, value)
    except UnicodeDecodeError:
        raise NotJSON("the body is not UTF-8") from None
    except RecursionError:
        raise NotJSON(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise NotJSON(_explain(error)) from None
    return value


def exact(text: str) -> Any:
    """The value of a text that `decode` has taken. A number that a float would write otherwise is a string of its
    digits behind NUL, which no string of such a text has."""
    return EXACT.decode(text)


def members(text: str) -> dict[str, str]:
    """The members of an object that `decode` has taken, each value as it was written."""
    written: dict[str, str] = {}

    def take(name: str, start: int) -> int:
        end = _end(text, start)
        written[name] = text[start:end]
        return end

    _walk(text, _skip_space(text, 0), take)
    return written


def merge(target: str, patch: str) -> str:
    """JSON Merge Patch (RFC 7396) on texts: what the patch does not name stays as it was written."""
    return _merged(target or "null", 0, _tree(patch, 0)[0])[0]


Tree = dict[str, "Tree"] | str  # objects taken apart, all other values as they were written


def _tree(text: str, at: int) -> tuple[Tree, int]:
    """The value at `at`, and where it ends. Takes linear time, however deep it nests."""
    if text[at] != "{":
        end = _end(text, at)
        return text[at:end], end
    found: dict[str, Tree] = {}

    def take(name: str, start: int) -> int:
        found[name], end = _tree(text, start)
        return end

    return found, _walk(text, at, take)


def _merged(text: str, at: int, patch: Tree) -> tuple[str, int]:
    """The value at `at` with the patch merged in, and where it ended."""
    if isinstance(patch, str):
        return patch, _end(text, at)
    merged: dict[str, str] = {}

    def take(name: str, start: int) -> int:
        change = patch.get(name)
        if change is None:
            end = _end(text, start)
            merged[name] = text[start:end]
        else:
            merged[name], end = _merged(text, start, change)
        return end

    end = _walk(text, at, take) if text[at] == "{" else _end(text, at)
    for name, change in patch.items():
        if change == "null":
            merged.pop(name, None)
        elif name not in merged:
            merged[name], _ = _merged("null", 0, change)
    return "{" + ",".join(f"{encode(name)}:{value}" for name, value in merged.items()) + "}", end


def _walk(text: str, at: int, take: Callable[[str, int], int]) -> int:
    """Where the object at `at` ends. On the way `take` is called with each name and the start of its value, and
    returns the end of that value."""
    at = _skip_space(text, at + 1)
    while text[at] != "}":
        name, at = DECODER.raw_decode(text, at)
        start = _skip_space(text, _skip_space(text, at) + 1)  # behind the colon
        at = _skip_space(text, take(name, start))
        at = _skip_space(text, at + 1) if text[at] == "," else at
    return at + 1


def _end(text: str, at: int) -> int:
    return int(DECODER.raw_decode(text, at)[1])


SPACE = re.compile(r"[ \t\n\r]*")


def _skip_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _explain(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return "a number is out of range" if "digits" in str(error) else str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return members


def finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _exact(text: str) -> float | str:
    number = float(text)
    return number if repr(number) == text else f"\0{text}"


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=finite, parse_constant=refuse_constant)
EXACT = json.JSONDecoder(parse_float=_exact)
ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _check_strings(text: str, value: Any) -> None:
    """Lone surrogates can't be encoded again and NUL can't be stored; both can only come as escapes."""
    if "\\u" not in text:
        return
    written = encode(value)
    if ESCAPED_NUL.search(written):
        raise ValueError("a string contains NUL")
    try:
        written.encode()
    except UnicodeEncodeError:
        raise ValueError("a string contains a lone surrogate") from None


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node) if isinstance(child, (dict, list))]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node
