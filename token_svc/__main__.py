"""`python -m token_svc` serves; its other commands are for the operator."""

import argparse
import os
import sys
from pathlib import Path

from shared import VERSION, logs
from shared.cli import commands
from shared.cli.commands import CommonCommands, add_json, add_serve, positive, text
from shared.http import server
from token_svc import metrics, scopes
from token_svc.cli import checks, clients, keys, transfer, users
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
    listing = actions.add_parser("list", help="the newest users")
    listing.add_argument("--limit", type=positive, default=50)
    listing.set_defaults(run=SERVICE.over_database(users.list_users))
    show = actions.add_parser("show", help="all there is to a user but their data")
    show.set_defaults(run=SERVICE.over_database(users.show_user))
    take = actions.add_parser("import", help="make users of another system, with their password hashes")
    take.set_defaults(run=SERVICE.over_database(transfer.import_users, may_create=True))
    take.add_argument("file", metavar="FILE", help="JSON, one user a line; - for stdin")
    export = actions.add_parser("export", help="print all users with their password hashes, one a line")
    export.set_defaults(run=SERVICE.over_database(transfer.export_users))
    create = actions.add_parser("create", help="make a user; the password is asked for, or read from stdin")
    create.set_defaults(run=SERVICE.over_database(users.create_user, may_create=True, stream=sys.stdout))
    for action, verb, meaning in (
        ("disable", users.disable_user, "end all sessions, refuse logins"),
        ("enable", users.enable_user, "the other way round"),
        ("grant", users.grant_scope, "set the scopes that a user may have"),
        ("set-password", users.set_password, "end all sessions; the password is asked for, or read from stdin"),
        ("end-sessions", users.end_sessions, "log out everywhere"),
        ("delete", users.delete_user, "delete a user with all their data"),
    ):
        actions.add_parser(action, help=meaning).set_defaults(
            run=SERVICE.over_database(verb, stream=sys.stdout)  # the audit line
        )
    for one in actions.choices.values():
        if one not in (listing, take, export):
            one.add_argument("username", metavar="USER", type=text, help="a username, or id:ID")
    create.add_argument("email", metavar="EMAIL", type=text)
    actions.choices["grant"].add_argument("scopes", metavar="SCOPE", nargs="+", type=scope, help=KNOWN)
    actions.choices["delete"].add_argument("--yes", action="store_true", help="ask nothing")
    add_json(*actions.choices.values())


def _add_clients(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the newest clients")
    listing.add_argument("--limit", type=positive, default=50)
    listing.set_defaults(run=SERVICE.over_database(clients.list_clients))
    show = actions.add_parser("show", help="all there is to a client but its data and its secrets")
    show.set_defaults(run=SERVICE.over_database(clients.show_client))
    create = actions.add_parser("create", help="make a client; its secret is printed this once")
    create.set_defaults(run=SERVICE.over_database(clients.create_client, may_create=True))
    create.add_argument("--scope", metavar="SCOPE", type=scope, default="", help=f'such as "tasks work"; {KNOWN}')
    for action, verb, meaning in (
        ("rotate", clients.rotate_client, "make another secret, beside which the one before works on"),
        ("grant", clients.grant_scope, "set the scopes that a client may have"),
        ("disable", clients.disable_client, "end all its tokens, give it no other"),
        ("enable", clients.enable_client, "the other way round"),
        ("delete", clients.delete_client, "delete a client with all its data"),
    ):
        actions.add_parser(action, help=meaning).set_defaults(run=SERVICE.over_database(verb))
    for one in actions.choices.values():
        if one is not listing:
            one.add_argument("name", metavar="NAME", type=text, help="its name, or id:ID")
    actions.choices["rotate"].add_argument("--finish", action="store_true", help="make none, end the one before")
    actions.choices["grant"].add_argument("scopes", metavar="SCOPE", nargs="+", type=scope, help=KNOWN)
    actions.choices["delete"].add_argument("--yes", action="store_true", help="ask nothing")
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
