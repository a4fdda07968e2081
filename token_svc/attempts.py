"""Logins that failed, and registrations, counted in the database that all processes share.

A login is counted before its password is checked, so that concurrent logins cannot pass the limit together. Above the
limit an address has to wait, twice as long with every further failure. An address that has logged in to the account
before has a count of its own alone. Strangers are counted by network as well, /64, /56 and /48 (of IPv4 the address,
/24 and /16), so that an attacker with many addresses soon waits for minutes. Beyond that all strangers to the account
share a limit, with a short wait. So an attacker cannot lock the owner out. Refresh tokens work in any case.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared import pruning, times
from shared.addresses import wider_networks
from shared.database import Transaction, listed
from shared.errors import TooManyRequests
from shared.settings import Rate

MAX_DELAY_SECONDS = 900
MAX_ACCOUNT_DELAY_SECONDS = 60
ACCOUNT_FAILURES = 50  # NIST SP 800-63B-4 §3.2.2 allows 100
KEPT_SECONDS = 2 * MAX_DELAY_SECONDS  # after the last failure; then the count starts again
KNOWN_SECONDS = 30 * 86400


class Limit(NamedTuple):
    """So many failures, then a delay that starts at `delay_seconds` and doubles up to `most_seconds`."""

    key: str
    allowed: int
    delay_seconds: float
    most_seconds: float


class LoginLimits(NamedTuple):
    """What one login counts against: `address` once it has failed, `own` before its password is checked."""

    address: list[Limit]
    own: list[Limit]


NO_LIMITS = LoginLimits([], [])


def login_limits(tx: Transaction, rate: Rate, username_key: str, address: str) -> LoginLimits:
    allowed, seconds = rate
    delay = seconds / allowed
    own = [Limit(f"login {address} {username_key}", allowed, delay, MAX_DELAY_SECONDS)]
    if not is_known(tx, username_key, address):
        for wider, network in enumerate(wider_networks(address), start=1):
            own.append(Limit(f"login {network} {username_key}", allowed * 2**wider, delay, MAX_DELAY_SECONDS))
        own.append(Limit(f"login * {username_key}", ACCOUNT_FAILURES, 1, MAX_ACCOUNT_DELAY_SECONDS))
    return LoginLimits([Limit(f"login {address}", allowed, delay, MAX_DELAY_SECONDS)], own)


def client_limits(rate: Rate, address: str) -> LoginLimits:
    """For wrong secrets of machine clients. They count for no user, and a right secret is let through."""
    allowed, seconds = rate
    return LoginLimits([Limit(f"client {address}", allowed, seconds / allowed, MAX_DELAY_SECONDS)], [])


def begin(tx: Transaction, limits: LoginLimits) -> None:
    """Counts a login as failed. Raises 429, counting nothing, when one of its limits has to wait."""
    counts = _lock(tx, (*limits.address, *limits.own))
    for limit in (*limits.address, *limits.own):
        failures, last_at = counts[limit.key]
        _need_over(tx, last_at + _delay_seconds(failures, limit) * 1000)
    _add_one(tx, limits.own, counts)


def fail(tx: Transaction, limits: LoginLimits) -> None:
    _add_one(tx, limits.address, _lock(tx, limits.address))


def uncount(tx: Transaction, limits: LoginLimits) -> None:
    """The password was not checked after all."""
    for limit in limits.own:
        tx.put(ONE_LESS, key=limit.key)


ONE_LESS = "UPDATE attempt SET failures = failures - 1 WHERE key = :key AND failures > 0"


def forgive(tx: Transaction, limits: LoginLimits) -> None:
    """The login succeeded."""
    for limit in limits.own[:1]:  # of this address for this account
        tx.put("DELETE FROM attempt WHERE key = :key", key=limit.key)
    for limit in limits.own[1:]:
        tx.put(ONE_LESS, key=limit.key)


def take_registration(tx: Transaction, rate: Rate, address: str) -> None:
    """Counts a registration, or a question whether a name is taken. Raises 429 above `rate`."""
    _take(tx, rate, f"register {address}")


def take_recovery(tx: Transaction, rate: Rate, address: str) -> None:
    """Counts a request for a new password. Raises 429 above `rate`."""
    _take(tx, rate, f"forgot {address}")


def take_mail(tx: Transaction, rate: Rate, email_key: str) -> bool:
    """Counts one mail to an email address. False above `rate`."""
    try:
        _take(tx, rate, _mail(email_key))
    except TooManyRequests:
        return False
    return True


def _mail(email_key: str) -> str:
    return f"mail {hashlib.sha256(email_key.encode()).hexdigest()}"  # a digest, since it outlasts the account


def _take(tx: Transaction, rate: Rate, key: str) -> None:
    allowed, seconds = rate
    tx.lock(key)
    count, since = _find(tx, [key])[key]
    if count >= allowed:
        _need_over(tx, since + seconds * 1000)
    is_new = count == 0 or tx.now >= since + seconds * 1000
    _put(tx, key, 1 if is_new else count + 1, since=tx.now if is_new else since, kept_seconds=seconds)


def remember(tx: Transaction, username_key: str, address: str) -> None:
    """The address is one that the account's owner logs in from."""
    _put(tx, f"known {address} {username_key}", 0, since=tx.now, kept_seconds=KNOWN_SECONDS)


