"""Scopes: what a token may be used for. Operators grant any name; this software asks for those of KNOWN."""

import re

from shared.errors import BadRequest

DEFAULT = "data tasks"
KNOWN = ("data", "introspect", "logins", "operate", "tasks", "work")
NAME = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,64}")  # RFC 6749 §3.3
MAX_LENGTH = 1024  # of all of them, which every token carries


def parse(raw: str) -> str:
    """Names with spaces between them, each once. Raises ValueError."""
    names = list(dict.fromkeys(raw.split()))
    if not all(map(NAME.fullmatch, names)):
        raise ValueError('must be names of up to 64 characters of ASCII, without " and \\')
    if len(scope := " ".join(names)) > MAX_LENGTH:
        raise ValueError(f"must have at most {MAX_LENGTH} characters")
    return scope


def granted(allowed: str, wanted: str | None) -> str:
    """The scope that is asked for, all that is allowed when none is. Raises 400 `invalid_scope`."""
    asked = [name for name in (wanted or "").split(" ") if name]  # no other space separates (RFC 6749 §3.3)
    names = dict.fromkeys(asked or allowed.split())
    if not names.keys() <= set(allowed.split()):
        raise BadRequest("invalid_scope", "more than was granted")
    return " ".join(names)
