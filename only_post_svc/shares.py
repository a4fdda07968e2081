"""Whose turn it is: free hands go round the callers who wait, and each caller's tasks go by priority, then by time.

A claim looks at as many callers as it has hands, from the one after the last one served, and at the best tasks of each:
all by one index, so neither the number of callers nor that of their tasks, types or keys makes it dearer.

What can't be claimed from there is moved out of the way by the claim that meets it, once: tasks of a type that this
worker does not have, or that is paused, into a lane of the type's own, which only workers that have the type look into.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from only_post_svc.gates import OF_KEY, OF_TYPE, Door, Gate
from only_post_svc.queue import STARTED, Claim
from shared.database import Row, Transaction, listed

ALL = ""  # the lane of all types that have none of their own
LAST = "\U0010ffff"  # behind every caller
MAX_APART = 200  # tasks that one claim moves


class Kind(NamedTuple):
    """What a claim has to know of a type that it may take."""

    is_alone: bool = False
    max_running: int | None = None
    max_running_per_key: int | None = None


class Lane(NamedTuple):
    """Where to look: for tasks that need a child to themselves or share one, for `most` of them."""

    is_alone: bool
    name: str
    most: int


def up_to(most: int) -> "Callable[[Candidate], bool]":
    """A `fits` for so many of any kind."""
    hands = iter(range(most))
    return lambda one: next(hands, None) is not None


class Candidate(NamedTuple):
    """A task that waits, in the order of BEST."""

    priority: int
    run_at: int
    id: str
    type: str
    caller: str
    is_alone: int
    is_person: int
    lane: str
    key: str | None
    permits: int

    def bounds(self, kind: Kind) -> Iterator[tuple[Gate, int]]:
        """The gates that it has to pass yet, its key's first, and how many may be through each."""
        if kind.max_running_per_key is not None and self.key is not None and not self.permits & OF_KEY:
            yield Gate(self.type, self.key), kind.max_running_per_key
        if kind.max_running is not None and not self.permits & OF_TYPE:
            yield Gate(self.type), kind.max_running

    @property
    def rank(self) -> tuple[int, int, str]:
        return -self.priority, self.run_at, self.id


@dataclass
class Dealt:
    """What a claim has brought. `last` is the caller who was served last; `has_more`: another claim may bring more;
    `has_left`: so may one when a hand is free again; `has_made_lanes`: this worker does not know them yet;
    `is_bounded`: some callers have as much as they may."""

    last: str = ""
    has_more: bool = False
    has_left: bool = False
    has_made_lanes: bool = False
    is_bounded: bool = False
    chosen: list[str] = field(default_factory=list)
    rows: Callable[[], list[Row]] = list

    @cached_property
    def claims(self) -> list[Claim]:
        """In the order of `chosen`."""
        place = {id: number for number, id in enumerate(self.chosen)}
        return sorted((Claim(*row) for row in self.rows()), key=lambda claim: place[claim.id])

    @property
    def was_in_vain(self) -> bool:
        """There was nothing to choose from."""
        return not self.chosen and not self.has_left

    @property
    def has_moved_some(self) -> bool:
        """Whether this worker has to learn the lanes again: this claim has made some, or a type was paused meanwhile,
        so that not all that were chosen are claimed."""
        return self.has_made_lanes or len(self.claims) < len(self.chosen)


# A skip scan, ahead of the caller served last and then up to it: one step of the index for each caller.
WAITING = """
WITH RECURSIVE looked_into (is_alone, lane, most) AS (VALUES {lanes}),
waiting (is_alone, lane, most, upto, number, caller) AS (
    SELECT is_alone, lane, most, :last, 1, (
        SELECT caller FROM task
        WHERE status = 'queued' AND task.is_alone = looked_into.is_alone AND task.lane = looked_into.lane
            AND caller > :after ORDER BY caller LIMIT 1
    ) FROM looked_into
    UNION ALL
    SELECT is_alone, lane, most, :after, 1, (
        SELECT caller FROM task
        WHERE status = 'queued' AND task.is_alone = looked_into.is_alone AND task.lane = looked_into.lane
            AND caller <= :after ORDER BY caller LIMIT 1
    ) FROM looked_into
    UNION ALL
    SELECT is_alone, lane, most, upto, number + 1, (
        SELECT caller FROM task
        WHERE status = 'queued' AND task.is_alone = waiting.is_alone AND task.lane = waiting.lane
            AND caller > waiting.caller AND caller <= waiting.upto ORDER BY caller LIMIT 1
    ) FROM waiting WHERE caller IS NOT NULL AND number < most
)
SELECT is_alone, lane, caller, most / count(*) OVER (PARTITION BY is_alone, lane) + 1 AS share
FROM waiting WHERE caller IS NOT NULL {passed_over}
"""

