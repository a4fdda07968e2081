"""Schedules: each makes a task at every one of its ticks.

The row moves on in the transaction that makes the task, so a tick makes one however many workers there are. A caller's
schedule stands until it is taken back. One that stands in code lives as long as a worker does whose code has it: of two
versions that run side by side, each keeps alive what it declares.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from only_post_svc import queue, shares
from only_post_svc.lookup import TaskRow
from only_post_svc.queue import NewTask
from only_post_svc.recurrence import NeverTicks, Recurrence
from only_post_svc.registry import TaskType
from only_post_svc.worker.heartbeat import WORKER_LIFE_SECONDS
from shared.database import Transaction
from shared.errors import Conflict, Unavailable
from shared.strict_json import encode

MAX_PER_CALLER = 1000
MAX_PAYLOAD_BYTES = 16 * 1024  # with MAX_PER_CALLER it bounds what all schedules of a caller add up to
MAX_TICKED = 100  # schedules in one transaction, so that nothing waits long behind it
MAX_TICKS = 60  # of one schedule in one transaction
AGAIN_MS = 3600 * 1000
NO_CALLER = ""

log = logging.getLogger(__name__)


class ScheduleRow(NamedTuple):
    """A row of the table, in the order of COLUMNS. Times in milliseconds; `task` is JSON, see `new_task`."""

    caller: str
    name: str
    in_code: int
    mark: str | None
    cron: str | None
    every_ms: int | None
    timezone: str
    task: str
    overlap: int
    created_at: int
    next_run_at: int
    last_task_id: str | None
    skipped: int

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(self.cron, self.every_ms, self.timezone)

    @property
    def new_task(self) -> NewTask:
        """What each tick makes."""
        stored = json.loads(self.task)  # another version may have stored more members
        return NewTask(**{name: stored[name] for name in NewTask._fields if name in stored})


@dataclass(frozen=True)
class NewSchedule:
    """`mark` is for those that stand in code."""

    name: str
    recurrence: Recurrence
    task: NewTask
    overlap: bool = False
    mark: str | None = None


def declared(types: Iterable[TaskType]) -> list[NewSchedule]:
    """The schedules of the code, each under its type's name."""
    return [_declared(type, recurrence) for type in types if (recurrence := type.recurrence)]


def _declared(type: TaskType, recurrence: Recurrence) -> NewSchedule:
    timeout_ms, is_alone = int(type.timeout * 1000), not type.is_async
    lane = type.type if type.elsewhere else ""
    task = NewTask(type.type, "{}", timeout_ms, type.max_attempts, is_alone=is_alone, lane=lane)
    said = encode([type.type, type.cron, recurrence.every_ms, type.timezone, task._asdict()])
    return NewSchedule(type.type, recurrence, task, mark=hashlib.sha256(said.encode()).hexdigest()[:16])


COLUMNS = ", ".join(ScheduleRow._fields)
FIND = f"SELECT {COLUMNS} FROM schedule WHERE caller = :caller AND name = :name AND in_code = :in_code"
COUNT = "SELECT count(*) FROM schedule WHERE caller = :caller AND in_code = 0"

SAVE = f"""
INSERT INTO schedule ({COLUMNS}) VALUES ({", ".join(f":{name}" for name in ScheduleRow._fields)})
ON CONFLICT (caller, name, in_code) DO UPDATE SET mark = excluded.mark, cron = excluded.cron,
    every_ms = excluded.every_ms, timezone = excluded.timezone, task = excluded.task, overlap = excluded.overlap,
    next_run_at = excluded.next_run_at
"""


