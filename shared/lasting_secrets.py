"""The secrets of what the services give out and have to know again: cursors, refresh tokens, webhooks' signatures."""

from secrets import token_urlsafe

from shared.database import Database, Transaction
from shared.settings import Settings

KEEP = "INSERT INTO secret (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"
NAME = "cursors"  # of the row

# The secret of a database that is copied into one which may have its own: what it has signed still verifies.
ADD = """
INSERT INTO secret (name, value)
SELECT CASE WHEN EXISTS (SELECT 1 FROM secret WHERE name = :name) THEN :name || ' of ' || :from_service
    ELSE :name END, :value
WHERE NOT EXISTS (SELECT 1 FROM secret WHERE value = :value)
"""


async def lasting_secrets(database: Database, settings: Settings) -> list[bytes]:
    """The first signs, all verify: SECRET_KEY's, or those that all processes find in the database. A signing key does
    not last, as it is replaced now and then. Its hash, which signed in versions before, still verifies."""
    given = [secret.value for secret in settings.secret_key]
    if given and not settings.has_derived_secret:
        return given
    return [*await database.write(_kept), *given]


def _kept(tx: Transaction) -> list[bytes]:
    """One, or one more for each database that was copied into this one."""
    tx.put(KEEP, name=NAME, value=token_urlsafe(48))
    return [str(value).encode() for (value,) in tx.all("SELECT value FROM secret ORDER BY name")]
