"""A change that the operator makes to a user or a client, with its place in the audit trail."""

from collections.abc import Callable

from shared.cli.terminal import Failure
from shared.database import Database, Transaction
from token_svc import accounts, events
from token_svc.accounts import AccountRow
from token_svc.events import OPERATOR

Find = Callable[[Transaction], AccountRow]
Change = Callable[[Transaction, AccountRow], None]


async def make(database: Database, find: Find, kind: str, change: Change) -> AccountRow:
    """Makes the change. The account after it, or before it when it was deleted."""

    def unit(tx: Transaction) -> AccountRow:
        found = find(tx)
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