def save(tx: Transaction, caller: str, new: NewSchedule) -> tuple[ScheduleRow, bool]:
    """The schedule, and whether there was none of that name. One that ticks as before keeps its next tick, so that an
    application may send its schedules at every start. Raises NeverTicks, and 409 `quota_exceeded`."""
    tx.lock(f"schedules {caller}")
    in_code = int(new.mark is not None)
    before = find(tx, caller, new.name, in_code=in_code)
    if before is None and not in_code:
        _check_quota(tx, caller)
    is_as_before = before is not None and before.recurrence == new.recurrence
    row = ScheduleRow(
        caller=caller,
        name=new.name,
        in_code=in_code,
        mark=new.mark,
        cron=new.recurrence.cron,
        every_ms=new.recurrence.every_ms,
        timezone=new.recurrence.timezone,
        task=encode(new.task._asdict()),
        overlap=int(new.overlap),
        created_at=before.created_at if before else tx.now,
        next_run_at=before.next_run_at if before and is_as_before else new.recurrence.after(tx.now),
        last_task_id=before.last_task_id if before else None,
        skipped=before.skipped if before else 0,
    )
    tx.put(SAVE, **row._asdict())
    return row, before is None


def _check_quota(tx: Transaction, caller: str) -> None:
    row = tx.one(COUNT, caller=caller)
    if row and row[0] >= MAX_PER_CALLER:
        raise Conflict("quota_exceeded", f"{MAX_PER_CALLER} schedules are the limit")


def find(tx: Transaction, caller: str, name: str, *, in_code: int = 0) -> ScheduleRow | None:
    row = tx.one(FIND + " FOR UPDATE", caller=caller, name=name, in_code=in_code)
    return ScheduleRow(*row) if row else None


LIST = f"""
SELECT {COLUMNS} FROM schedule WHERE caller = :caller AND (name, in_code) > (:name, :in_code)
ORDER BY name, in_code LIMIT :limit
"""


def page(tx: Transaction, caller: str, after: tuple[str, int], limit: int) -> list[ScheduleRow]:
    """Up to `limit` of the caller's schedules, by name. Those in code belong to no caller."""
    name, in_code = after
    rows = tx.all(LIST, caller=caller, name=name, in_code=in_code, limit=limit)
    return [ScheduleRow(*row) for row in rows]


REMOVE = "DELETE FROM schedule WHERE caller = :caller AND name = :name AND in_code = :in_code"


def remove(tx: Transaction, caller: str, name: str) -> ScheduleRow | None:
    """Deletes a schedule, and gives it. The tasks that it made are not touched."""
    found = find(tx, caller, name)
    if found is not None:
        tx.put(REMOVE, caller=caller, name=name, in_code=0)
    return found


def forget(tx: Transaction, caller: str) -> bool:
    """Deletes the schedules of a deleted caller. Whether there were any."""
    return tx.run("DELETE FROM schedule WHERE caller = :caller AND in_code = 0", caller=caller) > 0


def run_now(tx: Transaction, row: ScheduleRow) -> TaskRow:
    """Makes a task of the schedule, beside those of its ticks."""
    return queue.submit(tx, row.caller, _placed(row.new_task, shares.kept(tx)))


def _placed(new: NewTask, kept: Collection[str]) -> NewTask:
    """Where its type's tasks wait today, which may have changed since the schedule was made."""
    return new._replace(lane=new.type if new.type in kept else shares.ALL)


IN_CODE = "SELECT name, mark FROM schedule WHERE caller = '' AND in_code = 1"
MARKS_OF_WORKERS = "SELECT schedules FROM worker WHERE seen_at > :since AND schedules <> '[]'"

# After a clock was set back, a schedule of `every` ticks again within one interval; one of `cron` waits for its time.
CLAMP = "UPDATE schedule SET next_run_at = :now + every_ms WHERE every_ms IS NOT NULL AND next_run_at > :now + every_ms"