BEST = """
SELECT priority, run_at, id, type, caller, is_alone, is_person, lane, key, permits, :each.share AS share FROM task
WHERE status = 'queued' AND is_alone = :each.is_alone AND lane = :each.lane AND caller = :each.caller
ORDER BY priority DESC, run_at, id LIMIT :each.share FOR UPDATE SKIP LOCKED
"""

CLAIM = f"""
UPDATE task SET status = 'running', attempt = attempt + 1, lease = :token || id, lease_until = :until,
    started_at = {STARTED}, progress = NULL
WHERE id IN {{ids}} AND type NOT IN (SELECT type FROM lane WHERE is_paused = 1)
RETURNING id, type, attempt, max_attempts, timeout_ms, is_alone,
    (SELECT body FROM task_payload WHERE task_id = task.id), lease, caller, key, is_person,
    (SELECT body FROM task_checkpoint WHERE task_id = task.id), traceparent, permits
"""


def claim(
    tx: Transaction,
    token: str,
    lanes: Sequence[Lane],
    kinds: Mapping[str, Kind],
    fits: Callable[[Candidate], bool],
    lease_seconds: int,
    *,
    after: str = "",
    passed_over: Collection[str] = (),
) -> Dealt:
    """Takes tasks of the types in `kinds` out of the lanes, from the turn behind the caller `after` on, but none of the
    callers `passed_over`. `fits` says whether there is a hand for one more, and takes it. Leases begin with `token`, a
    secret that is used once."""
    candidates, has_more = _candidates(tx, lanes, after, passed_over)
    has_made_lanes = _move_misplaced(tx, candidates, kinds)
    if has_made_lanes:  # or callers whose best could not be claimed would lose their turn
        candidates, has_more = _candidates(tx, lanes, after, passed_over)
    well_placed = [one for one in candidates if one.type in kinds and one.is_alone >= kinds[one.type].is_alone]
    dealt = Dealt(last=after, has_more=has_more or len(well_placed) < len(candidates), is_bounded=bool(passed_over))
    dealt.has_made_lanes = has_made_lanes
    passage = Passage(tx, well_placed, kinds)
    chosen = _deal(well_placed, after, lambda one: passage.is_open(one) and fits(one) and passage.let(one))
    dealt.has_more |= passage.store()
    dealt.has_left = dealt.has_more or dealt.is_bounded or len(chosen) < len(candidates) or _is_any_full(lanes, chosen)
    if chosen:
        dealt.last = chosen[-1].caller
        dealt.chosen = [one.id for one in chosen]
        dealt.rows = _take(tx, token, dealt.chosen, lease_seconds)
    return dealt


def _candidates(
    tx: Transaction, lanes: Sequence[Lane], after: str, passed_over: Collection[str]
) -> tuple[list[Candidate], bool]:
    """And whether there may be more of any caller."""
    texts: list[str] = []
    values: dict[str, str | int] = {}
    for number, lane in enumerate(lanes):
        texts.append(f"(CAST(:alone{number} AS BIGINT), :lane{number}, CAST(:most{number} AS BIGINT))")
        most = lane.most + len(passed_over)
        values |= {f"alone{number}": int(lane.is_alone), f"lane{number}": lane.name, f"most{number}": most}
    names, callers = listed("passed", passed_over)
    outer = WAITING.format(lanes=", ".join(texts), passed_over=f"AND caller NOT IN {names}" if callers else "")
    rows = tx.each(outer, BEST, after=after, last=LAST, **values, **callers)
    found: dict[tuple[int, str, str], int] = {}
    has_more = False
    for *_, caller, is_alone, _, lane_name, _, _, share in rows:
        count = found[is_alone, lane_name, caller] = found.get((is_alone, lane_name, caller), 0) + 1
        has_more |= count == share
    return [Candidate(*row[:-1]) for row in rows], has_more


def _deal(candidates: Iterable[Candidate], after: str, fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """One of each caller, then another of each, and so on, while any fits; each caller's best first."""
    of_callers: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: one.rank):
        of_callers.setdefault(one.caller, []).append(one)
    turns = sorted(of_callers, key=lambda caller: (caller <= after, caller))
    waiting = {caller: iter(of_callers[caller]) for caller in turns}
    chosen: list[Candidate] = []
    while waiting:
        for caller in list(waiting):
            best = next(filter(fits, waiting[caller]), None)
            if best is not None:
                chosen.append(best)
            else:
                del waiting[caller]
    return chosen


