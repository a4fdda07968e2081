"""Accounts: users and machine clients."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from shared import departures, idempotency, ids
from shared.database import Transaction, listed
from token_svc import emails, scopes
from token_svc.names import fold

SERVICE = "token"  # whose tables these are


class AccountRow(NamedTuple):
    """A row of the table. A higher `version` ends the access tokens issued before."""

    id: str
    username: str
    email: str
    password_hash: str
    scope: str
    version: int
    is_disabled: int
    created_at: int  # milliseconds since 1970
    email_verified: int = 0
    is_client: int = 0  # a machine: it has secrets (clients.py) in place of a password and an email

    def __repr__(self) -> str:
        return f"AccountRow(id={self.id!r}, username={self.username!r})"  # without the hash

    @property
    def scopes(self) -> list[str]:
        return self.scope.split()


COLUMNS = ", ".join(f"account.{name}" for name in AccountRow._fields)


def one(tx: Transaction, sql: str, **values: Any) -> AccountRow | None:
    """The account of a statement that gives COLUMNS."""
    row = tx.one(sql, **values)
    return AccountRow(*row) if row else None


def many(tx: Transaction, sql: str, **values: Any) -> list[AccountRow]:
    return [AccountRow(*row) for row in tx.all(sql, **values)]


INSERT = """
INSERT INTO account (id, username, username_key, email, email_key, password_hash, scope, version, is_disabled,
    item_count, created_at, email_verified, is_client)
VALUES (:id, :username, :username_key, :email, :email_key, :password_hash, :scope, 1, 0, 0, :created_at,
    :email_verified, :is_client)
