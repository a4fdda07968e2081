"""`python -m token_svc` serves; its other commands are for the operator."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from shared import VERSION, logs
from shared.cli import commands
from shared.cli.commands import CommonCommands, add_json, add_serve, positive, text
from shared.http import server
from token_svc import metrics, scopes
from token_svc.cli import checks, clients, keys, transfer, users
from token_svc.cli.clients import CLIENTS
from token_svc.cli.users import USERS
from token_svc.document import document as written_document
from token_svc.main import SCHEMA, start_server
from token_svc.settings import Settings

SERVICE = CommonCommands(Settings, {"token": SCHEMA}, checks.ALL, metrics.families, health_method="GET")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=commands.program("token_svc"), description="Users, tokens and each user's own data."
    )
    parser.add_argument("--version", action="version", version=VERSION)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    add_serve(parser, subparsers, start_server, "serve HTTP")
    _add_users(subparsers.add_parser("users", help="list, show, make and change users"))
    _add_clients(subparsers.add_parser("clients", help="list, show, make and change machine clients"))
    _add_keys(subparsers.add_parser("keys", help="make and rotate the keys that tokens are signed with"))
    document = subparsers.add_parser("openapi", help="print the OpenAPI document")
    document.set_defaults(run=lambda options: print(written_document()))
    SERVICE.add(subparsers)
    return parser


def _add_users(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = partial(SERVICE.add_verb, actions)
    change = partial(add, stream=sys.stdout)  # the audit line
    listing = add("list", USERS.list_newest, "the newest users")
    listing.add_argument("--limit", type=positive, default=50)
    add("show", users.show_user, "all there is to a user but their data")
    take = add(
        "import", transfer.import_users, "make users of another system, with their password hashes", may_create=True
    )
    take.add_argument("file", metavar="FILE", help="JSON, one user a line; - for stdin")
    export = add("export", transfer.export_users, "print all users with their password hashes, one a line")
    create = change(
        "create", users.create_user, "make a user; the password is asked for, or read from stdin", may_create=True
    )
    change("disable", USERS.disable, "end all sessions, refuse logins")
    change("enable", USERS.enable, "let a disabled user log in again")
    grant = change("grant", USERS.grant, "set the scopes that a user may have")
    change("set-password", users.set_password, "end all sessions; the password is asked for, or read from stdin")
    change("end-sessions", users.end_sessions, "log out everywhere")
    delete = change("delete", USERS.delete, "delete a user with all their data")
    for one in actions.choices.values():
        if one not in (listing, take, export):
            one.add_argument("name", metavar="USER", type=text, help="a username, or id:ID")
    create.add_argument("email", metavar="EMAIL", type=text)
    grant.add_argument("scopes", metavar="SCOPE", nargs="+", type=scope, help=KNOWN)
    delete.add_argument("--yes", action="store_true", help="ask nothing")
    add_json(*actions.choices.values())


def _add_clients(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = partial(SERVICE.add_verb, actions)
    listing = add("list", CLIENTS.list_newest, "the newest clients")
    listing.add_argument("--limit", type=positive, default=50)
    add("show", clients.show_client, "all there is to a client but its data and its secrets")
    create = add("create", clients.create_client, "make a client; its secret is printed this once", may_create=True)
    create.add_argument("--scope", metavar="SCOPE", type=scope, default="", help=f'such as "tasks work"; {KNOWN}')
    rotate = add("rotate", clients.rotate_client, "make another secret, beside which the one before works on")
    grant = add("grant", CLIENTS.grant, "set the scopes that a client may have")
    add("disable", CLIENTS.disable, "end all its tokens, give it no other")
    add("enable", CLIENTS.enable, "give a disabled client tokens again")
    delete = add("delete", CLIENTS.delete, "delete a client with all its data")
    for one in actions.choices.values():
        if one is not listing:
            one.add_argument("name", metavar="NAME", type=text, help="its name, or id:ID")
    rotate.add_argument("--finish", action="store_true", help="make none, end the one before")
    grant.add_argument("scopes", metavar="SCOPE", nargs="+", type=scope, help=KNOWN)
    delete.add_argument("--yes", action="store_true", help="ask nothing")
    add_json(*actions.choices.values())


KNOWN = f"any name; {', '.join(scopes.KNOWN)} are this software's own"


def scope(argument: str) -> str:
    try:
        return scopes.parse(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("new", help="write a private key into a file that is not there yet")
    new.add_argument("file", metavar="FILE", type=Path, nargs="?", default=keys.DEFAULT_FILE)
    new.add_argument("--algorithm", choices=keys.ALGORITHMS, default="ES256")
    new.set_defaults(run=_new_key)
    public = actions.add_parser("public", help="print the public keys, for the JWKS_FILE of those who verify")
    public.set_defaults(run=lambda options: keys.public(server.settings_or_fail(Settings, makes_files=False)))
    rotate = actions.add_parser("rotate", help="sign with a new key; tokens signed with the old one go on working")
    rotate.add_argument("--algorithm", choices=keys.ALGORITHMS, help="in place of the old key's")
    rotate.add_argument("--jwks", metavar="FILE", type=Path, help="where the public keys are kept (JWKS_FILE)")
    rotate.add_argument("--announce", action="store_true", help="publish the next key first, sign with it later")
    rotate.set_defaults(run=_rotate_keys)


def _new_key(options: argparse.Namespace) -> None:
    logs.configure("info", "logfmt", sys.stderr)
    keys.new(options)


def _rotate_keys(options: argparse.Namespace) -> None:
    settings = server.settings_or_fail(Settings, makes_files=False)
    logs.configure(settings.log_level, settings.log_format, sys.stderr)
    keys.rotate(settings, os.environ, options)


def main() -> None:
    options = parser().parse_args()
    commands.run(options.run, options)


if __name__ == "__main__":
    main()