def _is_any_full(lanes: Iterable[Lane], chosen: Iterable[Candidate]) -> bool:
    """Whether a lane gave as many as were looked for: there may be more."""
    counts = Counter((bool(one.is_alone), one.lane) for one in chosen)
    return any(counts[lane.is_alone, lane.name] >= lane.most for lane in lanes)


def _take(tx: Transaction, token: str, ids: list[str], lease_seconds: int) -> Callable[[], list[Row]]:
    names, values = listed("id", ids)
    until = tx.now + lease_seconds * 1000
    return tx.later(CLAIM.format(ids=names), token=token, now=tx.now, until=until, **values)


HOLD = "UPDATE task SET status = 'held', gate = :key, permits = :permits WHERE id IN {ids}"
PERMIT = "UPDATE task SET permits = :permits WHERE id IN {ids}"

# What stands behind one that is held, and would be held there too.
HOLD_ALIKE = """
UPDATE task SET status = 'held', gate = :key
WHERE type = :type AND permits = 0 AND {alike} AND id IN (
    WITH first AS MATERIALIZED (
        SELECT id FROM task
        WHERE status = 'queued' AND is_alone = :is_alone AND lane = :lane AND caller = :caller
        ORDER BY priority DESC, run_at, id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM first
)
"""


class Passage:
    """The candidates of a claim on their way through the gates; those without any are let through."""

    def __init__(self, tx: Transaction, candidates: Iterable[Candidate], kinds: Mapping[str, Kind]) -> None:
        self._tx = tx
        self._kinds = kinds
        self._bounds = {one.id: bounds for one in candidates if (bounds := list(one.bounds(kinds[one.type])))}
        self._door = Door(tx, dict(bound for bounds in self._bounds.values() for bound in bounds))
        self._held: dict[tuple[Gate, int], list[Candidate]] = {}
        self._permitted: dict[int, list[str]] = {}

    def is_open(self, one: Candidate) -> bool:
        """One that finds a gate full is held there, with the permit of its key where it waits for its type's."""
        permits = one.permits
        for gate, _ in self._bounds.get(one.id, ()):
            if self._door.is_full(gate):
                self._held.setdefault((gate, permits), []).append(one)
                if permits > one.permits:
                    self._door.take(Gate(one.type, one.key or ""), one.caller)
                return False
            permits |= gate.permit
        return True

    def let(self, one: Candidate) -> bool:
        bounds = self._bounds.get(one.id, ())
        for gate, _ in bounds:
            self._door.take(gate, one.caller)
        if bounds:
            self._permitted.setdefault(one.permits | sum(gate.permit for gate, _ in bounds), []).append(one.id)
        return True

    def store(self) -> bool:
        """Whether any are held."""
        self._door.store()
        for permits, permitted in self._permitted.items():
            ids, values = listed("id", permitted)
            self._tx.put(PERMIT.format(ids=ids), permits=permits, **values)
        for (gate, permits), held in self._held.items():
            ids, values = listed("id", [one.id for one in held])
            self._tx.put(HOLD.format(ids=ids), key=gate.key, permits=permits, **values)
        self._hold_alike()
        return bool(self._held)

    def _hold_alike(self) -> None:
        places = {
            (gate, one.is_alone, one.lane, one.caller)
            for (gate, permits), held in self._held.items()
            for one in held
            if permits == 0 and self._door.is_full(gate)
        }
        most = MAX_APART // max(1, len(places)) + 1
        for gate, is_alone, lane, caller in sorted(places):
            has_both = self._kinds[gate.type].max_running_per_key is not None
            alike = "key = :key" if gate.key else "key IS NULL" if has_both else "1 = 1"
            where = {"is_alone": is_alone, "lane": lane, "caller": caller, "most": most}
            self._tx.put(HOLD_ALIKE.format(alike=alike), **gate._asdict(), **where)


# Locked, so that the lane is not given up between here and the commit.
OPEN_LANE = """
INSERT INTO lane (type, is_paused, is_kept) VALUES (:type, 0, 0) ON CONFLICT (type) DO UPDATE SET is_kept = lane.is_kept
"""

MOVE = """
UPDATE task SET lane = type WHERE type IN {types} AND id IN (
    WITH first AS MATERIALIZED (
        SELECT id FROM task WHERE status = 'queued' AND is_alone = :is_alone AND lane = '' AND caller = :caller
        ORDER BY priority DESC, run_at, id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM first
)
"""


