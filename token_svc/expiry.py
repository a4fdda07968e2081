"""Rows that expire are deleted in steps, small enough that other writes need not wait long."""

from shared.database import Transaction

MAX_PRUNED = 500  # rows, in one step

PRUNE = """
DELETE FROM {table} WHERE {key} IN (
    WITH old AS MATERIALIZED (
        SELECT {key} FROM {table} WHERE expires_at <= :now ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    SELECT {key} FROM old
)
"""


def prune(tx: Transaction, table: str, key: str) -> int:
    """Deletes up to MAX_PRUNED rows of a table that have expired, the oldest first; how many."""
    return tx.run(PRUNE.format(table=table, key=key), now=tx.now, most=MAX_PRUNED)
