"""The shapes on the wire."""

from dataclasses import dataclass, field
from typing import Any, Literal

from shared import openapi, times
from shared.bodies import Shape
from shared.openapi import DatabaseHealth, Id, Time, left_out
from shared.schemas import schema_of
from shared.strict_json import encode
from token_svc.accounts import AccountRow
from token_svc.items import Deleted, ItemRow
from token_svc.sessions import Issuer, Pair


@dataclass(frozen=True)
class RegisterRequest:
    username: str
    password: str = field(repr=False)
    email: str


GrantType = Literal["password", "refresh_token", "client_credentials"]


@dataclass(frozen=True)
class TokenRequest:
    grant_type: GrantType = "password"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scope: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TokenOnlyRequest:
    """RFC 7009 §2.1 and RFC 7662 §2.1. A client may send who it is along, which the end of a token does not hang on."""

    token: str = field(repr=False)
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ChangeRequest:
    current_password: str = field(repr=False)
    email: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PasswordRequest:
    current_password: str = field(repr=False)


@dataclass(frozen=True)
class ForgotRequest:
    email: str


@dataclass(frozen=True)
class ResetRequest:
    token: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True)
class VerifyRequest:
    token: str = field(repr=False)


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


@dataclass(frozen=True, kw_only=True)
class OAuthProblem(openapi.ProblemDetails):
    """An error, with what OAuth clients look for (RFC 6749 §5.2)."""

    error: Literal[
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "invalid_scope",
        "unsupported_grant_type",
        "invalid_token",
        "insufficient_scope",
        "temporarily_unavailable",
        "server_error",
    ]
    error_description: str


@dataclass(frozen=True)
class Account:
    id: Id
    username: str
    email: str
    created_at: Time


@dataclass(frozen=True)
class Me(Account):
    email_verified: bool


@dataclass(frozen=True)
class Changed(Me):
    """The account as it is now; after a change of the password with a new pair of tokens, since the old ones have
    ended."""

    access_token: str = left_out()
    token_type: Literal["Bearer"] = left_out()
    expires_in: int = left_out()
    refresh_token: str = left_out()
    scope: str = left_out()


@dataclass(frozen=True)
class Verified:
    email: str
    email_verified: Literal[True]


@dataclass(frozen=True)
class Accepted:
    """Empty. A mail is sent if a user has the address."""


@dataclass(frozen=True)
class Tokens:
    """RFC 6749 §5.1. `expires_in` seconds, the access token's."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    scope: str


@dataclass(frozen=True)
class MachineToken:
    """A machine client's: with its secret it gets another at any time (RFC 6749 §4.4.3)."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


@dataclass(frozen=True)
class Machine:
    """A machine client, as its own token sees it."""

    id: Id
    name: str
    scope: str
    created_at: Time


@dataclass(frozen=True)
class Registered(Tokens):
    user: Account


@dataclass(frozen=True)
class Revoked:
    """Empty (RFC 7009 §2.2)."""


@dataclass(frozen=True)
class Inactive:
    """A token that does not work (RFC 7662 §2.2)."""

    active: Literal[False]


@dataclass(frozen=True)
class ActiveAccessToken:
    active: Literal[True]
    token_type: Literal["Bearer"]
    iss: str
    aud: str
    sub: Id
    client_id: str
    iat: int
    nbf: int
    exp: int
    jti: str
    scope: str
    ver: int
    sid: Id = left_out()
    username: str = left_out()


@dataclass(frozen=True)
class ActiveRefreshToken:
    active: Literal[True]
    token_type: Literal["refresh_token"]
    username: str
    sub: Id
    scope: str


@dataclass(frozen=True)
class Item:
    """A user's own JSON, as it was sent."""

    id: Id
    data: Any
    version: int
    created_at: Time
    updated_at: Time


@dataclass(frozen=True)
class DeletedItem:
    id: Id
    deleted: Literal[True]


@dataclass(frozen=True)
class ItemPage:
    """Some items, oldest first, or what has changed, oldest change first. `next_cursor` is null on the last page;
    `since` is the same on all pages of one walk."""

    items: list[Item | DeletedItem]
    next_cursor: str | None
    since: str


@dataclass(frozen=True)
class ExportedAccount(Me):
    scope: str
    is_disabled: bool


@dataclass(frozen=True)
class ExportedMachine(Machine):
    is_disabled: bool


@dataclass(frozen=True)
class ExportedSession:
    id: Id
    scope: str
    created_at: Time
    expires_at: Time


@dataclass(frozen=True)
class ExportedEvent:
    event: str
    address: str
    at: Time


@dataclass(frozen=True)
class ExportedAttempts:
    """Logins, or registrations, as they are counted for an address."""

    kind: str
    address: str
    failures: int
    at: Time


