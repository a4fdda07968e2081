"""Whether the clock can be trusted when it says that leases are over."""

import logging
import time

JUMP_SECONDS = 5.0
LATE_SECONDS = 12.0  # it is asked every five

log = logging.getLogger(__name__)


class ClockWatch:
    """Notices when the database's clock moves otherwise than this process's own."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._offset: float | None = None
        self._quiet_until = 0.0
        self._asked_at = time.monotonic()
        self.steady_since: int | None = None  # by the database's clock, in milliseconds; None where it is not

    def has_jumped(self, now_ms: int) -> bool:
        """Whether the clock has jumped within the last lease, or this process was stopped, as all others may have
        been."""
        now = time.monotonic()
        offset = now_ms / 1000 - now
        if now - self._asked_at > LATE_SECONDS:
            self.distrust()
        self._asked_at = now
        if self._offset is not None and abs(offset - self._offset) > JUMP_SECONDS:
            log.warning("clock.jumped", extra={"seconds": round(offset - self._offset, 1)})
            self.distrust()
        self._offset = offset
        if self.steady_since is None:
            self.steady_since = now_ms
        return self.is_distrusted

    @property
    def is_distrusted(self) -> bool:
        return time.monotonic() < self._quiet_until

    def distrust(self) -> None:
        """For one lease, from now on: others may not have been able to renew theirs."""
        self._quiet_until = time.monotonic() + self._lease_seconds
        self.steady_since = None