def declare(tx: Transaction, mine: Collection[NewSchedule], *, is_start: bool) -> bool:
    """Stores the schedules of this worker's code, and deletes those that no living worker's code has. At a worker's
    start its code counts as the newest. Whether any schedule is in code."""
    stored: dict[str, str] = dict(tx.all(IN_CODE))
    marks = _living_marks(tx, mine) if stored else set()
    names = {one.name for one in mine}
    for name, mark in stored.items():
        if mark not in marks and name not in names:
            tx.put(REMOVE, caller=NO_CALLER, name=name, in_code=1)
    for one in mine:
        if stored.get(one.name) not in marks or (is_start and stored[one.name] != one.mark):
            save(tx, NO_CALLER, one)
    return bool(mine or marks & set(stored.values()))


def _living_marks(tx: Transaction, mine: Iterable[NewSchedule]) -> set[str | None]:
    rows = tx.all(MARKS_OF_WORKERS, since=tx.now - WORKER_LIFE_SECONDS * 1000)
    return {one.mark for one in mine}.union(*(json.loads(marks) for (marks,) in rows))


def clamp(tx: Transaction) -> None:
    tx.put(CLAMP, now=tx.now)


DUE = f"""
SELECT {COLUMNS} FROM schedule WHERE next_run_at <= :now ORDER BY next_run_at LIMIT :most FOR UPDATE SKIP LOCKED
"""

OF_ROW = "caller = :caller AND name = :name AND in_code = :in_code"
MOVE = f"UPDATE schedule SET next_run_at = :next WHERE {OF_ROW} AND next_run_at = :seen"
NOTE = f"UPDATE schedule SET last_task_id = :last_task_id, skipped = :skipped WHERE {OF_ROW}"
IS_UNDER_WAY = "SELECT 1 FROM task WHERE id = :id AND finished_at IS NULL"

Admit = Callable[[Transaction, str, NewTask], None]  # raises Unavailable when the caller's task has no room


def tick(tx: Transaction, mine: Collection[NewSchedule], since: int | None, admit: Admit) -> list[NewTask]:
    """Makes the tasks that are due. `since` is when this process began to watch: each tick after it makes its task,
    however late; all that were missed before make one task together, at the time of the first."""
    made: list[NewTask] = []
    rows = [ScheduleRow(*row) for row in tx.all(DUE, now=tx.now, most=MAX_TICKED)]
    marks = _living_marks(tx, mine) if any(row.in_code for row in rows) else set()
    kept = shares.kept(tx) if rows else []
    for row in rows:
        if row.in_code and row.mark not in marks:
            tx.put(REMOVE, **_key(row))
        else:
            made += _tick_one(tx, row, kept, tx.now if since is None else since, admit)
    return made


def _key(row: ScheduleRow) -> dict[str, Any]:
    return {"caller": row.caller, "name": row.name, "in_code": row.in_code}


def _tick_one(tx: Transaction, row: ScheduleRow, kept: Collection[str], since: int, admit: Admit) -> list[NewTask]:
    try:
        ticks, next_tick = row.recurrence.due(row.next_run_at, min(since, tx.now), tx.now, MAX_TICKS)
    except NeverTicks:  # a zone that this machine lacks, say: another may have it
        log.error("schedule.failed", extra={"schedule": row.name, "caller": row.caller})
        ticks, next_tick = [], tx.now + AGAIN_MS
    if tx.run(MOVE, next=next_tick, seen=row.next_run_at, **_key(row)) == 0:
        return []
    new, last, skipped = _placed(row.new_task, kept), row.last_task_id, row.skipped
    made = 0
    for moment in ticks:
        if task := _make(tx, row, new, last, moment, admit):
            last, made = task.id, made + 1
        else:
            skipped += 1
    tx.put(NOTE, last_task_id=last, skipped=skipped, **_key(row))
    return [new] * made


def _make(
    tx: Transaction, row: ScheduleRow, new: NewTask, last: str | None, moment: int, admit: Admit
) -> TaskRow | None:
    if not row.overlap and last is not None and tx.one(IS_UNDER_WAY, id=last):
        return None
    try:
        admit(tx, row.caller, new)
    except Unavailable:
        return None
    return queue.submit(tx, row.caller, new, tick=moment)