@dataclass(frozen=True)
class Export:
    """Everything that is stored about a user; `tasks` and `schedules` where the POST-only service has the same
    database."""

    user: ExportedAccount | ExportedMachine
    sessions: list[ExportedSession]
    events: list[ExportedEvent]
    attempts: list[ExportedAttempts]
    items: list[Item]
    schedules: list[dict[str, Any]] = left_out()
    tasks: list[dict[str, Any]] = left_out()


@dataclass(frozen=True)
class ServerMetadata:
    """RFC 8414."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    introspection_endpoint_auth_methods_supported: list[str]


@dataclass(frozen=True)
class PublicKey:
    """A JSON Web Key (RFC 7517): EC P-256 with `crv`, `x`, `y`, or RSA with `n`, `e`."""

    kty: Literal["EC", "RSA"]
    kid: str
    use: Literal["sig"]
    alg: Literal["ES256", "RS256"]
    crv: str = left_out()
    x: str = left_out()
    y: str = left_out()
    n: str = left_out()
    e: str = left_out()


@dataclass(frozen=True)
class PublicKeys:
    """Empty while tokens are signed with a shared secret."""

    keys: list[PublicKey]


@dataclass(frozen=True)
class Health:
    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseHealth


REGISTER = Shape(RegisterRequest)
TOKEN = Shape(TokenRequest)
TOKEN_ONLY = Shape(TokenOnlyRequest)
CHANGE = Shape(ChangeRequest)
PASSWORD = Shape(PasswordRequest)
FORGOT = Shape(ForgotRequest)
RESET = Shape(ResetRequest)
VERIFY = Shape(VerifyRequest)
CREATE = Shape(CreateRequest)
ITEM = Shape(ItemRequest)
PATCH = Shape(PatchRequest)

# As forms, which have to name the grant type, and whose other fields are left out (RFC 6749 §3.2).
TOKEN_JSON = TOKEN.schema | {"additionalProperties": True}
TOKEN_FORM = TOKEN.schema | {
    "properties": TOKEN.schema["properties"] | {"grant_type": schema_of(GrantType)},
    "required": ["grant_type"],
    "additionalProperties": True,
}
TOKEN_ONLY_FORM = TOKEN_ONLY.schema | {"additionalProperties": True}


def account_json(account: AccountRow) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "created_at": times.to_text(account.created_at),
    }


def pair_json(issuer: Issuer, pair: Pair) -> dict[str, Any]:
    """RFC 6749 §5.1."""
    return {
        "access_token": issuer.access_token(*pair),
        "token_type": "Bearer",
        "expires_in": issuer.seconds,
        "refresh_token": pair.refresh_token,
        "scope": pair.session.scope,
    }


def machine_token_json(issuer: Issuer, client: AccountRow, scope: str) -> dict[str, Any]:
    """A machine client gets no refresh token (RFC 6749 §4.4.3)."""
    access_token = issuer.token(client.id, client.id, scope, client.version)
    return {"access_token": access_token, "token_type": "Bearer", "expires_in": issuer.seconds, "scope": scope}


def machine_json(client: AccountRow) -> dict[str, Any]:
    return {
        "id": client.id,
        "name": client.username,
        "scope": client.scope,
        "created_at": times.to_text(client.created_at),
    }


def holder_json(account: AccountRow) -> dict[str, Any]:
    """What an account sees of itself."""
    if account.is_client:
        return machine_json(account)
    return account_json(account) | {"email_verified": bool(account.email_verified)}


def session_json(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: times.to_text(row[name]) for name in ("created_at", "expires_at")}


def item_json(item: ItemRow) -> str:
    """An item as its owner sees it, its data as it was sent."""
    created = times.to_text(item.created_at)
    updated = created if item.updated_at == item.created_at else times.to_text(item.updated_at)
    return (
        f'{{"id":"{item.id}","data":{item.data},"version":{item.version},'
        f'"created_at":"{created}","updated_at":"{updated}"}}'
    )


def change_json(change: ItemRow | Deleted) -> str:
    return item_json(change) if isinstance(change, ItemRow) else f'{{"id":"{change.id}","deleted":true}}'


def id_of(item: str) -> str:
    """The id in what `item_json` has written."""
    return item[7:43]


def export_head(
    account: AccountRow, sessions: list[dict[str, Any]], events: list[dict[str, str]], attempts: list[dict[str, Any]]
) -> str:
    """The export up to its items, which follow one by one."""
    head = {
        "user": holder_json(account) | {"scope": account.scope, "is_disabled": bool(account.is_disabled)},
        "sessions": [session_json(session) for session in sessions],
        "events": events,
        "attempts": attempts,
    }
    return encode(head)[:-1] + ',"items":['
