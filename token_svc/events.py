"""The audit trail: what happened to an account, in the log and in the user's own export."""

import logging

from shared import ids, pruning, times
from shared.database import Row, Transaction

OPERATOR = "operator"  # in place of the address, for a command
NO_ACCOUNT = "-"  # in place of the account, for a name that does not exist
KEPT_MS = 365 * 24 * 3600 * 1000

log = logging.getLogger("audit")


def record(tx: Transaction, account_id: str, kind: str, address: str) -> None:
    """`kind`: registered, login, login_failed, password_changed, email_changed, session_ended,
    refresh_replayed, disabled, enabled, granted, client_created, client_login, client_login_failed,
    client_secret_made, client_secret_ended, token_revoked,
    password_reset, email_verified, imported. Logged by `announce`, once it is on disk."""
    tx.put(
        "INSERT INTO event (id, account_id, kind, address, at) VALUES (:id, :account_id, :kind, :address, :now)",
        id=ids.new(),
        account_id=account_id,
        kind=kind,
        address=address,
        now=tx.now,
    )


def announce(kind: str, account_id: str, address: str) -> None:
    log.info(f"audit.{kind}", extra={"sub": account_id, "client": address})


def announce_key(kind: str, key_id: str) -> None:
    """`kind`: key_made, key_announced, key_rotated. Keys belong to no account, so only the log has them."""
    log.info(f"audit.{kind}", extra={"kid": key_id, "client": OPERATOR})


def prune(tx: Transaction) -> int:
    """Deletes old events, and those of names that do not exist: up to MAX_PRUNED of each; the larger number."""
    guesses = pruning.delete(tx, "event", "id", "account_id = :id", id=NO_ACCOUNT)
    old = pruning.delete(tx, "event", "id", "at <= :before", before=tx.now - KEPT_MS)
    return max(len(guesses), len(old))


def kinds(tx: Transaction, account_id: str) -> set[str]:
    """What has happened to an account in the last year."""
    return {kind for (kind,) in tx.all("SELECT kind FROM event WHERE account_id = :id", id=account_id)}


def of(tx: Transaction, account_id: str) -> list[dict[str, str]]:
    rows: list[Row] = tx.all("SELECT kind, address, at FROM event WHERE account_id = :id ORDER BY id", id=account_id)
    return [{"event": kind, "address": address, "at": times.to_text(at)} for kind, address, at in rows]
