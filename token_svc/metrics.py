"""The gauges of /metrics, beside what the process has counted."""

from shared import metrics_endpoint
from shared.database import Database, Transaction
from shared.metrics import gauge
from token_svc.passwords import Passwords


async def families(database: Database) -> list[str]:
    """What all processes of one database share."""
    return await metrics_endpoint.from_database(database, _sizes)


def _sizes(tx: Transaction) -> list[str]:
    ((accounts,),) = tx.all("SELECT count(*) FROM account")
    ((sessions,),) = tx.all("SELECT count(*) FROM session WHERE expires_at > :now", now=tx.now)
    return [
        gauge("only_post_accounts", "Accounts, disabled ones included.", accounts),
        gauge("only_post_sessions", "Sessions that have not ended.", sessions),
    ]


def hashing(passwords: Passwords) -> list[str]:
    return [
        gauge(
            "only_post_password_hashes_pending", "Passwords being hashed, or waiting for it.", passwords.turns.pending
        ),
        gauge("only_post_password_hashes_limit", "How many may be; more are answered with 503.", passwords.turns.limit),
    ]
