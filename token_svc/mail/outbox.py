"""The outbox: a mail is written by the transaction that causes it, and stays until a server has taken it."""

from typing import NamedTuple

from shared import ids
from shared.database import Transaction
from token_svc import attempts, emails
from token_svc.accounts import AccountRow
from token_svc.events import NO_ACCOUNT

RESET = "reset"
VERIFY = "verify"
HINT = "mail"  # to other processes: a mail waits
RATE = (5, 3600)  # to one address: a stranger cannot fill its inbox
LEASE_MS = 120_000  # for one that is being sent; longer than a try may take
FIRST_DELAY_MS = 5_000
MAX_DELAY_MS = 3600 * 1000
KEPT_MS = 24 * 3600 * 1000  # after which a mail that no server has taken is given up


class MailRow(NamedTuple):
    id: str
    kind: str
    account_id: str
    email: str
    version: int
    language: str
    attempts: int
    created_at: int  # milliseconds since 1970


COLUMNS = ", ".join(MailRow._fields)

INSERT = """
INSERT INTO mail (id, kind, account_id, email, version, language, attempts, created_at, due_at)
VALUES (:id, :kind, :account_id, :email, :version, :language, 0, :now, :now)
"""


def put(tx: Transaction, kind: str, account: AccountRow | None, email: str, language: str) -> None:
    """Adds a mail, unless its address has had RATE of them. Without an account the work is the same, so that response
    times tell nothing; the mailer drops the mail."""
    if not attempts.take_mail(tx, RATE, emails.key(email)):
        return
    tx.put(
        INSERT,
        id=ids.new(),
        kind=kind,
        account_id=account.id if account else NO_ACCOUNT,
        email=account.email if account else emails.cleaned(email),
        version=account.version if account else 0,
        language=language,
        now=tx.now,
    )


CLAIM = f"""
UPDATE mail SET due_at = :until, attempts = attempts + 1 WHERE id IN (
    WITH due AS MATERIALIZED (
        SELECT id FROM mail WHERE due_at <= :now ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM due
)
RETURNING {COLUMNS}
"""


def is_due(tx: Transaction) -> bool:
    return tx.one("SELECT 1 FROM mail WHERE due_at <= :now LIMIT 1", now=tx.now) is not None


def claim(tx: Transaction) -> MailRow | None:
    """A mail that is due, if there is one. No other process sends it until its lease is over."""
    row = tx.one(CLAIM, now=tx.now, until=tx.now + LEASE_MS)
    return MailRow(*row) if row else None


def drop(tx: Transaction, mail: MailRow) -> None:
    """The mail is sent, or given up."""
    tx.put("DELETE FROM mail WHERE id = :id", id=mail.id)


def postpone(tx: Transaction, mail: MailRow) -> bool:
    """Sends it later. False, and drops it, when it has waited too long."""
    delay = min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** min(mail.attempts - 1, 20))
    if tx.now + delay > mail.created_at + KEPT_MS:
        drop(tx, mail)
        return False
    tx.put("UPDATE mail SET due_at = :due_at WHERE id = :id", id=mail.id, due_at=tx.now + delay)
    return True
