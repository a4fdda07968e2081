"""`max_running` of a type and `max_running_per_key`: how many may run at once, over all workers.

A gate counts the permits that are out. A claim takes them together with the task, for as long as it runs; a task that
meets a full gate is held there, outside the index that claims walk, and the transaction that ends a run gives its
permits to the next ones held: by turns of their callers, then by priority and time. A run that is cancelled keeps its
permits until its code has stopped. A type without bounds has no gates.

A transaction that takes or gives back permits locks the gates' rows, in sorted order (a fixed lock order cannot
deadlock), until its commit, so that no task is held at a gate that has just become free.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from only_post_svc import hints
from shared.database import Transaction, listed

OF_KEY, OF_TYPE = 1, 2  # bits of a task's `permits`
UNBOUNDED = 2**31  # of a gate whose type has no bound any more
MAX_LET_IN = 50  # tasks in one transaction, where a bound was raised
MAX_MENDED = 100  # gates in one transaction


class Gate(NamedTuple):
    type: str
    key: str = ""  # '': of the type as a whole

    @property
    def permit(self) -> int:
        return OF_KEY if self.key else OF_TYPE


class Permits(NamedTuple):
    """The permits that a task has, as every statement that ends a run returns them."""

    type: str
    key: str | None
    permits: int

    def gates(self) -> list[Gate]:
        of_key = [Gate(self.type, self.key)] if self.permits & OF_KEY and self.key is not None else []
        return [*of_key, Gate(self.type)] if self.permits & OF_TYPE else of_key


# An upsert locks the row, whether it was there or not, and also where it changes nothing.
LOCK = """
INSERT INTO gate (type, key, most, taken, served) VALUES (:type, :key, :most, 0, '')
ON CONFLICT (type, key) DO UPDATE SET most = excluded.most RETURNING taken
"""
SERVE = "UPDATE gate SET taken = :taken, served = :served WHERE type = :type AND key = :key"
DROP = "DELETE FROM gate WHERE type = :type AND key = :key"


class Door:
    """The gates of one claim's candidates, locked until its transaction ends."""

    def __init__(self, tx: Transaction, most: Mapping[Gate, int]) -> None:
        self._tx = tx
        self._most = most
        self._taken = {gate: int(tx.all(LOCK, **gate._asdict(), most=most[gate])[0][0]) for gate in sorted(most)}
        self._served: dict[Gate, str] = {}

    def is_full(self, gate: Gate) -> bool:
        return self._taken[gate] >= self._most[gate]

    def take(self, gate: Gate, caller: str) -> None:
        self._taken[gate] += 1
        self._served[gate] = caller

    def store(self) -> None:
        for gate, taken in self._taken.items():
            if taken == 0:
                self._tx.put(DROP, **gate._asdict())
            elif gate in self._served:
                self._tx.put(SERVE, **gate._asdict(), taken=taken, served=self._served[gate])


FIND = "SELECT most, taken, served FROM gate WHERE type = :type AND key = :key FOR UPDATE"


def give_back(tx: Transaction, ended: Iterable[Permits]) -> None:
    """Gives the permits of runs that have ended to tasks that are held."""
    given = Counter(gate for permits in ended for gate in permits.gates())
    locked = [(gate, tx.one(FIND, **gate._asdict())) for gate in sorted(given)]
    for gate, row in locked:
        if row is not None:
            most, taken, served = row
            _store(tx, gate, most, taken - given[gate], served)


def _store(tx: Transaction, gate: Gate, most: int, taken: int, served: str) -> None:
    """Stores that `taken` permits are out, after letting in as many held tasks as there is room for."""
    for _ in range(min(most - taken, MAX_LET_IN)):
        caller = _let_in(tx, gate, served)
        if caller is None:
            break
        taken, served = taken + 1, caller
    if taken > 0:
        tx.put(SERVE, **gate._asdict(), taken=taken, served=served)
    else:
        tx.put(DROP, **gate._asdict())


# coalesce keeps the planner to the primary key: the partial indexes on these columns hold many other rows.
WITH_PERMITS = "id IN {ids} AND coalesce(status, '') = 'running' AND coalesce(permits, 0) > 0"
KEEP = f"""
INSERT INTO stopping (lease, type, key, permits, until)
SELECT lease, type, key, permits, lease_until FROM task WHERE {WITH_PERMITS}
"""
KEPT = f"UPDATE task SET permits = 0 WHERE {WITH_PERMITS}"


