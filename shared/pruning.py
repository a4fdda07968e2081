"""Old rows are deleted in steps, small enough that other writes need not wait long."""

from typing import Any

from shared.database import Row, Transaction

MAX_PRUNED = 500  # rows, in one step

DELETE = """
DELETE FROM {table} WHERE ({key}) IN (
    WITH old AS MATERIALIZED (SELECT {key} FROM {table} WHERE {condition} LIMIT :most FOR UPDATE SKIP LOCKED)
    SELECT {key} FROM old
)
RETURNING {returning}
"""


def delete(tx: Transaction, table: str, key: str, condition: str, *, returning: str = "1", **values: Any) -> list[Row]:
    """Deletes up to MAX_PRUNED rows of a table, and gives the columns `returning` of each."""
    sql = DELETE.format(table=table, key=key, condition=condition, returning=returning)
    return tx.all(sql, most=MAX_PRUNED, **values)


def delete_expired(tx: Transaction, table: str, key: str, *, returning: str = "1") -> list[Row]:
    """The oldest first."""
    return delete(tx, table, key, "expires_at <= :now ORDER BY expires_at", returning=returning, now=tx.now)
