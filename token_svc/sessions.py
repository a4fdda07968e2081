"""Sessions: access tokens, refresh tokens that rotate, and what ends them.

An access token is checked by its signature and, here, against the session and the account as they are now. Of a refresh
token only its SHA-256 is stored. The first one of a session is random. Each use gives its successor, which is derived
from it with a key, so that a use repeated within GRACE_MS gives the same pair.
"""

import hashlib
import hmac
import random
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from jose import jwt

from shared import ids, pruning, times
from shared.auth import TOKEN_TYPE, Claims, bad_token
from shared.database import Transaction
from shared.keys import load_signing_key
from token_svc import accounts
from token_svc.accounts import AccountRow
from token_svc.settings import Settings

REFRESH_MS = 30 * 86400 * 1000
GRACE_MS = 10_000  # for lost answers, and browser tabs that refresh at once
MAX_SESSIONS = 10_000  # of one account: above it the oldest end
SURPLUS_EVERY = 50  # logins, one of which ends the surplus sessions: it has to walk over all of the account's
MAX_SURPLUS = 100  # that it ends
FIRST_PARTY = "first-party"  # the client_id of logins by password
BACK_SECONDS = 10  # of `iat` and `nbf`, for verifiers whose clock is behind


class Session(NamedTuple):
    id: str
    account_id: str
    scope: str


