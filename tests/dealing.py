"""Which tests `make test` gives to which of its processes, and in which order."""

from collections.abc import Iterator
from itertools import zip_longest

import pytest
from xdist.scheduler import LoadScopeScheduling

# What waits more than it computes. Of the first, which share no service, each test is dealt by itself.
WAITING_ALONE = (
    *("tests/chaos/test_disk", "tests/chaos/test_hosts", "tests/chaos/test_interleaving", "tests/chaos/test_ledger"),
    *("tests/chaos/test_pgbouncer", "tests/chaos/test_restarts", "tests/chaos/test_standby", "tests/chaos/test_zombie"),
    *("tests/shared/test_postgres.py", "tests/test_managers"),
)
WAITING = (*WAITING_ALONE, "tests/chaos/", "tests/only_post_svc/test_elsewhere", "tests/token_svc/test_mailer")
ENGINES = ("sqlite", "postgres")


def engine_of(nodeid: str) -> str:
    return next((engine for engine in ENGINES if engine in nodeid.partition("::")[2]), "")


def unit_of(nodeid: str) -> str:
    """What is dealt at once: the tests of a file on one engine."""
    return nodeid if nodeid.startswith(WAITING_ALONE) else f"{nodeid.partition('::')[0]}::{engine_of(nodeid)}"


class Dealing(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """All on SQLite before all on PostgreSQL, so that a process starts a service that files share once for each, and
    what waits in turn with what computes. What needs no service waits first or computes last."""
    units: dict[str, list[pytest.Item]] = {}
    for item in items:
        units.setdefault(unit_of(item.nodeid), []).append(item)
    return [item for unit in _in_turn(list(units)) for item in units[unit]]


def _in_turn(units: list[str]) -> Iterator[str]:
    for waiting, computing in ((("", "sqlite"), ("sqlite",)), (("postgres",), ("postgres",)), ((), ("",))):
        waits = [unit for unit in units if unit.startswith(WAITING) and engine_of(unit) in waiting]
        computes = [unit for unit in units if not unit.startswith(WAITING) and engine_of(unit) in computing]
        for pair in zip_longest(waits, computes):
            yield from filter(None, pair)
