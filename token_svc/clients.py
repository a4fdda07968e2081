"""Machine clients: accounts of programs, which have secrets in place of a password (RFC 6749 §4.4).

A secret has 256 random bits, so that its SHA-256 is all that is stored, one look-up by that digest checks it, and
guesses need no lockout: a right secret works, however many wrong ones came before.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import NamedTuple

from shared import ids
from shared.database import Database, Transaction
from shared.errors import Unauthorized
from token_svc import accounts, attempts, events, names
from token_svc.accounts import AccountRow
from token_svc.settings import Settings

MAX_SECRETS = 2
USED_MS = 3600 * 1000  # between two writes of when a secret was last used
CHALLENGE = 'Basic realm="only_post"'


class Credentials(NamedTuple):
    client_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(client_id={self.client_id!r})"


class SecretRow(NamedTuple):
    digest: str
    created_at: int  # milliseconds since 1970
    used_at: int | None


class InvalidClient(Unauthorized):
    """Says nothing of the reason (RFC 6749 §5.2)."""

    def __init__(self) -> None:
        super().__init__("invalid_client", "the client's id or its secret is not right", CHALLENGE)


@dataclass(frozen=True)
class Clients:
    database: Database
    settings: Settings

    async def authenticate(self, given: Credentials, address: str) -> AccountRow:
        """Raises 401, after the same work for every reason, and 429 once an address has sent too many wrong secrets."""
        digest = digest_of(given.secret)
        client, used_at = await self.database.read(lambda tx: find(tx, given.client_id, digest))
        if client is None:
            await self._failed(given.client_id, address)
            raise InvalidClient
        await self._used(client.id, digest, used_at, address)
        return client

    async def _used(self, client_id: str, digest: str, used_at: int | None, address: str) -> None:
        def is_due(tx: Transaction) -> bool:
            return used_at is None or tx.now - used_at >= USED_MS

        def unit(tx: Transaction) -> None:
            if tx.run("UPDATE client_secret SET used_at = :now WHERE digest = :digest", digest=digest, now=tx.now):
                events.record(tx, client_id, "client_login", address)

        if await self.database.read(is_due):
            await self.database.write(unit)
        events.announce("client_login", client_id, address)

    async def _failed(self, client_id: str, address: str) -> None:
        def unit(tx: Transaction) -> str:
            if rate := self.settings.rate_limits.login:
                limits = attempts.client_limits(rate, address)
                attempts.begin(tx, limits)
                attempts.fail(tx, limits)
            is_client = tx.one("SELECT 1 FROM account WHERE id = :id AND is_client = 1", id=client_id) is not None
            known_id = client_id if is_client else events.NO_ACCOUNT
            events.record(tx, known_id, "client_login_failed", address)
            return known_id

        events.announce("client_login_failed", await self.database.write(unit), address)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


FIND = f"""
SELECT {accounts.COLUMNS}, client_secret.used_at
FROM client_secret JOIN account ON account.id = client_secret.account_id
WHERE client_secret.digest = :digest AND account.id = :id AND account.is_disabled = 0
"""


def find(tx: Transaction, client_id: str, digest: str) -> tuple[AccountRow | None, int | None]:
    """The client of a secret, and when the secret was last used."""
    row = tx.one(FIND, id=client_id, digest=digest)
    return (AccountRow(*row[:-1]), row[-1]) if row else (None, None)


def create(tx: Transaction, name: str, scope: str) -> tuple[AccountRow, str]:
    """A new client and its secret. The caller has looked with `by_name` in the same transaction."""
    client = AccountRow(ids.new(), name, "", "", scope, 1, 0, tx.now, is_client=1)
    accounts.insert(tx, client, _key(name), _key(client.id))
    return client, add_secret(tx, client.id)


def _key(name: str) -> str:
    return f"client:{names.fold(name)}"  # no username and no email has a colon


def add_secret(tx: Transaction, client_id: str) -> str:
    """Makes another secret, and ends the oldest beyond MAX_SECRETS."""
    secret = secrets.token_urlsafe(32)
    tx.put(
        "INSERT INTO client_secret (digest, account_id, created_at) VALUES (:digest, :id, :now)",
        digest=digest_of(secret),
        id=client_id,
        now=tx.now,
    )
    keep_secrets(tx, client_id, MAX_SECRETS, newest=digest_of(secret))
    return secret


def keep_secrets(tx: Transaction, client_id: str, count: int, newest: str = "") -> None:
    """Ends all but the newest `count`."""
    found = sorted(secrets_of(tx, client_id), key=lambda one: (one.digest == newest, one.created_at))
    for old in found[:-count]:
        tx.put("DELETE FROM client_secret WHERE digest = :digest", digest=old.digest)


def secrets_of(tx: Transaction, client_id: str) -> list[SecretRow]:
    """Oldest first."""
    sql = "SELECT digest, created_at, used_at FROM client_secret WHERE account_id = :id ORDER BY created_at, digest"
    return [SecretRow(*row) for row in tx.all(sql, id=client_id)]


def by_name(tx: Transaction, name: str) -> AccountRow | None:
    return accounts.one(tx, f"SELECT {accounts.COLUMNS} FROM account WHERE username_key = :key", key=_key(name))
