"""`python -m token_svc` serves; `python -m token_svc users …` is for the operator."""

import argparse
import asyncio
import sys

from shared import exposition, logs, server
from shared.database import Transaction, connection
from shared.settings import SettingsError
from token_svc import accounts, api, events, metrics, sessions
from token_svc.accounts import Account
from token_svc.main import SCHEMA, start_server
from token_svc.settings import Settings

OPERATOR = "operator"  # where an event came from that no request made
KINDS = {"disable": "disabled", "enable": "enabled", "grant": "granted"}


def change(tx: Transaction, account_id: str, action: str, scopes: list[str]) -> None:
    """What is taken away is gone at once, from the sessions that there are too."""
    if action == "grant":
        accounts.set_scopes(tx, account_id, sorted(set(scopes)))
    else:
        accounts.set_disabled(tx, account_id, is_disabled=action == "disable")
    if action == "disable":
        sessions.end_others(tx, account_id)
    events.record(tx, account_id, KINDS[action], OPERATOR)


async def administer(options: argparse.Namespace) -> bool:
    """Whether the user was found, and changed."""
    settings = server.settings_or_fail(Settings)
    logs.configure(settings.log_level, settings.log_format)
    try:
        database = await connection.connect(settings.database_url, {"token": SCHEMA})
    except SettingsError as error:
        server.fail(str(error))

    def unit(tx: Transaction) -> Account | None:
        account = accounts.by_username(tx, options.username)
        if account is not None:
            accounts.lock(tx, account.id)
            change(tx, account.id, options.action, getattr(options, "scopes", []))
        return account

    account = await database.write(unit)
    if account is not None:
        events.announce(KINDS[options.action], account.id, OPERATOR)
    await database.close()
    return account is not None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m token_svc", description="Users, tokens and each user's own data.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve HTTP (the default)")
    for one in (parser, serve):
        one.add_argument("--host", help="the address to listen on (HOST)")
        one.add_argument("--port", type=int, help="the port to listen on (PORT)")
    actions = commands.add_parser("users", help="change a user").add_subparsers(dest="action", required=True)
    for action, meaning in (("disable", "end all sessions, let nobody in"), ("enable", "the other way round")):
        actions.add_parser(action, help=meaning).add_argument("username")
    granting = actions.add_parser("grant", help="set the scopes that a user may have")
    granting.add_argument("username")
    granting.add_argument("scopes", nargs="+", choices=sorted(accounts.SCOPES))
    commands.add_parser("metrics", help="print what the database knows, for a collector of text files")
    commands.add_parser("openapi", help="print the OpenAPI document")
    options = parser.parse_args()
    if options.command == "openapi":
        print(api.document())
    elif options.command == "metrics":
        asyncio.run(exposition.show(server.settings_or_fail(Settings), {"token": SCHEMA}, metrics.families))
    elif options.command != "users":
        start_server(options.host, options.port)
    elif not asyncio.run(administer(options)):
        sys.exit(f"there is no user {options.username}")


if __name__ == "__main__":
    main()
