"""The operator's commands over users. What they take away ends at once, for open sessions too."""

import argparse
from collections.abc import Sequence
from typing import Any

from shared import departures, times
from shared.cli.terminal import Failure, confirm, fields, read_password, table
from shared.database import Database, Transaction
from shared.strict_json import encode
from token_svc import accounts, attempts, emails, events, items, names, scopes, sessions
from token_svc.accounts import AccountRow
from token_svc.cli import changes
from token_svc.cli.changes import Change
from token_svc.events import OPERATOR
from token_svc.mail import outbox
from token_svc.models.accounts import holder_json
from token_svc.models.exports import session_json
from token_svc.passwords import Passwords
from token_svc.settings import Settings

HEAD = ("USER", "ID", "EMAIL", "SCOPE", "DISABLED", "CREATED")
EVENTS_HEAD = ("AT", "EVENT", "ADDRESS")
BY_ID = "id:"  # no username has a colon
SHOWN_EVENTS = 20


async def list_users(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    found = await database.query(lambda tx: accounts.list_newest(tx, options.limit, is_client=False))
    if options.json:
        print(encode({"items": [_described(one) for one in found]}))
    else:
        print(table(HEAD, [_row(one) for one in found]))


def _described(account: AccountRow) -> dict[str, Any]:
    return holder_json(account) | {"scope": account.scope, "is_disabled": bool(account.is_disabled)}


def _row(one: AccountRow) -> tuple[object, ...]:
    is_disabled = "yes" if one.is_disabled else "no"
    return one.username, one.id, one.email, one.scope, is_disabled, times.to_text(one.created_at)


async def show_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def unit(tx: Transaction) -> tuple[AccountRow, dict[str, Any]]:
        account = _need(tx, options.username)
        found = sessions.of(tx, account.id)
        return account, {
            "items": items.count(tx, account.id),
            "sessions": [session_json(session) for session in found],
            "events": events.of(tx, account.id),
        }

    account, more = await database.query(unit)
    if options.json:
        print(encode({"user": _described(account), **more}))
        return
    print(fields({**_described(account), "items": more["items"], "sessions": len(more["sessions"])}))
    latest = more["events"][-SHOWN_EVENTS:]
    print("\n" + table(EVENTS_HEAD, [(event["at"], event["event"], event["address"]) for event in latest]))


def _need(tx: Transaction, name: str) -> AccountRow:
    account = by_id_or_name(tx, name)
    if account is None:
        raise Failure(f"there is no user {name}")
    return account


def by_id_or_name(tx: Transaction, name: str) -> AccountRow | None:
    """`id:` and an id, as the audit trail has them, or a username."""
    if name.startswith(BY_ID):
        account = accounts.by_id(tx, name.removeprefix(BY_ID))
        return None if account is None or account.is_client else account
    return accounts.by_username(tx, name)


async def create_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    faults = (names.username_fault(options.username), emails.fault(options.email))
    for name, fault in zip(("USERNAME", "EMAIL"), faults, strict=True):
        if fault:
            raise Failure(f"{name}: {fault}")
    password_hash = await _new_hash(settings, options.username, options.email)

    def unit(tx: Transaction) -> AccountRow:
        if taken := accounts.taken(tx, options.username, options.email):
            raise Failure(f"the {taken} is taken")
        account = accounts.create(tx, options.username, options.email, password_hash, settings.default_scope)
        events.record(tx, account.id, "registered", OPERATOR)
        if settings.mail_url:
            outbox.put(tx, outbox.VERIFY, account, account.email, "")
        return account

    account = await database.write(unit)
    events.announce("registered", account.id, OPERATOR)
    _print(account, options)


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


def _print(account: AccountRow, options: argparse.Namespace) -> None:
    """Prints JSON where it is asked for; for people the audit line is enough."""
    if options.json:
        print(encode(_described(account)))


async def _change(database: Database, options: argparse.Namespace, kind: str, change: Change) -> None:
    _print(await changes.make(database, lambda tx: _need(tx, options.username), kind, change), options)


async def disable_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def change(tx: Transaction, account: AccountRow) -> None:
        accounts.set_disabled(tx, account.id, is_disabled=True)
        sessions.end_others(tx, account.id)

    await _change(database, options, "disabled", change)


async def enable_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def change(tx: Transaction, account: AccountRow) -> None:
        accounts.set_disabled(tx, account.id, is_disabled=False)

    await _change(database, options, "enabled", change)


async def grant_scope(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    wanted = granted(options.scopes)
    await _change(database, options, "granted", lambda tx, account: accounts.set_scopes(tx, account.id, wanted))


def granted(names: Sequence[str]) -> list[str]:
    """The scopes that are granted from now on. Raises Failure."""
    try:
        return scopes.parse(" ".join(sorted(names))).split()
    except ValueError as error:
        raise Failure(f"SCOPE: {error}") from None


async def set_password(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Ends every session."""
    account = await database.read(lambda tx: _need(tx, options.username))
    password_hash = await _new_hash(settings, account.username, account.email)

    def change(tx: Transaction, account: AccountRow) -> None:
        accounts.set_password(tx, account.id, password_hash)
        sessions.end_others(tx, account.id)
        attempts.forget(tx, names.fold(account.username))  # addresses known by the old password are strangers again

    await _change(database, options, "password_changed", change)


async def end_sessions(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    await _change(database, options, "session_ended", lambda tx, account: sessions.end_others(tx, account.id))


async def delete_user(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Deletes all that belongs to the user, its events included: only the log still has them."""
    found = await database.read(lambda tx: _need(tx, options.username))
    if not options.yes:
        confirm(f"{found.username}, and all data of that user, will be deleted for good.")

    def change(tx: Transaction, account: AccountRow) -> None:
        accounts.delete(tx, account.id)
        attempts.forget(tx, names.fold(account.username))

    account = await changes.make(database, lambda tx: _need(tx, BY_ID + found.id), "deleted", change)
    await departures.sweep_all(database, accounts.SERVICE, accounts.forget)
    _print(account, options)
