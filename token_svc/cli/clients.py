"""The operator's commands over machine clients."""

import argparse
from typing import Any

from shared import times
from shared.cli.terminal import Failure, fields, table
from shared.database import Database, Transaction
from shared.strict_json import encode
from token_svc import accounts, clients, events, items, names
from token_svc.accounts import AccountRow
from token_svc.cli.holders import Holders, latest
from token_svc.events import OPERATOR
from token_svc.models.accounts import stored_json
from token_svc.settings import Settings

HEAD = ("NAME", "ID", "SCOPE", "DISABLED", "CREATED")
SECRETS_HEAD = ("SECRET MADE", "LAST USED")


def _row(one: AccountRow) -> tuple[object, ...]:
    return one.username, one.id, one.scope, "yes" if one.is_disabled else "no", times.to_text(one.created_at)


CLIENTS = Holders("client", True, clients.by_name, HEAD, _row)


async def show_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    def unit(tx: Transaction) -> tuple[AccountRow, dict[str, Any]]:
        client = CLIENTS.need(tx, options.name)
        found = clients.secrets_of(tx, client.id)
        return client, {
            "items": items.count(tx, client.id),
            "secrets": [{"created_at": _time(one.created_at), "used_at": _time(one.used_at)} for one in found],
            "events": events.of(tx, client.id),
        }

    client, more = await database.query(unit)
    if options.json:
        print(encode(stored_json(client) | more))
        return
    print(fields(stored_json(client) | {"items": more["items"]}))
    print("\n" + table(SECRETS_HEAD, [tuple(one.values()) for one in more["secrets"]]))
    print("\n" + latest(more["events"]))


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else times.to_text(milliseconds)


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
    told: dict[str, object] = {"client_id": client.id, "client_secret": secret}
    print(encode(told | stored_json(client)) if options.json else fields(told | {"scope": client.scope}))


def _end_old_secret(tx: Transaction, client: AccountRow) -> None:
    if len(clients.secrets_of(tx, client.id)) < 2:
        raise Failure(f"{client.username} has no second secret: rotate without --finish makes one")
    clients.keep_secrets(tx, client.id, 1)


async def rotate_client(database: Database, settings: Settings, options: argparse.Namespace) -> None:
    """Makes a second secret; the first works until --finish ends it."""
    if options.finish:
        kind = "client_secret_ended"
        await CLIENTS.apply(database, options, kind, _end_old_secret)
        return

    def unit(tx: Transaction) -> tuple[AccountRow, str]:
        client = CLIENTS.need(tx, options.name)
        accounts.lock(tx, client.id)
        events.record(tx, client.id, "client_secret_made", OPERATOR)
        return client, clients.add_secret(tx, client.id)

    client, secret = await database.write(unit)
    _print_secret(client, secret, options)
    events.announce("client_secret_made", client.id, OPERATOR)
