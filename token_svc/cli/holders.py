"""The operator's commands that users and machine clients have in common. What they take away ends at once, for open
sessions too."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared import departures
from shared.cli.terminal import Failure, confirm, table
from shared.database import Database, Transaction
from shared.strict_json import encode
from token_svc import accounts, attempts, events, names, scopes, sessions
from token_svc.accounts import AccountRow
from token_svc.events import OPERATOR
from token_svc.models.accounts import stored_json
from token_svc.settings import Settings

BY_ID = "id:"  # no name has a colon
EVENTS_HEAD = ("AT", "EVENT", "ADDRESS")
SHOWN_EVENTS = 20

Change = Callable[[Transaction, AccountRow], None]


@dataclass(frozen=True)
class Holders:
    """Users, or machine clients: `noun` is what one of them is called, `head` and `row` make a list of them."""

    noun: str
    is_client: bool
    by_name: Callable[[Transaction, str], AccountRow | None]
    head: Sequence[str]
    row: Callable[[AccountRow], Sequence[object]]

    def need(self, tx: Transaction, name: str) -> AccountRow:
        """By `id:` and an id, as the audit trail has them, or by name. Raises Failure."""
        is_id = name.startswith(BY_ID)
        account = accounts.by_id(tx, name.removeprefix(BY_ID)) if is_id else self.by_name(tx, name)
        if account is None or bool(account.is_client) != self.is_client:
            raise Failure(f"there is no {self.noun} {name}")
        return account

    async def list_newest(self, database: Database, settings: Settings, options: argparse.Namespace) -> None:
        found = await database.query(lambda tx: accounts.list_newest(tx, options.limit, is_client=self.is_client))
        if options.json:
            print(encode({"items": [stored_json(one) for one in found]}))
        else:
            print(table(self.head, [self.row(one) for one in found]))

    async def disable(self, database: Database, settings: Settings, options: argparse.Namespace) -> None:
        def change(tx: Transaction, account: AccountRow) -> None:
            accounts.set_disabled(tx, account.id, is_disabled=True)
            sessions.end_others(tx, account.id)

        await self.apply(database, options, "disabled", change)

    async def enable(self, database: Database, settings: Settings, options: argparse.Namespace) -> None:
        def change(tx: Transaction, account: AccountRow) -> None:
            accounts.set_disabled(tx, account.id, is_disabled=False)

        await self.apply(database, options, "enabled", change)

    async def grant(self, database: Database, settings: Settings, options: argparse.Namespace) -> None:
        """Sets the scopes that are granted from now on."""
        try:
            wanted = scopes.parse(" ".join(sorted(options.scopes))).split()
        except ValueError as error:
            raise Failure(f"SCOPE: {error}") from None
        await self.apply(database, options, "granted", lambda tx, one: accounts.set_scopes(tx, one.id, wanted))

    async def delete(self, database: Database, settings: Settings, options: argparse.Namespace) -> None:
        """Deletes all that belongs to the account, its events included: only the log still has them."""
        found = await database.read(lambda tx: self.need(tx, options.name))
        if not options.yes:
            confirm(f"{found.username}, and all data of that {self.noun}, will be deleted for good.")

        def change(tx: Transaction, account: AccountRow) -> None:
            accounts.delete(tx, account.id)
            if not account.is_client:
                attempts.forget(tx, names.fold(account.username))

        account = await self._changed(database, BY_ID + found.id, "deleted", change)
        await departures.sweep_all(database, accounts.SERVICE, accounts.forget)
        print_changed(account, options)

    async def apply(self, database: Database, options: argparse.Namespace, kind: str, change: Change) -> None:
        """Makes a change, with its place in the audit trail."""
        print_changed(await self._changed(database, options.name, kind, change), options)

    async def _changed(self, database: Database, name: str, kind: str, change: Change) -> AccountRow:
        """The account after the change, or before it when it was deleted."""

        def unit(tx: Transaction) -> AccountRow:
            found = self.need(tx, name)
            accounts.lock(tx, found.id)
            account = accounts.by_id(tx, found.id)
            if account is None:
                raise Failure("it has just been deleted")
            change(tx, account)
            changed = accounts.by_id(tx, account.id)
            if changed:  # a deleted account has no events any more, only lines in the log
                events.record(tx, account.id, kind, OPERATOR)
            return changed or account

        account = await database.write(unit)
        events.announce(kind, account.id, OPERATOR)
        return account


def print_changed(account: AccountRow, options: argparse.Namespace) -> None:
    """Prints JSON where it is asked for; for people the audit line is enough."""
    if options.json:
        print(encode(stored_json(account)))


def latest(trail: Sequence[dict[str, Any]]) -> str:
    """The end of an audit trail, for people."""
    return table(EVENTS_HEAD, [(event["at"], event["event"], event["address"]) for event in trail[-SHOWN_EVENTS:]])
