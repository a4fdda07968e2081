"""Accounts: who there is."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from shared import ids
from shared.database import Transaction

DEFAULT_SCOPE = "data tasks"
SCOPES = frozenset({"data", "tasks", "introspect"})
USERNAME_LENGTHS = range(3, 65)
MAX_FOLDED = 512  # nobody's name is longer, and a long run of combining marks takes the square of its length
INVISIBLE = "\u115f\u1160\u3164\uffa0"  # letters to Unicode, nothing to the eye
EMAIL = re.compile(r"[^\s@\"(),:;<>\[\]\\\x00-\x1f\x7f]{1,64}@[^\s@\"(),:;<>\[\]\\\x00-\x1f\x7f]{1,189}")


class AccountRow(NamedTuple):
    """A row, in the order of COLUMNS. `version` moves on when what was issued before must stop working."""

    id: str
    username: str
    email: str
    password_hash: str
    scope: str
    version: int
    is_disabled: int
    created_at: int  # milliseconds since 1970

    def __repr__(self) -> str:
        return f"AccountRow(id={self.id!r}, username={self.username!r})"  # and no hash, wherever it is shown

    @property
    def scopes(self) -> list[str]:
        return self.scope.split()


COLUMNS = "id, username, email, password_hash, scope, version, is_disabled, created_at"


def fold(name: str) -> str:
    """A name as it is compared: `ＡＤＭＩＮ`, `Admin` and `admin` are one (RFC 8265 §3.3, with NFKC)."""
    name = name[:MAX_FOLDED]
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def username_fault(username: str) -> str:
    """What is wrong with a username, '' when nothing is."""
    key = fold(username)
    if len(username) not in USERNAME_LENGTHS or len(key) not in USERNAME_LENGTHS:
        return "must have 3 to 64 characters"
    composed = unicodedata.normalize("NFC", username)  # as macOS sends them, accents are marks of their own
    if not all(_is_letter_or_digit(character) or character in "._-" for character in composed + _without_marks(key)):
        return "must be made of letters, digits, '.', '_' and '-'"
    return ""


def _is_letter_or_digit(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN" and character not in INVISIBLE


def _without_marks(key: str) -> str:
    """Folding makes marks of its own: the dot of an İ."""
    return "".join(character for character in key if unicodedata.category(character) != "Mn")


def email_fault(email: str) -> str:
    return "" if EMAIL.fullmatch(email) else "must be an email address"


INSERT = """
INSERT INTO account (id, username, username_key, email, email_key, password_hash, scope, version, is_disabled,
    item_count, created_at)
VALUES (:id, :username, :username_key, :email, :email_key, :password_hash, :scope, 1, 0, 0, :now)
"""


def taken(tx: Transaction, username: str | None, email: str | None) -> str:
    """Which of the two somebody has already: 'username', 'email' or ''."""
    if username is not None and tx.one("SELECT 1 FROM account WHERE username_key = :key", key=fold(username)):
        return "username"
    if email is not None and tx.one("SELECT 1 FROM account WHERE email_key = :key", key=fold(email)):
        return "email"
    return ""


def create(tx: Transaction, username: str, email: str, password_hash: str) -> AccountRow:
    """The caller has looked with `taken` in the same transaction. Of two at once the second is run again by the
    database, and finds it taken."""
    account = AccountRow(ids.new(), username, email, password_hash, DEFAULT_SCOPE, 1, 0, tx.now)
    tx.put(
        INSERT,
        id=account.id,
        username=username,
        username_key=fold(username),
        email=email,
        email_key=fold(email),
        password_hash=password_hash,
        scope=account.scope,
        now=tx.now,
    )
    return account


def by_username(tx: Transaction, username: str) -> AccountRow | None:
    row = tx.one(f"SELECT {COLUMNS} FROM account WHERE username_key = :key", key=fold(username))
    return AccountRow(*row) if row else None


def lock(tx: Transaction, account_id: str) -> None:
    """What is found out about the account, and about what is its own, stays true until the transaction ends."""
    tx.lock(f"account {account_id}")


def by_id(tx: Transaction, account_id: str) -> AccountRow | None:
    row = tx.one(f"SELECT {COLUMNS} FROM account WHERE id = :id", id=account_id)
    return AccountRow(*row) if row else None


def list_newest(tx: Transaction, limit: int) -> list[AccountRow]:
    rows = tx.all(f"SELECT {COLUMNS} FROM account ORDER BY id DESC LIMIT :limit", limit=limit)
    return [AccountRow(*row) for row in rows]


def set_email(tx: Transaction, account_id: str, email: str) -> None:
    tx.put(
        "UPDATE account SET email = :email, email_key = :key WHERE id = :id",
        id=account_id,
        email=email,
        key=fold(email),
    )


def set_password(tx: Transaction, account_id: str, password_hash: str) -> None:
    """A new password; the tokens from before stop working."""
    tx.put(
        "UPDATE account SET password_hash = :hash, version = version + 1 WHERE id = :id",
        id=account_id,
        hash=password_hash,
    )


def renew_hash(tx: Transaction, account: AccountRow, password_hash: str) -> None:
    """The same password in today's scheme, unless it was changed meanwhile."""
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


def set_scopes(tx: Transaction, account_id: str, scopes: Sequence[str]) -> None:
    """What may be asked for from now on; access tokens from before stop working."""
    tx.put(SET_SCOPES, id=account_id, scope=" ".join(scopes))


OWNED = (
    "DELETE FROM idempotency_key WHERE scope = 'POST /data ' || :id",
    "DELETE FROM refresh_token WHERE session_id IN (SELECT id FROM session WHERE account_id = :id)",
    "DELETE FROM session WHERE account_id = :id",
    "DELETE FROM event WHERE account_id = :id",
    "DELETE FROM item WHERE account_id = :id",
    "DELETE FROM account WHERE id = :id",
)


def delete(tx: Transaction, account_id: str) -> None:
    """The account and all that is its own."""
    for statement in OWNED:
        tx.put(statement, id=account_id)
