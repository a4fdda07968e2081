"""Import and export of users: JSON, one user a line."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, Any

from shared.bodies import Shape, parse_object, text_faults
from shared.cli.terminal import Failure, failing
from shared.database import Database, Transaction
from shared.errors import BadRequest, Invalid, sentence
from shared.schemas import Fault
from shared.strict_json import encode
from token_svc import accounts, emails, events, foreign_hashes, names, passwords, scopes
from token_svc.accounts import AccountRow
from token_svc.events import OPERATOR
from token_svc.models.accounts import stored_json
from token_svc.settings import Settings

MAX_LINE = 64 * 1024
AT_ONCE = 200  # users of one transaction


@dataclass(frozen=True)
class ImportedUser:
    """A line. `id` and `created_at`, which an export has, are ignored."""

    username: str
    email: str
    password_hash: str
    scope: str | None = None
    email_verified: bool = False
    is_disabled: bool = False
    id: Any = None
    created_at: Any = None


LINE = Shape(ImportedUser)


async def import_users(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Faulty lines are reported on stderr and skipped; users that exist already are not changed."""
    counts = {"imported": 0, "there already": 0, "faulty": 0}
    with _opened(options.file) as file:
        lines = enumerate(_lines(file), 1)
        while some := list(islice(lines, AT_ONCE)):
            results = await database.write(partial(_take_all, lines=some, settings=settings), is_long=True)
            for number, result in results:
                counts[result if result in counts else "faulty"] += 1
                if result not in counts:
                    print(f"line {number}: {result}", file=sys.stderr)
    print(encode(counts) if options.json else ", ".join(f"{count} {what}" for what, count in counts.items()))
    if counts["faulty"]:
        raise Failure(f"{counts['faulty']} lines were skipped")


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with failing(f"{path} can't be read", OSError), open(path, "rb") as file:
        yield file


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Each up to MAX_LINE bytes, and one more where it is longer."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def _take_all(tx: Transaction, lines: list[tuple[int, bytes]], settings: Settings) -> list[tuple[int, str]]:
    return [(number, _take(tx, line, settings)) for number, line in lines if line.strip()]


def _take(tx: Transaction, line: bytes, settings: Settings) -> str:
    """What became of a line: 'imported', 'there already', or what is wrong with it."""
    try:
        user = _parsed(line)
        scope = scopes.parse(user.scope) if user.scope is not None else settings.default_scope
    except ValueError as error:
        return str(error)
    found = accounts.by_username(tx, user.username)
    if found and (emails.key(found.email) == emails.key(user.email) or _has_moved(tx, found)):
        return "there already"
    if taken := accounts.taken(tx, user.username, user.email):
        return f"the {taken} is taken"
    _create(tx, user, scope)
    return "imported"


def _has_moved(tx: Transaction, account: AccountRow) -> bool:
    """Whether the account was imported and has changed its email since: its line has the old one."""
    return {"imported", "email_changed"} <= events.kinds(tx, account.id)


def _parsed(line: bytes) -> ImportedUser:
    """Raises ValueError with what is wrong."""
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} bytes")
    try:
        return LINE.parse(parse_object(line), _faults)
    except BadRequest as problem:
        raise ValueError(f"not JSON ({problem.detail})") from None
    except Invalid as problem:
        raise ValueError("; ".join(map(sentence, problem.errors))) from None


def _faults(sent: Mapping[str, Any]) -> list[Fault]:
    checks = {"username": names.username_fault, "email": emails.fault, "password_hash": passwords.hash_fault}
    return text_faults(sent, checks)


def _create(tx: Transaction, user: ImportedUser, scope: str) -> None:
    account = accounts.create(tx, user.username, user.email, foreign_hashes.own_form(user.password_hash), scope)
    if user.email_verified:
        accounts.set_email_verified(tx, account.id)
    if user.is_disabled:
        accounts.set_disabled(tx, account.id, is_disabled=True)
    events.record(tx, account.id, "imported", OPERATOR)


async def export_users(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Prints all users, oldest first, with their hashes."""
    after = ""
    while some := await database.query(partial(accounts.list_oldest, after=after, limit=AT_ONCE)):
        for account in some:
            print(encode(stored_json(account) | {"password_hash": account.password_hash}))
        after = some[-1].id
