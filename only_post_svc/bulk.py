"""Many tasks cancelled or queued again by what they have in common, some in each transaction."""

from typing import NamedTuple

from only_post_svc import checkpoints, queue
from only_post_svc.gates import Permits, give_back
from only_post_svc.queue import MAX_SWEPT
from shared.database import Transaction, listed

# What is held first: a permit that is given back would only let it in.
UNFINISHED = ("held", "scheduled", "queued", "running")
UNSUCCESSFUL = ("failed", "cancelled")


class Selection(NamedTuple):
    """Which tasks: None takes any. `status` is a client's, `submitted_before` in milliseconds since 1970; `caller` None
    is for the operator."""

    caller: str | None = None
    type: str | None = None
    status: str | None = None
    key: str | None = None
    submitted_before: int | None = None

    def statuses(self, among: tuple[str, ...]) -> list[str]:
        """Those of the table."""
        wanted = queue.WAITING if self.status == "queued" else (self.status,)
        return [one for one in among if self.status is None or one in wanted]

    def number(self, tx: Transaction, among: tuple[str, ...]) -> int:
        return sum(
            int(tx.all(f"SELECT count(*) FROM task WHERE {self._conditions(status)}", **self._asdict())[0][0])
            for status in self.statuses(among)
        )

    def _conditions(self, status: str) -> str:
        given = [condition for name, condition in FILTERS.items() if getattr(self, name) is not None]
        return " AND ".join([queue.CONDITIONS[status].removeprefix("AND "), *given])

    def ids(self, tx: Transaction, status: str, most: int, after: str = "") -> list[str]:
        """Of the tasks of one status, by id."""
        sql = f"SELECT id FROM task WHERE {self._conditions(status)} AND id > :after ORDER BY id LIMIT :most"
        return [task_id for (task_id,) in tx.all(sql, **self._asdict(), after=after, most=most)]


# Of a status, the others are found among the few of the status and not among all of the type or the key.
FILTERS = {
    "caller": "caller = :caller",
    "type": "coalesce(type, '') = :type",
    "key": "coalesce(key, '') = :key",
    "submitted_before": "created_at < :submitted_before",
}

CANCEL = """
UPDATE task SET status = 'cancelled', finished_at = :now, lease = NULL, lease_until = NULL
WHERE id IN {ids} AND coalesce(finished_at, 0) = 0
RETURNING id, type, key, permits
"""


def cancel(tx: Transaction, selection: Selection, most: int = MAX_SWEPT) -> list[str]:
    """The ids of those that it has cancelled; fewer than `most`: no more are left."""
    found: list[str] = []
    for status in selection.statuses(UNFINISHED):
        found += selection.ids(tx, status, most - len(found)) if len(found) < most else []
    if not found:
        return []
    ids, values = listed("id", found)
    rows = tx.all(CANCEL.format(ids=ids), now=tx.now, **values)
    give_back(tx, [Permits(*row[1:]) for row in rows])
    checkpoints.drop(tx, [row[0] for row in rows])
    return [row[0] for row in rows]


def is_any_left(tx: Transaction, selection: Selection, among: tuple[str, ...], after: str = "") -> bool:
    return any(selection.ids(tx, status, 1, after) for status in selection.statuses(among))


OWNERS = "SELECT id, caller FROM task WHERE id IN {ids}"


class Retried(NamedTuple):
    """How many are queued again; where to go on, None at the end."""

    number: int
    after: str | None


def retry(tx: Transaction, selection: Selection, after: str, most: int = MAX_SWEPT) -> Retried:
    """Queues tasks with ids above `after` again, but none that has a successor by its `unique`."""
    found = sorted(id for status in selection.statuses(UNSUCCESSFUL) for id in selection.ids(tx, status, most, after))
    if not found:
        return Retried(0, None)
    ids, values = listed("id", found[:most])
    owners = tx.all(OWNERS.format(ids=ids), **values)
    count = sum(queue.retry(tx, caller, task_id) for task_id, caller in owners)
    return Retried(count, found[:most][-1] if len(found) >= most else None)
