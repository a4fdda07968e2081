"""Looks for faults of a service before they show: settings, secrets, the database, the disk, the clock.

It mends nothing, and makes nothing but what a start would. Each finding says what was found and, where that is
not good, what to do.
"""

import asyncio
import difflib
import ipaddress
import math
import os
import sqlite3
import stat
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shared import keys
from shared.cli import disks, terminal
from shared.cli.clocks import is_synchronised
from shared.database import Transaction, connection
from shared.errors import Problem
from shared.settings import Settings, SettingsError, is_this_machine

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")

MIN_SQLITE = (3, 35, 0)
WAL_RESET_FIXED = (3, 51, 3)
MIN_SECRET_BITS = 96
MAX_CLOCK_SECONDS = 5  # a token of a clock one minute ahead is refused, and a lease lasts half a minute
SLOW_SYNC_MILLISECONDS = 50
LITTLE_ROOM_BYTES = 1024**3
NO_ROOM_BYTES = 64 * 1024**2
WIDEST_PREFIX = 8  # 10.0.0.0/8 may be one operator's; a wider network is not
FILE_VARIABLES = ("SECRET_KEY_FILE", "SIGNING_KEY_FILE")


class Finding(NamedTuple):
    check: str
    status: Status
    detail: str


Check = Callable[[Any], Iterator[Finding]]  # of a service's settings


def examine(
    cls: type[Settings], environ: Mapping[str, str], schemas: Mapping[str, Path], more: Sequence[Check]
) -> list[Finding]:
    findings = list(_spelling(cls, environ))
    try:
        settings = cls.from_env(environ, makes_files=False)
        keys.load_keys(settings)
    except SettingsError as error:
        return [Finding("settings", "fail", f"{error}; nothing else could be looked at"), *findings]
    findings.insert(0, Finding("settings", "ok", f"{settings.app_env}, port {settings.port}"))
    findings += _secrets(settings)
    findings += _secret_files(environ, settings.development_secret_file)
    findings += _proxy(settings)
    findings += _disk(settings)
    findings += _files(settings)
    findings += _engine(settings)
    findings += _database(settings, schemas)
    for check in more:
        findings += check(settings)
    return findings


def worst(findings: Sequence[Finding]) -> Status:
    return STATUSES[max(STATUSES.index(finding.status) for finding in findings)]


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"status": worst(findings), "checks": [finding._asdict() for finding in findings]}


def text(findings: Sequence[Finding]) -> str:
    return terminal.table(("STATUS", "CHECK", "FOUND"), [(one.status, one.check, one.detail) for one in findings])


def graver(settings: Settings) -> Status:
    """Of a finding that is a warning in development and a fault in production."""
    return "fail" if settings.app_env == "production" else "warn"


def _spelling(cls: type[Settings], environ: Mapping[str, str]) -> Iterator[Finding]:
    known = cls.variables()
    for name in environ:
        meant = difflib.get_close_matches(name, known, 1, cutoff=0.9)
        if name not in known and meant:
            yield Finding("settings", "warn", f"{name} is no setting: is {meant[0]} meant?")


def _engine(settings: Settings) -> Iterator[Finding]:
    if not connection.is_sqlite(settings.database_url):
        return
    version, found = sqlite3.sqlite_version, sqlite3.sqlite_version_info
    if found < MIN_SQLITE:
        yield Finding("sqlite", "fail", f"{version} is too old; use a Python with SQLite 3.35 or newer")
    elif found < WAL_RESET_FIXED:
        yield Finding("sqlite", "ok", f"{version}, whose WAL-reset bug is kept out by a lock: let nothing else write")
    else:
        yield Finding("sqlite", "ok", version)


def _secrets(settings: Settings) -> Iterator[Finding]:
    values = [secret.value for secret in settings.secret_key]
    if len(set(values)) < len(values):
        yield Finding("secrets", "warn", "SECRET_KEY has one secret twice; leave one out")
    weak = [number for number, value in enumerate(values, 1) if _bits(value) < MIN_SECRET_BITS]
    if weak:
        command = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        which = f"secret {weak[0]} of {len(values)}" if len(values) > 1 else "the secret"
        yield Finding("secrets", graver(settings), f"SECRET_KEY: {which} can be guessed; make one with {command}")
    elif settings.secret_origin:
        has_keys = keys.given_signing_key(settings) or keys.given_jwks(settings)
        held = "a key file" if has_keys else f"{len(values)} shared, {settings.secret_origin}"
        yield Finding("secrets", "ok", f"{held}, strong enough")
    else:
        made = settings.development_secret_file
        yield Finding("secrets", "ok", f"none yet: the first start makes one in {made}")


def _bits(secret: bytes) -> float:
    """An upper bound of its entropy in bits: what a byte has on average, times the bytes that compression leaves."""
    counts = Counter(secret).values()
    entropy = -sum(count / len(secret) * math.log2(count / len(secret)) for count in counts)
    return entropy * min(len(secret), len(zlib.compress(secret, 9)) - 8)


def _secret_files(environ: Mapping[str, str], made: Path) -> Iterator[Finding]:
    named = {name: Path(environ[name]) for name in FILE_VARIABLES if environ.get(name)}
    if not named and not environ.get("SECRET_KEY") and made.exists():
        named = {str(made): made}
    for name, path in named.items():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            yield Finding("secrets", "fail", f"{name}: others can change the file (mode {mode:o}); chmod 600")
        elif mode & 0o044:
            yield Finding("secrets", "warn", f"{name}: others can read the file (mode {mode:o}); chmod 600")