"""


def taken(tx: Transaction, username: str | None, email: str | None) -> str:
    """Which of the two another account has: 'username', 'email' or ''."""
    if username is not None and tx.one("SELECT 1 FROM account WHERE username_key = :key", key=fold(username)):
        return "username"
    if email is not None and tx.one("SELECT 1 FROM account WHERE email_key = :key", key=emails.key(email)):
        return "email"
    return ""


def create(tx: Transaction, username: str, email: str, password_hash: str, scope: str = scopes.DEFAULT) -> AccountRow:
    """Call `taken` first, in the same transaction. Where two make the same name at once, the database runs the second
    again, and it finds the name taken."""
    account = AccountRow(ids.new(), username, emails.cleaned(email), password_hash, scope, 1, 0, tx.now)
    insert(tx, account, fold(username), emails.key(email))
    return account


def insert(tx: Transaction, account: AccountRow, username_key: str, email_key: str) -> None:
    tx.put(INSERT, **account._asdict(), username_key=username_key, email_key=email_key)


BY_USERNAME = f"SELECT {COLUMNS} FROM account WHERE username_key = :key AND is_client = 0"


BY_EMAIL = f"SELECT {COLUMNS} FROM account WHERE email_key = :key AND is_client = 0"


def by_email(tx: Transaction, email: str) -> AccountRow | None:
    return one(tx, BY_EMAIL, key=emails.key(email))


def by_username(tx: Transaction, username: str) -> AccountRow | None:
    return one(tx, BY_USERNAME, key=fold(username))


def by_login(tx: Transaction, name: str) -> AccountRow | None:
    """By the username, or by the email: no username has an @."""
    return by_email(tx, name) if "@" in name else by_username(tx, name)


def lock(tx: Transaction, account_id: str) -> None:
    """Locks the account until the transaction ends. Every transaction that changes it, or what belongs to it, does so
    first."""
    tx.lock(f"account {account_id}")


def by_id(tx: Transaction, account_id: str) -> AccountRow | None:
    return one(tx, f"SELECT {COLUMNS} FROM account WHERE id = :id", id=account_id)


def list_newest(tx: Transaction, limit: int, *, is_client: bool) -> list[AccountRow]:
    kind = f"is_client = {int(is_client)}"  # written out, since only so a partial index fits
    return many(tx, f"SELECT {COLUMNS} FROM account WHERE {kind} ORDER BY id DESC LIMIT :limit", limit=limit)


OLDEST = f"SELECT {COLUMNS} FROM account WHERE id > :after AND is_client = 0 ORDER BY id LIMIT :limit"


def list_oldest(tx: Transaction, after: str, limit: int) -> list[AccountRow]:
    return many(tx, OLDEST, after=after, limit=limit)


def set_email_verified(tx: Transaction, account_id: str) -> None:
    tx.put("UPDATE account SET email_verified = 1 WHERE id = :id", id=account_id)


def set_email(tx: Transaction, account_id: str, email: str) -> None:
    """Sets an address, which is not verified yet."""
    tx.put(
        "UPDATE account SET email = :email, email_key = :key, email_verified = 0 WHERE id = :id",
        id=account_id,
        email=emails.cleaned(email),
        key=emails.key(email),
    )


def set_password(tx: Transaction, account_id: str, password_hash: str) -> None:
    """Sets a password, and ends the access tokens issued before."""
    tx.put(
        "UPDATE account SET password_hash = :hash, version = version + 1 WHERE id = :id",
        id=account_id,
        hash=password_hash,
    )


def renew_hash(tx: Transaction, account: AccountRow, password_hash: str) -> None:
    """Stores the password's hash in today's scheme, unless the password was changed meanwhile."""
    tx.put(
        "UPDATE account SET password_hash = :hash WHERE id = :id AND password_hash = :old",
        id=account.id,
        hash=password_hash,
        old=account.password_hash,
    )


def set_disabled(tx: Transaction, account_id: str, *, is_disabled: bool) -> None:
    tx.put(
        "UPDATE account SET is_disabled = :is_disabled, version = version + 1 WHERE id = :id",
        id=account_id,
        is_disabled=int(is_disabled),
    )


SET_SCOPES = "UPDATE account SET scope = :scope, version = version + 1 WHERE id = :id"


def set_scopes(tx: Transaction, account_id: str, scopes: Iterable[str]) -> None:
    """Sets the scopes, and ends the access tokens issued before."""
    tx.put(SET_SCOPES, id=account_id, scope=" ".join(scopes))


def delete(tx: Transaction, account_id: str) -> None:
    """Deletes the account, so that its sessions and tokens stop working. Its other rows are deleted by `forget`."""
    tx.put("DELETE FROM account WHERE id = :id", id=account_id)
    departures.announce(tx, account_id)


OF_SESSIONS = "SELECT digest FROM refresh_token WHERE session_id IN (SELECT id FROM session WHERE account_id = :owner)"

# What a deleted account leaves: the table, its key, and how the account's rows are found.
LEFT = (
    ("item", "id", "SELECT id FROM item WHERE account_id = :owner"),
    ("deleted_item", "id", "SELECT id FROM deleted_item WHERE account_id = :owner"),
    ("event", "id", "SELECT id FROM event WHERE account_id = :owner"),
    ("client_secret", "digest", "SELECT digest FROM client_secret WHERE account_id = :owner"),
    ("mail_token", "digest", "SELECT digest FROM mail_token WHERE account_id = :owner"),
    ("mail", "id", "SELECT id FROM mail WHERE account_id = :owner"),
    ("refresh_token", "digest", OF_SESSIONS),
    ("session", "id", "SELECT id FROM session WHERE account_id = :owner"),
)


def forget(tx: Transaction, owner: str) -> bool:
    """Deletes some of what a deleted account has left; False once nothing is left."""
    for table, key, find in LEFT:
        if left := [value for (value,) in tx.all(f"{find} LIMIT :most", owner=owner, most=departures.MOST)]:
            for some in departures.in_time(left):
                named, values = listed("key", some)
                tx.put(f"DELETE FROM {table} WHERE {key} IN {named}", **values)
            return True
    return idempotency.forget(tx, owner)
