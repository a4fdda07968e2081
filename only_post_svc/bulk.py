"""Cancel and retry of all tasks that fit a filter, some in each transaction."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from only_post_svc import checkpoints, hints, lookup, queue
from only_post_svc.gates import Permits, give_back, keep
from only_post_svc.queue import FINISHED, MAX_SWEPT
from shared.database import Database, Transaction, listed

# Held tasks first: the permits of cancelled runs would let them in.
UNFINISHED = ("held", "scheduled", "queued", "running")
UNSUCCESSFUL = ("failed", "cancelled")


class Selection(NamedTuple):
    """Which tasks: a None fits any. `status` is as clients see it, `submitted_before` in milliseconds since 1970;
    `caller` is None for the operator alone."""

    caller: str | None = None
    type: str | None = None
    status: str | None = None
    key: str | None = None
    submitted_before: int | None = None

    def statuses(self, among: tuple[str, ...]) -> list[str]:
        """The statuses of the table, among these, that fit."""
        wanted = lookup.WAITING if self.status == "queued" else (self.status,)
        return [one for one in among if self.status is None or one in wanted]

    def number(self, tx: Transaction, among: tuple[str, ...]) -> int:
        return sum(
            int(tx.all(f"SELECT count(*) FROM task WHERE {self._conditions(status)}", **self._asdict())[0][0])
            for status in self.statuses(among)
        )

    def _conditions(self, status: str) -> str:
        given = [condition for name, condition in FILTERS.items() if getattr(self, name) is not None]
        return " AND ".join([lookup.CONDITIONS[status].removeprefix("AND "), *given])

    def ids(self, tx: Transaction, status: str, most: int, after: str = "", *, locked: bool = False) -> list[str]:
        """The ids of tasks with that status that fit, in order; `locked`, they fit until the transaction ends."""
        sql = f"SELECT id FROM task WHERE {self._conditions(status)} AND id > :after ORDER BY id LIMIT :most"
        sql += " FOR UPDATE" if locked else ""
        return [task_id for (task_id,) in tx.all(sql, **self._asdict(), after=after, most=most)]


# coalesce hides type and key from the planner: the tasks of a status are few, those of a type or a key may be many.
FILTERS = {
    "caller": "caller = :caller",
    "type": "coalesce(type, '') = :type",
    "key": "coalesce(key, '') = :key",
    "submitted_before": "created_at < :submitted_before",
}

CANCEL = f"""
UPDATE task SET status = 'cancelled', finished_at = {FINISHED}, lease = NULL, lease_until = NULL
WHERE id IN {{ids}} AND coalesce(finished_at, 0) = 0
RETURNING id, type, key, permits
"""


def cancel(tx: Transaction, selection: Selection, most: int = MAX_SWEPT) -> list[str]:
    """Cancels up to `most` tasks, and gives their ids. Where they are fewer than `most`, none is left."""
    found: list[str] = []
    for status in selection.statuses(UNFINISHED):
        found += selection.ids(tx, status, most - len(found), locked=True) if len(found) < most else []
    if not found:
        return []
    keep(tx, found)
    ids, values = listed("id", found)
    rows = tx.all(CANCEL.format(ids=ids), now=tx.now, **values)
    give_back(tx, [Permits(*row[1:]) for row in rows])
    checkpoints.drop(tx, [row[0] for row in rows])
    return [row[0] for row in rows]


async def cancel_all(database: Database, selection: Selection) -> AsyncIterator[int]:
    """Cancels them in small transactions, so that others go on meanwhile: how many in each."""
    some = MAX_SWEPT
    while some >= MAX_SWEPT:
        cancelled = await database.write(lambda tx: cancel(tx, selection), is_long=True)
        for task_id in cancelled:
            database.publish(hints.cancelled(task_id))
        some = len(cancelled)
        yield some


def is_any_left(tx: Transaction, selection: Selection, among: tuple[str, ...], after: str = "") -> bool:
    return any(selection.ids(tx, status, 1, after) for status in selection.statuses(among))


OWNERS = "SELECT id, caller FROM task WHERE id IN {ids}"


class Retried(NamedTuple):
    """How many are queued again, and the id to go on after, None at the end."""

    number: int
    after: str | None


def retry(tx: Transaction, selection: Selection, after: str, most: int = MAX_SWEPT) -> Retried:
    """Queues tasks with ids above `after` again, except where another task with the same `unique` has not ended."""
    found = sorted(id for status in selection.statuses(UNSUCCESSFUL) for id in selection.ids(tx, status, most, after))
    if not found:
        return Retried(0, None)
    ids, values = listed("id", found[:most])
    owners = tx.all(OWNERS.format(ids=ids), **values)
    count = sum(queue.retry(tx, caller, task_id) for task_id, caller in owners)
    return Retried(count, found[:most][-1] if len(found) >= most else None)