class Issuer:
    """Makes access tokens (RFC 9068) that live `seconds`. Raises SettingsError for a bad key."""

    def __init__(self, settings: Settings) -> None:
        self._key = load_signing_key(settings)
        self._issuer = settings.issuer
        self._audience = settings.audience
        self.seconds = settings.access_token_seconds

    def access_token(self, account: AccountRow, session: Session, refresh_token: str, at: int) -> str:
        """The access token that goes with a refresh token made `at` (milliseconds since 1970): the same at each call,
        so that a repeated refresh gives it again."""
        about = f"{refresh_token} {session.scope} {account.version}"
        jti = hashlib.sha256(about.encode()).hexdigest()[:32]
        return self._signed(account, session.scope, FIRST_PARTY, jti, at // 1000, session.id)

    def machine_token(self, client: AccountRow, scope: str) -> str:
        """A machine speaks for itself, without a session."""
        return self._signed(client, scope, client.id, uuid.uuid4().hex, int(time.time()))

    def _signed(self, account: AccountRow, scope: str, client_id: str, jti: str, now: int, session_id: str = "") -> str:
        """`now` in seconds."""
        claims = Claims(
            iss=self._issuer,
            aud=self._audience,
            sub=account.id,
            client_id=client_id,
            iat=now - BACK_SECONDS,
            nbf=now - BACK_SECONDS,
            exp=now + self.seconds,
            jti=jti,
            scope=scope,
            ver=account.version,
            sid=session_id,
        )
        headers = {"typ": TOKEN_TYPE, "kid": self._key.key_id}
        return str(jwt.encode(claims.members(), self._key.jose_key, self._key.algorithm, headers=headers))


INSERT = """
INSERT INTO session (id, account_id, scope, created_at, expires_at) VALUES (:id, :account_id, :scope, :now, :end)
"""


SURPLUS = f"SELECT id FROM session WHERE account_id = :id ORDER BY id DESC LIMIT {MAX_SURPLUS} OFFSET :most"


class Pair(NamedTuple):
    """A session's refresh token and when it was made, in milliseconds since 1970; its access token is made of them.
    `refresh_token` is '' when its predecessor was used again too late, which has ended the session."""

    account: AccountRow
    session: Session
    refresh_token: str
    at: int


def start(tx: Transaction, account: AccountRow, scope: str) -> Pair:
    """A new session and its first pair. Ends the oldest sessions beyond MAX_SESSIONS, every now and then."""
    session = Session(ids.new(), account.id, scope)
    tx.put(INSERT, **session._asdict(), now=tx.now, end=tx.now + REFRESH_MS)
    if random.randrange(SURPLUS_EVERY) == 0:
        for (oldest,) in tx.all(SURPLUS, id=account.id, most=MAX_SESSIONS):
            end(tx, oldest)
    return Pair(account, session, _store(tx, session.id, secrets.token_urlsafe(32)), tx.now)


def renew(tx: Transaction, account: AccountRow, session_id: str) -> Pair:
    """A new pair for a session, whose refresh tokens end."""
    rows = tx.all("SELECT id, account_id, scope FROM session WHERE id = :id", id=session_id)
    (session,) = (Session(*row) for row in rows)
    tx.put("DELETE FROM refresh_token WHERE session_id = :id", id=session_id)
    return Pair(account, session, _store(tx, session_id, secrets.token_urlsafe(32)), tx.now)


def _store(tx: Transaction, session_id: str, refresh_token: str) -> str:
    tx.put(
        "INSERT INTO refresh_token (digest, session_id, expires_at) VALUES (:digest, :session_id, :expires_at)",
        digest=_digest(refresh_token),
        session_id=session_id,
        expires_at=tx.now + REFRESH_MS,
    )
    return refresh_token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


FIND_REFRESH = """
SELECT session.id, session.account_id, session.scope, refresh_token.used_at
FROM refresh_token JOIN session ON session.id = refresh_token.session_id
    JOIN account ON account.id = session.account_id
WHERE refresh_token.digest = :digest AND refresh_token.expires_at > :now
"""


def by_refresh_token(tx: Transaction, token: str, *, is_usable: bool = False) -> Session | None:
    """The session of a refresh token; with `is_usable`, None where the token is used up."""
    found = _find_refresh(tx, token)
    if found is None or (is_usable and _is_spent(tx, found.used_at)):
        return None
    return found.session


class RefreshToken(NamedTuple):
    """The session of a refresh token, and when the token was used, in milliseconds since 1970; None before."""

    session: Session
    used_at: int | None


def _find_refresh(tx: Transaction, token: str) -> RefreshToken | None:
    row = tx.one(FIND_REFRESH, digest=_digest(token), now=tx.now)
    return RefreshToken(Session(*row[:3]), row[3]) if row else None


def _is_spent(tx: Transaction, used_at: int | None) -> bool:
    return used_at is not None and tx.now - used_at > GRACE_MS


def by_claims(tx: Transaction, claims: Claims) -> Session | None:
    """The session of an access token that still works."""
    if holder(tx, claims) is None or claims.is_machine:
        return None
    row = tx.one("SELECT id, account_id, scope FROM session WHERE id = :id", id=claims.sid)
    return Session(*row) if row else None


def rotate(tx: Transaction, token: str, keys: Sequence[bytes]) -> Pair | None:
    """Uses a refresh token. None when it is unknown, or its account disabled. The first of `keys` derives its
    successor; the others find one that was derived before a rotation of keys."""
    found = _find_refresh(tx, token)
    if found is not None:
        accounts.lock(tx, found.session.account_id)
        found = _find_refresh(tx, token)  # it may have been used or ended meanwhile
    account = accounts.by_id(tx, found.session.account_id) if found else None
    if found is None or account is None or account.is_disabled:
        return None
    session = found.session._replace(scope=_still_granted(found.session.scope, account))
    if found.used_at is not None:
        successor = "" if _is_spent(tx, found.used_at) else _stored_of(tx, successors(token, keys))
        if not successor:
            end(tx, session.id)  # one of its two users may have stolen it (RFC 9700 §4.14.2)
        return Pair(account, session, successor, found.used_at)
    tx.put("UPDATE refresh_token SET used_at = :now WHERE digest = :digest", digest=_digest(token), now=tx.now)
    tx.put("UPDATE session SET expires_at = :end WHERE id = :id", id=session.id, end=tx.now + REFRESH_MS)
    return Pair(account, session, _store(tx, session.id, successors(token, keys)[0]), tx.now)


def successors(token: str, keys: Sequence[bytes]) -> list[str]:
    """The refresh token that follows `token`, as each of `keys` derives it."""
    digests = (hmac.digest(key, b"refresh " + token.encode(), hashlib.sha256) for key in keys)
    return [urlsafe_b64encode(digest).decode().rstrip("=") for digest in digests]


def _stored_of(tx: Transaction, tokens: Sequence[str]) -> str:
    """The one of these tokens that is stored, '' when none is."""
    sql = "SELECT 1 FROM refresh_token WHERE digest = :digest"
    return next((token for token in tokens if tx.one(sql, digest=_digest(token))), "")


def _still_granted(scope: str, account: AccountRow) -> str:
    return " ".join(name for name in scope.split() if name in account.scopes)


def end(tx: Transaction, session_id: str) -> None:
    tx.put("DELETE FROM refresh_token WHERE session_id = :id", id=session_id)
    tx.put("DELETE FROM session WHERE id = :id", id=session_id)


OTHERS = "SELECT id FROM session WHERE account_id = :id AND id <> :keep"


def end_others(tx: Transaction, account_id: str, keep: str = "") -> None:
    """Ends the account's sessions but `keep`."""
    tx.put(f"DELETE FROM refresh_token WHERE session_id IN ({OTHERS})", id=account_id, keep=keep)
    tx.put("DELETE FROM session WHERE account_id = :id AND id <> :keep", id=account_id, keep=keep)


ENDED = "its session is over, or its account has moved on"

HOLDER = f"""
SELECT {accounts.COLUMNS}
FROM account JOIN session ON session.account_id = account.id
WHERE account.id = :sub AND account.version = :ver AND account.is_disabled = 0
    AND session.id = :sid AND session.expires_at > :now
"""


MACHINE = f"""
SELECT {accounts.COLUMNS} FROM account
WHERE id = :sub AND version = :ver AND is_disabled = 0 AND is_client = 1
    AND NOT EXISTS (SELECT 1 FROM revoked_token WHERE jti = :jti)
"""


def holder(tx: Transaction, claims: Claims) -> AccountRow | None:
    """The account of an access token, None when the token does not work any more: a user's by its session, or a
    machine's."""
    sql, values = _holder(tx, claims)
    return accounts.one(tx, sql, **values)


def _holder(tx: Transaction, claims: Claims) -> tuple[str, dict[str, Any]]:
    if claims.is_machine:
        return MACHINE, {"sub": claims.sub, "ver": claims.ver, "jti": claims.jti}
    return HOLDER, {"sub": claims.sub, "ver": claims.ver, "sid": claims.sid, "now": tx.now}


def need_holder(tx: Transaction, claims: Claims) -> AccountRow:
    """The account of an access token. Raises 401 when the token does not work any more."""
    account = holder(tx, claims)
    if account is None:
        raise bad_token(ENDED)
    return account


def hold(tx: Transaction, claims: Claims) -> AccountRow:
    """The account of an access token, locked, for a unit that writes. Raises 401 when the token does not work any
    more."""
    accounts.lock(tx, claims.sub)
    return need_holder(tx, claims)


def expect_holder(tx: Transaction, claims: Claims) -> None:
    """As `hold`, for a unit that need not know the account: it is looked for with what else the unit asks."""
    accounts.lock(tx, claims.sub)
    sql, values = _holder(tx, claims)
    tx.expect(1, bad_token(ENDED), sql, **values)


REVOKE = """
INSERT INTO revoked_token (jti, expires_at) VALUES (:jti, :expires_at) ON CONFLICT (jti) DO NOTHING
"""


def revoke_machine_token(tx: Transaction, claims: Claims) -> AccountRow | None:
    """Ends a machine's access token. The machine, or None when the token did not work any more or is a user's."""
    account = holder(tx, claims) if claims.is_machine else None
    if account:
        accounts.lock(tx, account.id)
        tx.put(REVOKE, jti=claims.jti, expires_at=claims.exp * 1000)
    return account


OF = """
SELECT id, scope, created_at, expires_at,
    (SELECT max(used_at) FROM refresh_token WHERE refresh_token.session_id = session.id)
FROM session WHERE account_id = :account_id ORDER BY id
"""


def of(tx: Transaction, account_id: str) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "scope": scope,
            "created_at": times.to_text(created_at),
            "expires_at": times.to_text(expires_at),
            "refreshed_at": refreshed_at and times.to_text(refreshed_at),
        }
        for id, scope, created_at, expires_at, refreshed_at in tx.all(OF, account_id=account_id)
    ]


def prune(tx: Transaction) -> int:
    """Deletes what has expired, up to MAX_PRUNED rows of each table; the largest number."""
    return max(len(pruning.delete_expired(tx, table, key)) for table, key in EXPIRING)


EXPIRING = (("refresh_token", "digest"), ("session", "id"), ("revoked_token", "jti"))