def _move_misplaced(tx: Transaction, candidates: Iterable[Candidate], kinds: Mapping[str, Kind]) -> bool:
    """Moves tasks that can't be claimed from where they are: whether that made lanes."""
    shared = [one.id for one in candidates if one.type in kinds and kinds[one.type].is_alone > one.is_alone]
    if shared:  # by a process that did not know yet that it is a `def`
        ids, values = listed("id", shared)
        tx.put(f"UPDATE task SET is_alone = 1 WHERE id IN {ids}", **values)
    strange = [one for one in candidates if one.type not in kinds and one.lane == ALL]
    types = sorted({one.type for one in strange})
    open_lanes(tx, types)
    places = sorted({(one.is_alone, one.caller) for one in strange})
    names, values = listed("type", types)
    for is_alone, caller in places:
        most = MAX_APART // len(places) + 1
        tx.put(MOVE.format(types=names), is_alone=is_alone, caller=caller, most=most, **values)
    return bool(types)


class OwnLane(NamedTuple):
    """The lane of a type. `is_kept`: all its tasks wait there, always."""

    type: str
    is_paused: bool
    is_kept: bool


def own_lanes(tx: Transaction) -> list[OwnLane]:
    rows = tx.all("SELECT type, is_paused, is_kept FROM lane ORDER BY type")
    return [OwnLane(type, bool(is_paused), bool(is_kept)) for type, is_paused, is_kept in rows]


def kept(tx: Transaction) -> list[str]:
    """The types whose code runs elsewhere."""
    return [lane.type for lane in own_lanes(tx) if lane.is_kept]


PAUSE = """
INSERT INTO lane (type, is_paused, is_kept) VALUES (:type, 1, 0) ON CONFLICT (type) DO UPDATE SET is_paused = 1
"""


def pause(tx: Transaction, type: str) -> None:
    """From the commit on none of the type is claimed."""
    tx.put(PAUSE, type=type)


def resume(tx: Transaction, type: str) -> None:
    tx.put("UPDATE lane SET is_paused = 0 WHERE type = :type", type=type)


def paused(tx: Transaction) -> list[str]:
    """Which types are."""
    return [lane.type for lane in own_lanes(tx) if lane.is_paused]


# Lanes with tasks that no worker looks into, in a skip scan: the type was given back to the service's own workers, and
# a process that still has the previous code has stored another task since.
LOST_LANES = """
WITH RECURSIVE used (lane) AS (
    SELECT (SELECT lane FROM task WHERE lane <> '' AND finished_at IS NULL ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
        SELECT lane FROM task WHERE lane <> '' AND finished_at IS NULL AND lane > used.lane ORDER BY lane LIMIT 1
    ) FROM used WHERE used.lane IS NOT NULL
)
SELECT lane FROM used WHERE lane IS NOT NULL AND lane NOT IN (SELECT type FROM lane)
"""


def lost_lanes(tx: Transaction) -> list[str]:
    return [lane for (lane,) in tx.all(LOST_LANES)]


def open_lanes(tx: Transaction, types: Iterable[str]) -> None:
    for type in sorted(types):
        tx.put(OPEN_LANE, type=type)


IS_OUTSIDE = "status = 'queued' AND lane = '' AND type IN (SELECT type FROM lane WHERE is_kept = 1)"
MOVE_IN = f"""
UPDATE task SET lane = type WHERE id IN (
    WITH outside AS MATERIALIZED (SELECT id FROM task WHERE {IS_OUTSIDE} LIMIT :most FOR UPDATE SKIP LOCKED)
    SELECT id FROM outside
)
"""


def is_any_outside(tx: Transaction) -> bool:
    """Whether a task whose code runs elsewhere waits among those of the service's own workers. They move it when they
    meet it; where there are none, it would wait for ever. Walks all that wait there, so it is for `query`."""
    return tx.one(f"SELECT 1 FROM task WHERE {IS_OUTSIDE} LIMIT 1") is not None


def move_in(tx: Transaction) -> int:
    """Moves some of them into their lanes: how many."""
    return tx.run(MOVE_IN, most=MAX_APART)


LOCK_LANE = "SELECT 1 FROM lane WHERE type = :type AND is_paused = 0 AND is_kept = 0 FOR UPDATE"
IS_USED = "SELECT 1 FROM task WHERE lane = :type AND lane <> '' AND finished_at IS NULL LIMIT 1"


def drop_empty_lanes(tx: Transaction) -> None:
    """Once all workers have a type again, its tasks wait among the others."""
    for lane in own_lanes(tx):
        if lane.is_paused or lane.is_kept or not tx.one(LOCK_LANE, type=lane.type):
            continue
        if not tx.one(IS_USED, type=lane.type):
            tx.put("DELETE FROM lane WHERE type = :type", type=lane.type)
