"""When a schedule ticks: by a cron expression in a time zone, or every so many seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from shared.schemas import Fault
from shared.times import EPOCH

MILLISECOND = timedelta(milliseconds=1)
MIN_EVERY_SECONDS = 1
MAX_EVERY_SECONDS = 366 * 86400
MAX_CRON_LENGTH = 255
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class NeverTicks(Exception):
    """The expression or the zone is not valid, or its day never comes (31 February)."""


@dataclass(frozen=True)
class Recurrence:
    """One of `cron` and `every_ms`. Moments are milliseconds since 1970."""

    cron: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"

    @classmethod
    def of(cls, cron: str | None, every_seconds: float | None, timezone: str) -> "Recurrence":
        return cls(cron, None if every_seconds is None else int(every_seconds * 1000), timezone)

    def after(self, moment: int, tick: int | None = None) -> int:
        """The first tick after `moment`; `every` counts from `tick`, an earlier one. Raises NeverTicks."""
        if self.every_ms is None:
            return self._after(moment)
        start = moment if tick is None else tick
        return start + ((moment - start) // self.every_ms + 1) * self.every_ms

    def due(self, tick: int, since: int, now: int, most: int) -> tuple[list[int], int]:
        """The ticks from `tick` to `now` that make a task each, at most `most`, and the next tick. All that were missed
        before `since` make one task together."""
        ticks, next_tick = [tick], self.after(max(tick, since), tick)
        while next_tick <= now and len(ticks) < most:
            ticks.append(next_tick)
            next_tick = self.after(next_tick, next_tick)
        return ticks, next_tick

    def _after(self, moment: int) -> int:
        local = datetime.fromtimestamp(moment // 1000, zone(self.timezone))
        # In the hour that a clock repeats, cronsim may give times of the first pass, which are over.
        for tick in _simulated(self.cron or "", local):
            if (found := (tick.astimezone(UTC) - EPOCH) // MILLISECOND) > moment:
                return found
        raise NeverTicks(self.cron)


def faults(cron: object, every: object, timezone: object) -> list[Fault]:
    """What is wrong with these members of a request, beside their types."""
    found = []
    if cron is None and every is None:
        found.append(Fault("/cron", "required, or every"))
    if cron is not None and every is not None:
        found.append(Fault("/every", "not beside cron"))
    if isinstance(cron, str) and not _ticks(Recurrence(cron)):
        found.append(Fault("/cron", "must be five fields such as 0 3 * * MON, for a day that exists"))
    if isinstance(timezone, str) and not _ticks(Recurrence("* * * * *", timezone=timezone)):
        found.append(Fault("/timezone", "must be a zone of the IANA database such as Europe/Zurich"))
    return found


def _ticks(recurrence: Recurrence) -> bool:
    try:
        recurrence.after(0)  # an expression that ticks at all does so every few years
    except NeverTicks:
        return False
    return True


def _simulated(cron: str, local: datetime) -> CronSim:
    expression = NICKNAMES.get(cron.lower(), cron)
    if len(expression) > MAX_CRON_LENGTH or len(expression.split()) != 5:  # cronsim takes seconds as well
        raise NeverTicks(cron)
    try:
        return CronSim(expression, local)
    except CronSimError:
        raise NeverTicks(cron) from None


def zone(name: str) -> ZoneInfo:
    """Raises NeverTicks."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # of a path made of the name: not there, outside, a directory, too long
        raise NeverTicks(name) from None