def is_known(tx: Transaction, username_key: str, address: str) -> bool:
    return tx.one(IS_KNOWN, key=f"known {address} {username_key}", now=tx.now) is not None


def forget(tx: Transaction, username_key: str) -> None:
    tx.put("DELETE FROM attempt WHERE username_key = :username_key", username_key=username_key)


OF = "SELECT key, failures, last_at FROM attempt WHERE username_key = :username_key OR key = :mail"


def of(tx: Transaction, username_key: str, email_key: str) -> list[dict[str, Any]]:
    found = []
    for key, failures, at in sorted(tx.all(OF, username_key=username_key, mail=_mail(email_key))):
        kind, address = key.split(" ", 2)[:2]
        found.append({"kind": kind, "address": address, "failures": failures, "at": times.to_text(at)})
    return found


IS_KNOWN = "SELECT 1 FROM attempt WHERE key = :key AND expires_at > :now"
FIND = "SELECT key, failures, last_at FROM attempt WHERE key IN {keys} AND expires_at > :now"

PUT = """
INSERT INTO attempt (key, username_key, failures, last_at, expires_at)
VALUES (:key, :username_key, :failures, :since, :expires_at)
ON CONFLICT (key) DO UPDATE SET failures = excluded.failures, last_at = excluded.last_at,
    expires_at = excluded.expires_at
"""


def prune(tx: Transaction) -> int:
    return len(pruning.delete_expired(tx, "attempt", "key"))


class Count(NamedTuple):
    failures: int = 0
    last_at: int = 0


def _lock(tx: Transaction, limits: Sequence[Limit]) -> dict[str, Count]:
    """What has been counted, by key, locked until the transaction ends."""
    keys = sorted(limit.key for limit in limits)  # sorted: a fixed lock order cannot deadlock
    for key in keys:
        tx.lock(key)
    return _find(tx, keys)


def _find(tx: Transaction, keys: Sequence[str]) -> dict[str, Count]:
    named, values = listed("key", keys)
    rows = tx.all(FIND.format(keys=named), now=tx.now, **values) if keys else []
    return dict.fromkeys(keys, Count()) | {key: Count(failures, last_at) for key, failures, last_at in rows}


def _add_one(tx: Transaction, limits: Sequence[Limit], counts: Mapping[str, Count]) -> None:
    for limit in limits:
        _put(tx, limit.key, counts[limit.key].failures + 1, since=tx.now, kept_seconds=KEPT_SECONDS)


def _put(tx: Transaction, key: str, failures: int, *, since: int, kept_seconds: int) -> None:
    words = key.split(" ", 2)
    username_key = words[2] if len(words) == 3 else ""
    expires_at = tx.now + kept_seconds * 1000
    tx.put(PUT, key=key, username_key=username_key, failures=failures, since=since, expires_at=expires_at)


def _need_over(tx: Transaction, until: float) -> None:
    if until > tx.now:
        raise TooManyRequests((until - tx.now) / 1000)


def _delay_seconds(failures: int, limit: Limit) -> float:
    if failures < limit.allowed:
        return 0
    return min(limit.most_seconds, limit.delay_seconds * 2.0 ** min(30, failures - limit.allowed))
