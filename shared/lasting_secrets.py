"""The secrets of what the services give out and have to know again: cursors, refresh tokens, webhooks' signatures."""

from secrets import token_urlsafe

from shared.database import Database, Transaction
from shared.settings import Settings

KEEP = "INSERT INTO secret (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"
NAME = "cursors"  # of the row


async def lasting_secrets(database: Database, settings: Settings) -> list[bytes]:
    """The first signs, all verify: SECRET_KEY's, or one that all processes find in the database. A signing key does not
    last, as it is replaced now and then. Its hash, which signed in versions before, still verifies."""
    given = [secret.value for secret in settings.secret_key]
    if given and not settings.has_derived_secret:
        return given
    return [await database.write(_kept), *given]


def _kept(tx: Transaction) -> bytes:
    tx.put(KEEP, name=NAME, value=token_urlsafe(48))
    row = tx.one("SELECT value FROM secret WHERE name = :name", name=NAME)
    assert row is not None
    return str(row[0]).encode()
