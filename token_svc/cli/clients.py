"""The operator's commands over machine clients."""

import argparse
from typing import Any

from shared import departures, times
from shared.cli.terminal import Failure, confirm, fields, table
from shared.database import Database, Transaction
from shared.strict_json import encode
from token_svc import accounts, clients, events, items, names
from token_svc.accounts import AccountRow
from token_svc.cli import changes
from token_svc.cli.changes import Change
from token_svc.cli.users import BY_ID, EVENTS_HEAD, SHOWN_EVENTS, granted
from token_svc.events import OPERATOR
from token_svc.models.accounts import machine_json
from token_svc.settings import Settings

HEAD = ("NAME", "ID", "SCOPE", "DISABLED", "CREATED")
SECRETS_HEAD = ("SECRET MADE", "LAST USED")


async def list_clients(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    found = await database.query(lambda tx: accounts.list_newest(tx, options.limit, is_client=True))
    if options.json:
        print(encode({"items": [_described(one) for one in found]}))
    else:
        print(table(HEAD, [_row(one) for one in found]))


def _described(client: AccountRow) -> dict[str, Any]:
    return machine_json(client) | {"is_disabled": bool(client.is_disabled)}


def _row(one: AccountRow) -> tuple[object, ...]:
    return one.username, one.id, one.scope, "yes" if one.is_disabled else "no", times.to_text(one.created_at)


async def show_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def unit(tx: Transaction) -> tuple[AccountRow, dict[str, Any]]:
        client = _need(tx, options.name)
        found = clients.secrets_of(tx, client.id)
        return client, {
            "items": items.count(tx, client.id),
            "secrets": [{"created_at": _time(one.created_at), "used_at": _time(one.used_at)} for one in found],
            "events": events.of(tx, client.id),
        }

    client, more = await database.query(unit)
    if options.json:
        print(encode(_described(client) | more))
        return
    print(fields({**_described(client), "items": more["items"]}))
    print("\n" + table(SECRETS_HEAD, [tuple(one.values()) for one in more["secrets"]]))
    latest = more["events"][-SHOWN_EVENTS:]
    print("\n" + table(EVENTS_HEAD, [(event["at"], event["event"], event["address"]) for event in latest]))


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else times.to_text(milliseconds)


def _need(tx: Transaction, name: str) -> AccountRow:
    """By `id:` and an id, or by name."""
    client = accounts.by_id(tx, name.removeprefix(BY_ID)) if name.startswith(BY_ID) else clients.by_name(tx, name)
    if client is None or not client.is_client:
        raise Failure(f"there is no client {name}")
    return client


async def create_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    if fault := names.username_fault(options.name):
        raise Failure(f"NAME: {fault}")

    def unit(tx: Transaction) -> tuple[AccountRow, str]:
        if clients.by_name(tx, options.name):
            raise Failure(f"there is a client {options.name} already")
        client, secret = clients.create(tx, options.name, options.scope)
        events.record(tx, client.id, "client_created", OPERATOR)
        return client, secret

    client, secret = await database.write(unit)
    _print_secret(client, secret, options)
    events.announce("client_created", client.id, OPERATOR)


def _print_secret(client: AccountRow, secret: str, options: argparse.Namespace) -> None:
    """Prints the secret, which is shown this once: a digest is stored."""
    if options.json:
        print(encode({"client_id": client.id, "client_secret": secret} | _described(client)))
    else:
        print(fields({"client_id": client.id, "client_secret": secret, "scope": client.scope}))


async def rotate_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Makes a second secret; the first works until --finish ends it."""
    if options.finish:
        await _change(database, options, "client_secret_ended", lambda tx, one: clients.keep_secrets(tx, one.id, 1))
        return

    def unit(tx: Transaction) -> tuple[AccountRow, str]:
        client = _need(tx, options.name)
        accounts.lock(tx, client.id)
        events.record(tx, client.id, "client_secret_made", OPERATOR)
        return client, clients.add_secret(tx, client.id)

    client, secret = await database.write(unit)
    _print_secret(client, secret, options)
    events.announce("client_secret_made", client.id, OPERATOR)


async def _change(database: Database, options: argparse.Namespace, kind: str, change: Change) -> None:
    _print(await changes.make(database, lambda tx: _need(tx, options.name), kind, change), options)


def _print(client: AccountRow, options: argparse.Namespace) -> None:
    """Prints JSON where it is asked for; for people the audit line is enough."""
    if options.json:
        print(encode(_described(client)))


async def grant_scope(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    wanted = granted(options.scopes)
    await _change(database, options, "granted", lambda tx, one: accounts.set_scopes(tx, one.id, wanted))


async def disable_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Its tokens stop working at once."""
    await _change(database, options, "disabled", lambda tx, one: accounts.set_disabled(tx, one.id, is_disabled=True))


async def enable_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    await _change(database, options, "enabled", lambda tx, one: accounts.set_disabled(tx, one.id, is_disabled=False))


async def delete_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Deletes all data of the client too."""
    found = await database.read(lambda tx: _need(tx, options.name))
    if not options.yes:
        confirm(f"{found.username}, and all data of that client, will be deleted for good.")

    def change(tx: Transaction, client: AccountRow) -> None:
        accounts.delete(tx, client.id)

    client = await changes.make(database, lambda tx: _need(tx, BY_ID + found.id), "deleted", change)
    await departures.sweep_all(database, accounts.SERVICE, accounts.forget)
    _print(client, options)
