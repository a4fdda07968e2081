"""What the processes take before anybody asks them for anything."""

import statistics
import time
from collections.abc import Callable
from functools import partial

from tests.bench.lab import Lab, Measured
from tests.bench.machine import cpu_seconds, rss_mb
from tests.bench.table import Row
from tests.processes import HTTPService, Service, TokenService

SETTLE_SECONDS = 3  # for what a start leaves behind
COUNTED_LATE_SECONDS = 12  # an idle connection of PostgreSQL tells what it has done up to ten seconds later


def start(lab: Lab) -> Measured:
    seconds = [_start_seconds(lab, cls) for cls in (Service, TokenService)]
    return Measured(" / ".join(f"{one:.2f}" for one in seconds) + " s")


def _start_seconds(lab: Lab, cls: type[HTTPService]) -> float:
    taken = []
    for _ in range(lab.options.rounds):
        started = time.monotonic()
        service = lab.service(cls, "start")
        taken.append(time.monotonic() - started)
        service.kill()
    return statistics.median(taken)


def _processes(lab: Lab) -> list[int]:
    web, worker = lab.apart
    return [web.pid, worker.pid, worker.children()[0], lab.tokens.pid]


def _per_second(lab: Lab, counters: list[Callable[[], float]]) -> list[float]:
    """How fast each grows while nothing happens."""
    seconds = lab.options.idle_seconds
    time.sleep(min(SETTLE_SECONDS, seconds))
    before = [count() for count in counters]
    time.sleep(seconds)
    return [(count() - start) / seconds for count, start in zip(counters, before, strict=True)]


def cpu(lab: Lab) -> Measured:
    shares = _per_second(lab, [partial(cpu_seconds, pid) for pid in _processes(lab)])
    return Measured(" / ".join(f"{share * 100:.1f}" for share in shares) + " %")


def memory(lab: Lab) -> Measured:
    return Measured(" / ".join(f"{rss_mb(pid):.0f}" for pid in _processes(lab)) + " MB")


def transactions(lab: Lab) -> Measured | None:
    """Of those that have a connection, where a server counts them."""
    if not lab.databases.is_postgresql:
        return None
    _processes(lab)
    time.sleep(min(COUNTED_LATE_SECONDS, lab.options.idle_seconds))
    (rate,) = _per_second(lab, [lab.databases.transactions])
    return Measured(f"{rate:.1f}/s")


ROWS = [
    Row("start", "`python -m …` to the first answer: only_post_svc / token_svc", "0.7 s", start),
    Row("cpu", "idle CPU: web / worker / child / token_svc", "0.5 %", cpu),
    Row("memory", "idle RSS: web / worker / child / token_svc", "60 / 50 / 30 MB", memory),
    Row("transactions", "idle: transactions of web, worker and token_svc together", "3/s", transactions),
]
