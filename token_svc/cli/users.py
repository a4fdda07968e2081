"""The operator's commands over users."""

import argparse
from functools import partial
from typing import Any

from shared import times
from shared.cli.terminal import Failure, fields, read_password
from shared.database import Database, Transaction
from shared.strict_json import encode
from token_svc import accounts, emails, events, items, names, sessions
from token_svc.accounts import AccountRow
from token_svc.cli.holders import Holders, latest, print_changed
from token_svc.events import OPERATOR
from token_svc.grants import replace_password
from token_svc.mail import outbox
from token_svc.models.accounts import stored_json
from token_svc.passwords import Passwords
from token_svc.settings import Settings

HEAD = ("USER", "ID", "EMAIL", "SCOPE", "DISABLED", "CREATED")


def _row(one: AccountRow) -> tuple[object, ...]:
    is_disabled = "yes" if one.is_disabled else "no"
    return one.username, one.id, one.email, one.scope, is_disabled, times.to_text(one.created_at)


USERS = Holders("user", False, accounts.by_username, HEAD, _row)


async def show_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def unit(tx: Transaction) -> tuple[AccountRow, dict[str, Any]]:
        account = USERS.need(tx, options.name)
        return account, {
            "items": items.count(tx, account.id),
            "sessions": sessions.of(tx, account.id),
            "events": events.of(tx, account.id),
        }

    account, more = await database.query(unit)
    if options.json:
        print(encode({"user": stored_json(account), **more}))
        return
    print(fields(stored_json(account) | {"items": more["items"], "sessions": len(more["sessions"])}))
    print("\n" + latest(more["events"]))


async def create_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    faults = {"USERNAME": names.username_fault(options.name), "EMAIL": emails.fault(options.email)}
    for name, fault in faults.items():
        if fault:
            raise Failure(f"{name}: {fault}")
    password_hash = await _new_hash(settings, options.name, options.email)

    def unit(tx: Transaction) -> AccountRow:
        if taken := accounts.taken(tx, options.name, options.email):
            raise Failure(f"the {taken} is taken")
        account = accounts.create(tx, options.name, options.email, password_hash, settings.default_scope)
        events.record(tx, account.id, "registered", OPERATOR)
        if settings.mail_url:
            outbox.put(tx, outbox.VERIFY, account, account.email, "")
        return account

    account = await database.write(unit)
    events.announce("registered", account.id, OPERATOR)
    print_changed(account, options)


async def _new_hash(settings: Settings, *names: str) -> str:
    """The hash of a password that is typed, or read from stdin. Raises Failure when it is refused."""
    password = read_password("new password")
    if "\0" in password:
        raise Failure("the password must not have a NUL character")  # no client could send it
    passwords = Passwords(settings.password_min_length, threads=1)
    try:
        if fault := passwords.fault(password, *names):
            raise Failure(f"the password {fault}")
        return await passwords.hash(password)
    finally:
        passwords.close()


async def set_password(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Ends every session."""
    account = await database.read(lambda tx: USERS.need(tx, options.name))
    password_hash = await _new_hash(settings, account.username, account.email)

    change = partial(replace_password, password_hash=password_hash)
    await USERS.apply(database, options, "password_changed", change)


async def end_sessions(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    await USERS.apply(database, options, "session_ended", lambda tx, one: sessions.end_others(tx, one.id))
