"""OAuth 2 on the wire: tokens, what they are good for, metadata and keys."""

from dataclasses import dataclass, field
from typing import Any, Literal

from shared import openapi
from shared.bodies import Shape
from shared.openapi import Id, left_out
from shared.schemas import schema_of
from token_svc.accounts import AccountRow
from token_svc.sessions import Issuer, Pair

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
    """RFC 7009 §2.1 and RFC 7662 §2.1. A client may send its credentials along; a token is ended without them, too."""

    token: str = field(repr=False)
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


TOKEN_REQUEST = Shape(TokenRequest)
TOKEN_ONLY_REQUEST = Shape(TokenOnlyRequest)


# Unknown members are ignored, and a form has to name its grant type (RFC 6749 §3.2).
TOKEN_JSON = TOKEN_REQUEST.schema | {"additionalProperties": True}
TOKEN_FORM = TOKEN_REQUEST.schema | {
    "properties": TOKEN_REQUEST.schema["properties"] | {"grant_type": schema_of(GrantType)},
    "required": ["grant_type"],
    "additionalProperties": True,
}
TOKEN_ONLY_FORM = TOKEN_ONLY_REQUEST.schema | {"additionalProperties": True}


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
    """`keys` is empty while tokens are signed with a shared secret."""

    keys: list[PublicKey]


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
    access_token = issuer.machine_token(client, scope)
    return {"access_token": access_token, "token_type": "Bearer", "expires_in": issuer.seconds, "scope": scope}