def keep(tx: Transaction, task_ids: Sequence[str]) -> None:
    """Keeps the permits of the runs of these tasks, which are about to be cancelled, until `leave`, or until their
    leases would have ended."""
    ids, values = listed("id", task_ids)
    if tx.run(KEEP.format(ids=ids), **values):
        tx.put(KEPT.format(ids=ids), **values)


def leave(tx: Transaction, leases: Sequence[str]) -> bool:
    """Gives back the permits that cancelled runs have kept: their code has stopped. Whether there were any."""
    named, values = listed("lease", leases)
    left = tx.all(f"DELETE FROM stopping WHERE lease IN {named} RETURNING type, key, permits", **values)
    give_back(tx, map(Permits._make, left))
    return bool(left)


# A clock that was set back leaves leases that end in a year.
OVERDUE = "SELECT lease FROM stopping WHERE until <= :now OR until > :latest"


def overdue(tx: Transaction, lease_seconds: int) -> list[str]:
    """The leases of cancelled runs that would have ended: their workers have died."""
    return [lease for (lease,) in tx.all(OVERDUE, now=tx.now, latest=tx.now + lease_seconds * 1000)]


NEXT_CALLER = """
SELECT coalesce(
    (SELECT caller FROM task WHERE status = 'held' AND type = :type AND gate = :key AND caller > :served
        ORDER BY caller LIMIT 1),
    (SELECT caller FROM task WHERE status = 'held' AND type = :type AND gate = :key ORDER BY caller LIMIT 1)
)
"""

# SKIP LOCKED passes over a task that is being cancelled: a cancel locks the task, then its gate, so to wait here could
# deadlock.
NEXT = """
SELECT id FROM task WHERE status = 'held' AND type = :type AND gate = :key AND caller = :caller
ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
"""

LET_IN = "UPDATE task SET status = 'queued', gate = NULL, permits = permits + :permit WHERE id = :id"
MAX_PASSED_OVER = 3  # callers whose next task is locked


def _let_in(tx: Transaction, gate: Gate, served: str) -> str | None:
    """Lets one held task in. Its caller, None when none is held."""
    for _ in range(MAX_PASSED_OVER):
        ((caller,),) = tx.all(NEXT_CALLER, **gate._asdict(), served=served)
        if caller is None:
            return None
        if found := tx.one(NEXT, **gate._asdict(), caller=caller):
            tx.put(LET_IN, id=found[0], permit=gate.permit)
            tx.publish(hints.QUEUED)
            return str(caller)
        served = caller
    return None


TYPES = "SELECT DISTINCT type FROM gate"


def set_bounds(tx: Transaction, bounds: Mapping[str, tuple[int | None, int | None]]) -> None:
    """Sets the gates' bounds to those that the code now has for its types."""
    for (type,) in tx.all(TYPES):
        if type in bounds:
            of_type, of_key = bounds[type]
            tx.put("UPDATE gate SET most = :most WHERE type = :type AND key = ''", type=type, most=of_type or UNBOUNDED)
            tx.put("UPDATE gate SET most = :most WHERE type = :type AND key <> ''", type=type, most=of_key or UNBOUNDED)


SOME = """
SELECT type, key, most, taken, served FROM gate WHERE (type, key) > (:type, :key) ORDER BY type, key LIMIT :most
FOR UPDATE
"""
COUNT = """
SELECT (SELECT count(*) FROM task WHERE type = :type AND permits > 0 AND finished_at IS NULL AND {condition})
    + (SELECT count(*) FROM stopping WHERE type = :type AND {condition})
"""
COUNT_OF_KEY = COUNT.format(condition=f"key = :key AND permits <> {OF_TYPE}")
COUNT_OF_TYPE = COUNT.format(condition=f"permits <> {OF_KEY}")


def mend(tx: Transaction, after: Gate) -> tuple[list[Gate], Gate | None]:
    """Counts the permits of the next MAX_MENDED gates again, and lets in as many held tasks as there is room for. The
    gates that were miscounted, and the gate to go on after (None at the end)."""
    wrong: list[Gate] = []
    rows = tx.all(SOME, **after._asdict(), most=MAX_MENDED)
    for type, key, most, taken, served in rows:
        gate = Gate(type, key)
        ((counted,),) = tx.all(COUNT_OF_KEY if key else COUNT_OF_TYPE, **gate._asdict())
        if counted != taken:
            wrong.append(gate)
        if counted != taken or counted < most:
            _store(tx, gate, most, counted, served)
    return wrong, Gate(*rows[-1][:2]) if len(rows) == MAX_MENDED else None
