"""When schedules tick: cron expressions where clocks change and days are missing, and intervals."""

import itertools

import pytest

from only_post_svc.recurrence import NeverTicks, Recurrence, faults
from shared import times

ZURICH = "Europe/Zurich"


def ticks(cron: str, timezone: str, start: str, count: int) -> list[str]:
    recurrence, moment, found = Recurrence(cron=cron, timezone=timezone), times.from_text(start), []
    for _ in range(count):
        moment = recurrence.after(moment)
        found.append(times.to_text(moment).removesuffix(":00.000Z"))
    return found


@pytest.mark.parametrize(
    ("cron", "timezone", "start", "expected"),
    [
        ("0 3 * * *", ZURICH, "2026-11-27T12:00:00Z", ["2026-11-28T02:00", "2026-11-29T02:00"]),
        ("0 3 * * *", "UTC", "2026-11-27T03:00:00Z", ["2026-11-28T03:00"]),
        ("0 3 * * *", "UTC", "2026-11-27T02:59:59.999Z", ["2026-11-27T03:00"]),
        ("@daily", "Asia/Tokyo", "2026-11-27T12:00:00Z", ["2026-11-27T15:00"]),
        ("*/20 8-9 * * MON-FRI", "UTC", "2026-11-27T09:30:00Z", ["2026-11-27T09:40", "2026-11-30T08:00"]),
        ("0 0 1 JAN *", "UTC", "2026-11-27T00:00:00Z", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("0 12 29 2 *", "UTC", "2026-11-27T00:00:00Z", ["2028-02-29T12:00", "2032-02-29T12:00"]),
        ("0 12 29 2 *", "UTC", "2096-03-01T00:00:00Z", ["2104-02-29T12:00"]),  # 2100 is no leap year
        ("0 0 13 * FRI", "UTC", "2026-11-27T01:00:00Z", ["2026-12-04T00:00", "2026-12-11T00:00", "2026-12-13T00:00"]),
    ],
)
def test_a_cron_expression_ticks_in_local_time(cron: str, timezone: str, start: str, expected: list[str]) -> None:
    assert ticks(cron, timezone, start, len(expected)) == expected


def test_the_hour_that_spring_leaves_out_is_made_up_for_once() -> None:
    assert ticks("30 2 * * *", ZURICH, "2026-03-28T12:00:00Z", 2) == ["2026-03-29T01:00", "2026-03-30T00:30"]
    assert ticks("0,30 2 * * *", ZURICH, "2026-03-28T12:00:00Z", 2) == ["2026-03-29T01:00", "2026-03-30T00:00"]


def test_the_hour_that_autumn_repeats_has_a_daily_tick_once() -> None:
    assert ticks("30 2 * * *", ZURICH, "2026-10-24T12:00:00Z", 2) == ["2026-10-25T00:30", "2026-10-26T01:30"]
    assert ticks("30 2 * * *", ZURICH, "2026-10-25T01:10:00Z", 1) == ["2026-10-26T01:30"]  # made within that hour


def test_what_ticks_every_half_hour_goes_on_through_both() -> None:
    for start in ("2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z"):
        found = [times.from_text(f"{tick}:00Z") for tick in ticks("*/30 * * * *", ZURICH, start, 12)]
        assert {later - tick for tick, later in itertools.pairwise(found)} == {30 * 60 * 1000}


@pytest.mark.parametrize(
    "cron",
    [
        "0 0 31 2 *",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* * * * 8",
        "*/0 * * * *",
        "",
        "@reboot",
        "a b c d e",
        "5-1 * * * *",
        "\u0663 * * * *",
        f"0 0 {'1,' * 200}1 * *",
    ],
)
def test_an_expression_that_never_comes_is_told_at_once(cron: str) -> None:
    with pytest.raises(NeverTicks):
        Recurrence(cron=cron).after(0)
    assert [fault.pointer for fault in faults(cron, None, "UTC")] == ["/cron"]


@pytest.mark.parametrize("name", ["", "Europe", "Europe/Nowhere", "../../etc/passwd", "/etc/localtime", "a" * 5000])
def test_an_unknown_zone_is_told(name: str) -> None:
    assert [fault.pointer for fault in faults("0 3 * * *", None, name)] == ["/timezone"]
    assert [fault.pointer for fault in faults(None, 1, name)] == ["/timezone"]


def test_one_of_cron_and_every_is_needed() -> None:
    assert [fault.pointer for fault in faults(None, None, "UTC")] == ["/cron"]
    assert [fault.pointer for fault in faults("0 3 * * *", 1, "UTC")] == ["/every"]


def test_an_interval_keeps_its_pace() -> None:
    recurrence = Recurrence(every_ms=1000)
    assert recurrence.after(5_300) == 6_300
    assert recurrence.after(5_300, tick=4_000) == 6_000
    assert recurrence.after(5_000, tick=4_000) == 6_000


def test_what_was_missed_is_one_tick_and_what_is_only_late_is_each() -> None:
    recurrence = Recurrence(every_ms=1000)
    assert recurrence.due(10_000, since=60_500, now=60_500, most=60) == ([10_000], 61_000)
    assert recurrence.due(10_000, since=9_000, now=12_500, most=60) == ([10_000, 11_000, 12_000], 13_000)
    assert recurrence.due(10_000, since=11_200, now=13_500, most=60) == ([10_000, 12_000, 13_000], 14_000)
    assert recurrence.due(10_000, since=0, now=90_000, most=2) == ([10_000, 11_000], 12_000)
