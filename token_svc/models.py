"""The shapes on the wire."""

from dataclasses import dataclass, field
from typing import Any, Literal

from shared import times
from shared.bodies import Shape
from shared.schemas import schema_of
from shared.strict_json import encode
from token_svc.accounts import Account
from token_svc.items import Item
from token_svc.sessions import Session


@dataclass(frozen=True)
class RegisterRequest:
    username: str
    password: str = field(repr=False)
    email: str


GrantType = Literal["password", "refresh_token"]


@dataclass(frozen=True)
class TokenRequest:
    grant_type: GrantType = "password"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scope: str | None = None


@dataclass(frozen=True)
class TokenOnlyRequest:
    """RFC 7009 §2.1 and RFC 7662 §2.1."""

    token: str = field(repr=False)
    token_type_hint: str | None = None


@dataclass(frozen=True)
class ChangeRequest:
    current_password: str = field(repr=False)
    email: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PasswordRequest:
    current_password: str = field(repr=False)


@dataclass(frozen=True)
class CreateRequest:
    data: Any


@dataclass(frozen=True)
class ItemRequest:
    """What GET returned may come back whole: only `data` counts."""

    data: Any
    id: Any = None
    version: Any = None
    created_at: Any = None
    updated_at: Any = None


@dataclass(frozen=True)
class PatchRequest:
    """A merge patch of the whole item (RFC 7396), of which only `data` can be changed."""

    data: Any = None
    id: Any = None
    version: Any = None
    created_at: Any = None
    updated_at: Any = None


REGISTER = Shape(RegisterRequest)
TOKEN = Shape(TokenRequest)
TOKEN_ONLY = Shape(TokenOnlyRequest)
CHANGE = Shape(ChangeRequest)
PASSWORD = Shape(PasswordRequest)
CREATE = Shape(CreateRequest)
ITEM = Shape(ItemRequest)
PATCH = Shape(PatchRequest)

# As forms, which have to name the grant type, and whose other fields are left out (RFC 6749 §3.2).
TOKEN_FORM = TOKEN.schema | {
    "properties": TOKEN.schema["properties"] | {"grant_type": schema_of(GrantType)},
    "required": ["grant_type"],
    "additionalProperties": True,
}
TOKEN_ONLY_FORM = TOKEN_ONLY.schema | {"additionalProperties": True}


def account_json(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "created_at": times.to_text(account.created_at),
    }


def token_json(access_token: str, refresh_token: str, seconds: int, session: Session) -> dict[str, Any]:
    """RFC 6749 §5.1."""
    return {
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": seconds,
        "refresh_token": refresh_token,
        "scope": session.scope,
    }


def session_json(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: times.to_text(row[name]) for name in ("created_at", "expires_at")}


def item_json(item: Item) -> str:
    """An item as its owner sees it, its data as it was sent."""
    created = times.to_text(item.created_at)
    updated = created if item.updated_at == item.created_at else times.to_text(item.updated_at)
    return (
        f'{{"id":"{item.id}","data":{item.data},"version":{item.version},'
        f'"created_at":"{created}","updated_at":"{updated}"}}'
    )


def id_of(item: str) -> str:
    """The id in what `item_json` has written."""
    return item[7:43]


def export_head(
    account: Account, sessions: list[dict[str, Any]], events: list[dict[str, str]], attempts: list[dict[str, Any]]
) -> str:
    """The export up to its items, which follow one by one."""
    head = {
        "user": account_json(account) | {"scope": account.scope, "is_disabled": bool(account.is_disabled)},
        "sessions": [session_json(session) for session in sessions],
        "events": events,
        "attempts": attempts,
    }
    return encode(head)[:-1] + ',"items":['
