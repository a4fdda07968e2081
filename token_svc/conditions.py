"""If-Match and If-None-Match over an item (RFC 9110 §13.1)."""

import re
from typing import Any

from starlette.requests import Request

from shared.errors import BadRequest, Problem
from shared.openapi import Parameter
from token_svc.items import ItemRow
from token_svc.state import State

IF_MATCH = Parameter(
    "If-Match",
    "header",
    "the ETag that the item must still have",
    str,
    {400: "invalid_if_match", 412: "version_conflict"},
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", "the ETags that need not be sent again", str, {400: "invalid_if_none_match"}
)
UNWANTED = Parameter(
    "If-None-Match",
    "header",
    "the ETags that the item must not have",
    str,
    {400: "invalid_if_none_match", 412: "version_conflict"},
)
TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
TAGS = re.compile(rf"[ \t,]*(?:{TAG.pattern}[ \t]*(?:,[ \t,]*|$))+|[ \t]*\*[ \t]*")
WEAK = "If-Match: a weak entity tag, as a compressing proxy makes it, matches nothing; send it without the W/"


def _tag(item: ItemRow) -> str:
    return f'"{item.version}"'


def etag(item: ItemRow) -> dict[str, str]:
    return {"ETag": _tag(item)}


def tags_of(request: Request[Any], name: str) -> list[str] | None:
    """The entity tags of a header, `*` among them; None without one. Raises 400 for what is neither."""
    lines = request.headers.getlist(name)
    if not lines:
        return None
    header = ", ".join(lines)
    if not TAGS.fullmatch(header):
        raise BadRequest(f"invalid_{name.replace('-', '_')}", f'{name}: must be * or entity tags such as "1"')
    return TAG.findall(header) or ["*"]


def check_conditions(request: Request[State], item: ItemRow) -> None:
    """Raises 412 when If-Match names another version, or If-None-Match this one (RFC 9110 §13.1.1, §13.1.2)."""
    wanted, unwanted = tags_of(request, "if-match"), tags_of(request, "if-none-match")
    if wanted is not None and "*" not in wanted and _tag(item) not in wanted:
        is_weak = any(tag.startswith("W/") for tag in wanted)
        raise _conflict(WEAK if is_weak else "the item has moved on")
    if unwanted is not None and is_among(item, unwanted):
        raise _conflict("there is an item, or this version of it, that If-None-Match rules out")


def is_among(item: ItemRow, tags: list[str]) -> bool:
    return "*" in tags or _tag(item) in [tag.removeprefix("W/") for tag in tags]


def _conflict(detail: str) -> Problem:
    return Problem("version_conflict", detail, status=412)
