"""The tokens of mails: each is made when its mail is sent, and only its digest is kept."""

import hashlib
import secrets

from shared import pruning
from shared.database import Transaction
from token_svc import accounts
from token_svc.accounts import AccountRow
from token_svc.mail.outbox import RESET, VERIFY, MailRow

LIFETIME_MS = {RESET: 30 * 60 * 1000, VERIFY: 24 * 3600 * 1000}

INSERT_TOKEN = """
INSERT INTO mail_token (digest, kind, account_id, email, version, expires_at)
VALUES (:digest, :kind, :account_id, :email, :version, :expires_at)
"""


def make(tx: Transaction, mail: MailRow) -> tuple[AccountRow, str] | None:
    """The account and a new token for its mail. None when its address has changed since or, for a new password, what
    raises its version."""
    account = accounts.by_id(tx, mail.account_id)
    if account is None or account.is_disabled or account.email != mail.email:
        return None
    if mail.kind == RESET and account.version != mail.version:
        return None
    token = secrets.token_urlsafe(32)
    tx.put(
        INSERT_TOKEN,
        digest=digest_of(token),
        kind=mail.kind,
        account_id=account.id,
        email=mail.email,
        version=mail.version,
        expires_at=tx.now + LIFETIME_MS[mail.kind],
    )
    return account, token


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# A token that verifies an address proves that alone, whatever else has changed.
HOLDER = f"""
SELECT {accounts.COLUMNS}
FROM mail_token JOIN account ON account.id = mail_token.account_id
WHERE mail_token.digest = :digest AND mail_token.kind = :kind AND mail_token.expires_at > :now
    AND account.email = mail_token.email AND account.is_disabled = 0
    AND (mail_token.kind = '{VERIFY}' OR account.version = mail_token.version)
"""


def holder(tx: Transaction, kind: str, token: str) -> AccountRow | None:
    """The account that a token is good for."""
    return accounts.one(tx, HOLDER, kind=kind, digest=digest_of(token), now=tx.now)


def use(tx: Transaction, kind: str, token: str) -> AccountRow | None:
    """The account that a token is good for, locked. Ends all its tokens of the kind."""
    found = holder(tx, kind, token)
    if found is None:
        return None
    accounts.lock(tx, found.id)
    account = holder(tx, kind, token)  # another may have used it meanwhile
    if account:
        tx.put("DELETE FROM mail_token WHERE account_id = :id AND kind = :kind", id=account.id, kind=kind)
    return account


def prune(tx: Transaction) -> int:
    return len(pruning.delete_expired(tx, "mail_token", "digest"))
