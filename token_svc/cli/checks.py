"""The doctor's checks of this service alone."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from shared import cpus
from shared.cli.doctor import Finding
from token_svc.passwords import CONTEXT
from token_svc.settings import Settings

MEASURED_SECONDS = 0.5
FEW_LOGINS = 5  # a second


def passwords(settings: Settings) -> Iterator[Finding]:
    rate = hash_rate(cpus.usable())
    if rate < FEW_LOGINS:
        yield Finding(
            "passwords", "warn", f"{rate:.0f} logins a second at most; use a machine with more or faster cores"
        )
    else:
        yield Finding("passwords", "ok", f"{rate:.0f} logins a second at most")


def hash_rate(threads: int) -> float:
    """Passwords that this machine hashes in a second, with nothing else to do."""
    deadline = time.monotonic() + MEASURED_SECONDS

    def hash_some(number: int) -> int:
        count = 0
        while time.monotonic() < deadline:
            CONTEXT.hash("correct horse battery staple")
            count += 1
        return count

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(hash_some, range(threads)))
    return total / (time.monotonic() - started)


ALL = (passwords,)
