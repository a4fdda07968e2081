"""The sessions of one kind, and the transactions over them: of a group of units, or of one alone."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import errors

from shared.database import Unstorable, report_unavailable
from shared.database.jobs import Ended, Job, Outcome, failed
from shared.database.postgres.clock import Clock
from shared.database.postgres.transaction import Times, Transaction, Unmet
from shared.database.postgres.wire import Wire
from shared.errors import Unavailable

LONG_MS = 600_000  # a statement of a unit that is long
GROUP_LOCK_MS = 50  # units of two groups may wait for each other in turn; alone they can't
LOCK_MS = 1000  # the server ends a wait for a lock then, so that it is not taken for silent
SILENT_SECONDS = 1.0  # beyond the time of a statement, within which the server ends it itself and says so
CLOSE_SECONDS = 1.0
TRIES = 3

# Errors that another try may not meet: another transaction was quicker, or in the way.
TRANSIENT = (
    errors.UniqueViolation,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,  # a primary that has become a standby
    psycopg.OperationalError,  # the connection is lost, before COMMIT was sent
)

# Because of a value, so that trying again does not help: out of range, not in the encoding, too large for an index.
REFUSED = (psycopg.DataError, errors.ProgramLimitExceeded, UnicodeEncodeError)


class _Failed(Exception):
    """A unit of a group may have left something: the group's transaction is undone."""


class Sessions:
    def __init__(self, make: Callable[[], Wire], begin: str, times: Times) -> None:
        """`make` may wait, and raises Unavailable. `times` are the timeouts that a session was set up with; behind a
        pooler each transaction sets its own."""
        self._make = make
        self._begin = begin
        self._times = times
        self._free: deque[Wire] = deque()
        self._busy: set[Wire] = set()
        self._clock = Clock()
        self._is_closing = False
        self.heard_at = 0.0  # when the server last did what it was asked

    def run(self, group: Sequence[Job]) -> Iterator[Ended]:
        """What became of the units: of all together, or of one after the other when one of them has failed."""
        waiting = [job for job in group if not job.future.done()]
        together = self._together(waiting) if len(waiting) > 1 else None
        if together is not None:
            yield together
            return
        # Alone, units that are last go first: they must not wait while another unit waits for a lock.
        for job in sorted(waiting, key=lambda job: not job.is_last):
            yield self._alone(job)

    def _together(self, group: Sequence[Job]) -> Ended | None:
        """All units in one transaction; None when one failed that may have written something."""
        outcomes: list[Outcome] = []
        try:
            with self._transaction(self._times._replace(lock_ms=GROUP_LOCK_MS)) as tx:
                for job in group:
                    tx.has_run, hints = False, tx.hints.copy()
                    try:
                        outcomes.append(Outcome(job.future, job.unit(tx)))
                        self.heard_at = time.monotonic()
                    except Exception as error:
                        if tx.has_run or isinstance(error, (psycopg.Error, *REFUSED)):
                            raise _Failed from error
                        tx.hints = hints
                        outcomes.append(Outcome(job.future, None, error))
        except Unavailable as error:
            return failed(error, group)
        except (psycopg.Error, _Failed):
            return None
        return Ended(outcomes, tx.hints)

    def _alone(self, job: Job) -> Ended:
        failures = 0
        times = self._times._replace(statement_ms=LONG_MS) if job.is_long else self._times
        while not job.future.done():
            try:
                with self._transaction(times) as tx:
                    value = job.unit(tx)
                return Ended([Outcome(job.future, value)], tx.hints)
            except errors.LockNotAvailable:  # how long to wait for others is the caller's to say
                self.heard_at = time.monotonic()
            except REFUSED as error:
                return failed(Unstorable(error), [job])
            except Unmet as unmet:
                return failed(unmet.error, [job])
            except psycopg.Error as error:
                failures += 1
                if failures == TRIES or not isinstance(error, TRANSIENT):
                    return failed(report_unavailable(error), [job])
            except Exception as error:
                return failed(error, [job])
        return Ended([Outcome(job.future, None)])

    @contextlib.contextmanager
    def _transaction(self, times: Times) -> Iterator[Transaction]:
        """Raises Unavailable when the server can't be reached or the outcome of COMMIT is unknown, and psycopg.Error
        when nothing was committed."""
        wire = self._take(times)
        is_committing = is_done = False
        try:
            tx = Transaction(wire, self._begin, times, self._times, self._clock)
            yield tx
            is_committing = True
            tx.commit()
            self.heard_at = time.monotonic()
            is_done = True
        except psycopg.Error as error:
            if is_committing and wire.is_lost:
                raise report_unavailable(f"whether it has committed is not known: {error}") from None
            raise
        finally:
            self._give_back(wire, is_done=is_done)

    def _take(self, times: Times) -> Wire:
        wire = self._kept() or self._make()
        self._busy.add(wire)
        wire.patience_seconds = CLOSE_SECONDS if self._is_closing else times.statement_ms / 1000 + SILENT_SECONDS
        return wire

    def _kept(self) -> Wire | None:
        while self._free:
            if (wire := self._free.pop()).is_good():
                return wire
        return None

    def _give_back(self, wire: Wire, *, is_done: bool) -> None:
        self._busy.discard(wire)
        if not is_done and not wire.is_lost:
            with contextlib.suppress(psycopg.Error):
                wire.undo()
        if not wire.is_lost:
            self._free.append(wire)

    def look(self) -> None:
        for wire in self._busy.copy():
            wire.look()

    def stop(self) -> None:
        """Units that run have CLOSE_SECONDS more."""
        self._is_closing = True
        for wire in self._busy.copy():
            wire.patience_seconds = CLOSE_SECONDS

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