def _proxy(settings: Settings) -> Iterator[Finding]:
    trusted = settings.forwarded_allow_ips
    wide = [one for one in trusted if one == "*" or ipaddress.ip_network(one).prefixlen < WIDEST_PREFIX]
    if wide:
        advice = f"FORWARDED_ALLOW_IPS: {wide[0]} lets any caller choose its address; name your proxies"
        yield Finding("proxy", graver(settings), advice)
    elif trusted == ("127.0.0.1",) and not is_this_machine(settings.host):
        advice = "all callers of a proxy on another host share one rate limit; name it in FORWARDED_ALLOW_IPS"
        yield Finding("proxy", "warn", advice)
    else:
        yield Finding("proxy", "ok", f"X-Forwarded-For is believed from {', '.join(trusted) or 'no address'}")


def _disk(settings: Settings) -> Iterator[Finding]:
    file = connection.file_of(settings.database_url)
    if file is None:
        if connection.is_sqlite(settings.database_url):
            yield Finding("disk", graver(settings), "the database is in memory: nothing lasts")
        return
    directory = next(parent for parent in file.parents if parent.is_dir())
    yield _lasting(settings, directory)
    free = disks.free_bytes(directory)
    status: Status = "fail" if free < NO_ROOM_BYTES else "warn" if free < LITTLE_ROOM_BYTES else "ok"
    yield Finding("disk", status, f"{free / 1024**3:.1f} GiB free" + ("" if status == "ok" else "; make room"))
    try:
        yield _sync(disks.sync_milliseconds(directory))
    except OSError as error:
        yield Finding("disk", "fail", f"the database's directory can't be written ({error.strerror})")


def _lasting(settings: Settings, directory: Path) -> Finding:
    type = disks.file_system(directory)
    if settings.dyno and directory.stat().st_dev == Path("/").stat().st_dev:
        return Finding("disk", "fail", "DYNO is set: this disk is gone with every restart; mount a volume that lasts")
    if type in disks.MEMORY or type in disks.LAYERS:
        advice = f"{type}: the database is gone with the machine or the container; put it on a volume"
        return Finding("disk", graver(settings), advice)
    if type in disks.NETWORK:
        return Finding("disk", "fail", f"{type}: SQLite needs a disk of this machine (https://sqlite.org/wal.html)")
    return Finding("disk", "ok", f"{type or 'a file system of unknown type'}")


def _sync(milliseconds: float) -> Finding:
    if milliseconds > SLOW_SYNC_MILLISECONDS:
        return Finding("disk", "warn", f"a sync takes {milliseconds:.0f} ms, and every write one; use a faster disk")
    return Finding("disk", "ok", f"a sync takes {milliseconds:.1f} ms")


def _files(settings: Settings) -> Iterator[Finding]:
    """A service cannot write files that another account has made, such as root's in a shell."""
    file = connection.file_of(settings.database_url)
    if file is None:
        return
    parts = [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm", "-lock")]
    for path in (part for part in parts if part.exists()):
        found = path.stat()
        if not found.st_mode & stat.S_IWUSR or not os.access(path, os.R_OK | os.W_OK):
            yield Finding("files", "fail", f"{path.name} can't be written; give it to the service's user, mode 600")
        elif found.st_uid != file.parent.stat().st_uid and found.st_uid != os.geteuid():
            yield Finding("files", "fail", f"{path.name} belongs to another user; chown it to the service's")
    if settings.app_env == "production" and file.exists() and file.stat().st_mode & 0o007:
        yield Finding("files", "warn", f"every user of the machine can read {file.name}; chmod 600")


def _database(settings: Settings, schemas: Mapping[str, Path]) -> Iterator[Finding]:
    file = connection.file_of(settings.database_url)
    if file is not None and not file.exists():
        yield Finding("database", "ok", "not there yet: the first start makes it")
        return
    try:
        answer = asyncio.run(_ask(settings.database_url, schemas))
    except SettingsError as error:
        yield Finding("database", "fail", f"{error}; mend what it says, or restore a backup")
    except Problem as problem:
        yield Finding("database", "fail", f"{problem.detail}; the reason is in the log, on stderr")
    else:
        yield Finding("database", "ok", f"answers within {answer.milliseconds:.1f} ms{answer.version}")
        yield _clock(answer.now / 1000 - time.time(), (answer.applied_at - answer.now) / 1000)


class DatabaseAnswer(NamedTuple):
    """The database's clock, the newest time that is stored in it, and PostgreSQL's version."""

    milliseconds: float
    now: int
    applied_at: int
    version: str


async def _ask(url: str, schemas: Mapping[str, Path]) -> DatabaseAnswer:
    database = await connection.connect(url, schemas)
    try:
        started = time.perf_counter()
        now, applied_at = await database.write(_times)
        milliseconds = (time.perf_counter() - started) * 1000
        version = "" if database.dialect == "sqlite" else await database.read(_server_version)
        return DatabaseAnswer(milliseconds, now, applied_at, version)
    finally:
        await database.close()


def _times(tx: Transaction) -> tuple[int, int]:
    row = tx.one("SELECT max(applied_at) FROM migration")
    return tx.now, int(row[0]) if row else 0


def _server_version(tx: Transaction) -> str:
    row = tx.one("SELECT current_setting('server_version')")
    return f", PostgreSQL {row[0]}" if row else ""


def _clock(ahead_seconds: float, behind_seconds: float) -> Finding:
    if behind_seconds > MAX_CLOCK_SECONDS:
        return Finding("clock", "fail", f"{behind_seconds:.0f} s behind what the database has seen; set it right")
    if abs(ahead_seconds) > MAX_CLOCK_SECONDS:
        return Finding("clock", "fail", f"{ahead_seconds:+.0f} s from the database's to this host's; run NTP on both")
    if not is_synchronised():
        return Finding("clock", "warn", "not synchronised; run an NTP client on the host")
    return Finding("clock", "ok", "right, as far as can be seen")
