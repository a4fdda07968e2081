"""The shapes of what is answered, for the OpenAPI document. Handlers write JSON; the tests hold it against these."""

from dataclasses import dataclass
from typing import Any, Literal

from shared import openapi
from shared.openapi import DatabaseHealth, Id, Time, left_out


@dataclass(frozen=True, kw_only=True)
class OAuthProblem(openapi.Problem):
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
class Tokens:
    """RFC 6749 §5.1. `expires_in` seconds, the access token's."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    scope: str


@dataclass(frozen=True)
class Registered(Tokens):
    user: Account


@dataclass(frozen=True)
class Revoked:
    """Nothing to say (RFC 7009 §2.2)."""


@dataclass(frozen=True)
class Inactive:
    """A token that does not work: no more is said."""

    active: Literal[False]


@dataclass(frozen=True)
class ActiveAccessToken:
    active: Literal[True]
    token_type: Literal["Bearer"]
    username: str
    iss: str
    aud: str
    sub: Id
    iat: int
    nbf: int
    exp: int
    jti: str
    sid: Id
    scope: str
    ver: int


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
class ItemPage:
    """Some items, oldest first. `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


@dataclass(frozen=True)
class ExportedAccount(Account):
    scope: str
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
    """Everything that is stored about a user."""

    user: ExportedAccount
    sessions: list[ExportedSession]
    events: list[ExportedEvent]
    attempts: list[ExportedAttempts]
    items: list[Item]


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
