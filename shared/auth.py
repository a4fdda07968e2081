"""The bearer dependency: `claims = await require(request, "tasks")`.

python-jose is called by TokenDoor alone. Its version 3.5.0 accepts tokens whose `exp` is missing, whose signature has
junk in it or whose header nests 3,000 lists, and raises exceptions that are not its own. So length, alphabet, the
header's members and the claims' types are checked here, and any other exception means a bad token.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jose import JWTError, jwt
from starlette.requests import Request

from shared.errors import Forbidden, Unauthorized
from shared.keys import Key
from shared.middleware.single_headers import single_header

TOKEN_TYPE = "at+jwt"  # RFC 9068 §2.1
REALM = "only_post"
CHALLENGE = {"WWW-Authenticate": f'Bearer realm="{REALM}"'}
MAX_TOKEN_BYTES = 4096
MAX_VERIFIED = 4096
CLOCK_SKEW_SECONDS = 60
MAX_LIFETIME_SECONDS = 24 * 3600 + CLOCK_SKEW_SECONDS
# Options of jose: TokenDoor checks these claims itself.
UNCHECKED = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss"), False)
SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
HEADER_MEMBERS = {"alg", "typ", "kid"}
TEXT_CLAIMS = ("iss", "aud", "sub", "client_id", "jti", "scope")
NUMBER_CLAIMS = ("iat", "nbf", "exp", "ver")
MAX_NUMBER = 2**53  # every JSON parser reads it as it is (RFC 7493 §2.2), and every database takes it


@dataclass(frozen=True)
class Claims:
    """RFC 9068 §2.2, and `ver`, the account's version, which grows when tokens issued before must stop working. Times
    in seconds since 1970. `sub` is the user's id, or the machine client's; `sid` the session, '' for a machine."""

    iss: str
    aud: str
    sub: str
    client_id: str
    iat: int
    nbf: int
    exp: int
    jti: str
    scope: str
    ver: int
    sid: str = ""

    def members(self) -> dict[str, str | int]:
        """The claims that the token carries."""
        return {name: value for name, value in vars(self).items() if name != "sid" or value}

    @property
    def is_machine(self) -> bool:
        return self.sub == self.client_id  # RFC 9068 §2.2: no resource owner is involved

    @property
    def scopes(self) -> list[str]:
        return self.scope.split()


class BadToken(Exception):
    """Carries the reason, for the log alone."""


class TokenDoor:
    """Checks tokens by a dictionary of prepared keys, one algorithm each (RFC 8725 §3.1)."""

    def __init__(
        self, keys: Mapping[str, Key], issuer: str, audience: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._verified: dict[str, Claims] = {}

    def check(self, token: str) -> Claims:
        """Raises BadToken for anything but the byte-exact token that was issued."""
        claims = self._verified.get(token) or self._verify(token)
        self._check_times(claims)
        return claims

    def _verify(self, token: str) -> Claims:
        """The checks that do not depend on the time. Valid tokens are cached: each is sent many times."""
        try:
            key = self._keys.get(_header(token)["kid"])
            if key is None:
                raise BadToken("kid is not known")
            claims = _checked(jwt.decode(token, key.jose_key, algorithms=[key.algorithm], options=UNCHECKED))
            if claims.iss != self._issuer:
                raise BadToken("iss is not ISSUER")
            if claims.aud != self._audience:
                raise BadToken("aud is not AUDIENCE")
        except BadToken:
            raise
        except JWTError:
            raise BadToken("signature") from None
        except Exception as error:  # the top of this module says which
            raise BadToken(type(error).__name__) from None
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[token] = claims
        return claims

    def _check_times(self, claims: Claims) -> None:
        now = self._clock()
        if now >= claims.exp:  # RFC 7519 §4.1.4: on or after
            raise BadToken("expired")
        if max(claims.nbf, claims.iat) > now + CLOCK_SKEW_SECONDS:
            raise BadToken("not valid yet")


def _checked(decoded: Mapping[str, Any]) -> Claims:
    for name in TEXT_CLAIMS:
        if not _is_text(decoded.get(name)):
            raise BadToken(f"{name} is missing or no text")
    for name in NUMBER_CLAIMS:
        value = decoded.get(name)
        if type(value) is not int or abs(value) > MAX_NUMBER:
            raise BadToken(f"{name} is missing or no whole number")
    if not _is_text(decoded.get("sid", "")):
        raise BadToken("sid is no text")
    claims = Claims(**{name: value for name, value in decoded.items() if name in Claims.__dataclass_fields__})
    if not claims.sub or not claims.client_id:
        raise BadToken("sub or client_id is empty")
    if not claims.sid and not claims.is_machine:
        raise BadToken("sid is missing")
    if claims.exp - claims.iat > MAX_LIFETIME_SECONDS:
        raise BadToken("lifetime")
    return claims


def _is_text(value: Any) -> bool:
    """NUL and lone surrogates, which no database stores, are not printable."""
    return isinstance(value, str) and value.isprintable()


def _header(token: str) -> dict[str, Any]:
    segments = token.split(".") if len(token) <= MAX_TOKEN_BYTES else []
    if len(segments) != 3 or not all(map(SEGMENT.fullmatch, segments)):
        raise BadToken("form")
    if any(_encode(_decode(segment)) != segment for segment in segments):
        raise BadToken("not canonical base64url")
    header = json.loads(_decode(segments[0]))
    if not isinstance(header, dict) or set(header) != HEADER_MEMBERS or header["typ"] != TOKEN_TYPE:
        raise BadToken("header")
    return header


def _decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def bad_token(reason: str) -> Unauthorized:
    """The answer says that the token is bad, the log why."""
    challenge = f'Bearer realm="{REALM}", error="invalid_token"'
    return Unauthorized("invalid_token", "the token is not valid", challenge, reason)


def bearer_token(request: Request[Any]) -> str:
    """The token of the Authorization header (RFC 6750 §2.1). Raises 401."""
    credentials = single_header(request.scope, b"authorization")
    if credentials is None:
        raise Unauthorized("unauthorized", "a bearer token is needed", CHALLENGE["WWW-Authenticate"])
    scheme, _, token = credentials.partition(" ")
    if scheme.lower() != "bearer":
        raise bad_token("not a bearer token")
    return token.lstrip(" ")  # 1*SP


async def require(request: Request[Any], scope: str = "") -> Claims:
    """The claims of the token of a request that needs `scope`, '' for any. Raises 401 and 403 (RFC 6750 §3.1)."""
    token = bearer_token(request)
    try:
        claims: Claims = request.state["token_door"].check(token)
    except BadToken as error:
        raise bad_token(str(error)) from None
    if scope:
        need_scope(claims, scope)
    return claims


def need_scope(claims: Claims, scope: str) -> None:
    """Raises 403 unless the caller's token has the scope."""
    if scope not in claims.scopes:
        challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{scope}"'
        raise Forbidden(
            "insufficient_scope", f"the token lacks the scope {scope}", headers={"WWW-Authenticate": challenge}
        )
