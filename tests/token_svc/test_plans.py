"""Every statement of the token service finds its rows by an index, however many users there are."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from shared import departures, idempotency
from shared.database import Unit
from shared.idempotency import Answer, IdempotencyKey
from tests.plans import ROWS, STATES, Plans, check, exporting, plans_of
from tests.token_svc.tables import START
from tests.tokens import KEYS, claims_of
from token_svc import accounts, attempts, clients, events, items, sessions
from token_svc.accounts import AccountRow
from token_svc.attempts import LoginLimits
from token_svc.items import ItemRow, Room
from token_svc.mail import outbox, tokens
from token_svc.mail.outbox import RESET, MailRow
from token_svc.main import SCHEMA

FEW = ROWS // 20  # things of one user
END = START + 86_400_000


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def fill(count: int, table: str, *values: str, columns: str = "") -> str:
    """Rows whose values are given in SQL, with their number as `i`."""
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    return f"{numbers} INSERT INTO {table} {columns} SELECT {', '.join(values)} FROM n"


def users(count: int, name: str) -> str:
    texts = (f"{name} || '@example.org'", f"{name} || '@example.org'", "'hash'", "'data tasks'")
    values = (name, name, name, *texts, "1", "0", str(FEW), str(START), str(FEW))
    return fill(count, "account", *values, columns=f"{USER_COLUMNS[:-1]}, change)")


def machines(count: int) -> str:
    name = "'machine-' || i"
    values = (name, name, name, "''", name, "''", "'data'", "1", "0", "0", str(START), "1")
    return fill(count, "account", *values, columns=f"{USER_COLUMNS[:-1]}, is_client)")


def mails(count: int, name: str, due_at: str) -> str:
    values = ("'reset'", name, "'a@example.org'", "1", "''", "0", str(START), due_at)
    return fill(count, "mail", f"{name} || '-mail-' || i", *values)


def mail_tokens(count: int, name: str, expires_at: str) -> str:
    return fill(count, "mail_token", f"{name} || i", "'reset'", name, "'a@example.org'", "1", expires_at)


def keys(count: int, name: str, key: str, expires_at: str) -> str:
    values = (f"'POST /data ' || {name}", key, "'f'", "201", "'{}'", expires_at, name, "0", "NULL")
    return fill(count, "idempotency_key", *values)


USER_COLUMNS = """(id, username, username_key, email, email_key, password_hash, scope, version, is_disabled, item_count,
    created_at)"""


def token(name: str, used_at: str) -> str:
    return f"INSERT INTO refresh_token VALUES ('{digest(name)}', 'ada-1', {END}, {used_at})"


OLD = [
    users(ROWS, "'user-' || i"),
    fill(ROWS, "session", "'session-' || i", "'user-' || i", "'data'", str(START), str(END)),
    fill(ROWS, "refresh_token", "'token-' || i", "'session-' || i", f"{END} + i", "NULL"),
    fill(ROWS, "refresh_token", "'used-' || i", "'session-' || i", f"{END} + i", str(START)),
    fill(ROWS, "deleted_item", "'gone-of-user-' || i", "'user-' || i", "i", f"{START} + i"),
    fill(ROWS, "event", "'event-' || i", "'user-' || i", "'login'", "'192.0.2.1'", f"{START} + i"),
    fill(ROWS, "item", "'item-' || i", "'user-' || i", "'{}'", "1", str(START), str(START), "i"),
    fill(ROWS, "attempt", "'login 192.0.2.1 user-' || i", "1", str(START), f"{END} + i", "'user-' || i"),
    keys(ROWS, "'user-' || i", "'key'", f"{END} + i"),
]
OLD += [
    machines(FEW),
    fill(ROWS, "client_secret", "'secret-' || i", f"'machine-' || (i % {FEW})", str(START), "NULL"),
    fill(ROWS, "revoked_token", "'jti-' || i", f"{END} + i"),
    mails(ROWS, "'user-' || i", f"{END} + i"),
    mail_tokens(ROWS, "'user-' || i", f"{END} + i"),
]
NEW = [
    mails(FEW, "'ada'", f"{START} - i"),
    mail_tokens(FEW, "'ada'", f"{END} + i"),
    mail_tokens(FEW, "'over-'", f"{START} - i"),
    fill(FEW, "revoked_token", "'over-' || i", f"{START} - i"),
    users(1, "'ada'"),
    fill(FEW, "session", "'ada-' || i", "'ada'", "'data'", str(START), str(END)),
    fill(FEW, "refresh_token", "'ada-' || i", "'ada-' || i", f"{END} + i", "NULL"),
    token("fresh", "NULL"),
    token("used", f"{START} - 1000"),
    token(sessions.successors("used", KEYS)[0], "NULL"),
    token("spent", f"{START} - 60000"),
    fill(FEW, "item", "'ada-' || i", "'ada'", "'{}'", "1", str(START), str(START), "i"),
    fill(FEW, "deleted_item", "'gone-' || i", "'ada'", f"{FEW} + i", f"{START} + i"),
    fill(FEW, "attempt", "'login ' || i || ' ada'", "1", str(START), f"{END} + i", "'ada'"),
    keys(FEW, "'ada'", "'key-' || i", f"{END} + i"),
    # What is over.
    fill(FEW, "session", "'over-' || i", "'over'", "'data'", str(START), f"{START} - i"),
    fill(FEW, "refresh_token", "'over-' || i", "'over-' || i", f"{START} - i", "NULL"),
    fill(FEW, "attempt", "'login over-' || i", "1", str(START), f"{START} - i", "''"),
    keys(FEW, "'over'", "'key-' || i", f"{START} - i"),
    fill(FEW, "event", "'guess-' || i", f"'{events.NO_ACCOUNT}'", "'login_failed'", "'192.0.2.1'", f"{START} + i"),
    fill(FEW, "event", "'over-' || i", "'ada'", "'login'", "'192.0.2.1'", f"{START - events.KEPT_MS} - i"),
]


class Plan(NamedTuple):
    act: Unit[Any]
    indexes: set[str]
    walked: int = 0


ADA = AccountRow("ada", "ada", "ada@example.org", "hash", "data tasks", 1, 0, START)
CLAIMS = claims_of("ada", 1, "ada-1")
ITEM = ItemRow("ada-1", "{}", 1, START, START)
MACHINE = replace(claims_of("machine-1", 1, ""), client_id="machine-1")
MAIL = MailRow("ada-mail-1", "reset", "ada", "ada@example.org", 1, "", 0, START)
KEY = IdempotencyKey("POST /data ada", "key-1", "f")
ROOM = Room(10**6, 10**9)
MADE = Answer(201, "{}")
RATE = (10, 60)


def limits(tx: Any) -> LoginLimits:
    return attempts.login_limits(tx, RATE, "ada", "192.0.2.9")


NAMES = {"account_username_key_key", "account_email_key_key"} | {"account_key_2", "account_key_3"}
SESSION = {"session_pkey", "refresh_token_session"}
HOLDER = {"account_pkey", "session_pkey", "session_account"}  # which has the session's id as well
ITEMS = {"item_pkey", "item_list"}  # which has the item's id as well
SECRETS = {"client_secret_pkey", "client_secret_account"}  # which has the digest as well
REFRESH = {"refresh_token_pkey", "session_pkey", "account_pkey"}
COUNTED = {"account_pkey", "kept_answers_pkey"}
PLANS = {
    "by name": Plan(lambda tx: accounts.by_username(tx, "ada"), NAMES),
    "by id": Plan(lambda tx: accounts.by_id(tx, "ada"), {"account_pkey"}),
    "taken": Plan(lambda tx: accounts.taken(tx, "grace", "grace@example.org"), NAMES),
    "create": Plan(lambda tx: accounts.create(tx, "grace", "grace@example.org", "hash"), set()),
    "set password": Plan(lambda tx: accounts.set_password(tx, "ada", "hash"), {"account_pkey"}),
    "delete": Plan(lambda tx: accounts.delete(tx, "ada"), {"account_pkey", "migration_pkey"}, 20),  # migrations
    "forget": Plan(lambda tx: accounts.forget(tx, "ada"), {"item_list", "item_change", "item_pkey"}),
    "sweep": Plan(lambda tx: departures.sweep(tx, "token", accounts.forget), {"departure_service"}),
    "holder": Plan(lambda tx: sessions.holder(tx, CLAIMS), HOLDER),
    "by claims": Plan(lambda tx: sessions.by_claims(tx, CLAIMS), HOLDER),
    "by refresh token": Plan(lambda tx: sessions.by_refresh_token(tx, "fresh"), REFRESH),
    "no refresh token": Plan(lambda tx: sessions.by_refresh_token(tx, "none"), REFRESH),
    # Where ADA has as many as a user may have, the oldest ends.
    "start": Plan(lambda tx: sessions.start(tx, ADA, "data"), {"session_account"} | SESSION, FEW),
    "refresh": Plan(lambda tx: sessions.rotate(tx, "fresh", KEYS), REFRESH),
    "refresh again": Plan(lambda tx: sessions.rotate(tx, "used", KEYS), REFRESH),
    "replay": Plan(lambda tx: sessions.rotate(tx, "spent", KEYS), REFRESH | SESSION),
    "end": Plan(lambda tx: sessions.end(tx, "ada-1"), SESSION),
    "end others": Plan(lambda tx: sessions.end_others(tx, "ada", keep="ada-1"), SESSION | {"session_account"}),
    "sessions": Plan(lambda tx: sessions.of(tx, "ada"), {"session_account", "refresh_token_session"}),
    "prune sessions": Plan(
        sessions.prune,
        {"session_expiry", "refresh_token_expiry", "revoked_token_expiry"}
        | {"session_pkey", "refresh_token_pkey", "revoked_token_pkey"},
    ),
    "client": Plan(lambda tx: clients.find(tx, "machine-1", "secret-1"), {*SECRETS, "account_pkey"}),
    "clients": Plan(lambda tx: accounts.list_newest(tx, 10, is_client=True), {"account_client"}),
    "client by name": Plan(lambda tx: clients.by_name(tx, "none"), NAMES),
    "client's secrets": Plan(lambda tx: clients.secrets_of(tx, "machine-1"), {"client_secret_account"}),
    "machine": Plan(lambda tx: sessions.holder(tx, MACHINE), {"account_pkey", "account_client", "revoked_token_pkey"}),
    "revoke": Plan(
        lambda tx: sessions.revoke_machine_token(tx, MACHINE), {"account_pkey", "account_client", "revoked_token_pkey"}
    ),
    "by email": Plan(lambda tx: accounts.by_email(tx, "ada@example.org"), NAMES),
    "mail": Plan(lambda tx: outbox.put(tx, RESET, ADA, ADA.email, ""), {"attempt_pkey"}),
    "is mail due": Plan(outbox.is_due, {"mail_due"}),
    "claim a mail": Plan(outbox.claim, {"mail_due", "mail_pkey"}),
    "send a mail": Plan(lambda tx: tokens.make(tx, MAIL), {"account_pkey"}),
    "postpone a mail": Plan(lambda tx: outbox.postpone(tx, MAIL), {"mail_pkey"}),
    "drop a mail": Plan(lambda tx: outbox.drop(tx, MAIL), {"mail_pkey"}),
    "use a mail's token": Plan(
        lambda tx: tokens.use(tx, RESET, "none"), {"mail_token_pkey", "account_pkey", "mail_token_account"}
    ),
    "prune mail tokens": Plan(tokens.prune, {"mail_token_expiry", "mail_token_pkey"}),
    "login": Plan(lambda tx: attempts.begin(tx, limits(tx)), {"attempt_pkey"}),
    "failed login": Plan(lambda tx: attempts.fail(tx, limits(tx)), {"attempt_pkey"}),
    "good login": Plan(lambda tx: attempts.forgive(tx, limits(tx)), {"attempt_pkey"}),
    "known address": Plan(lambda tx: attempts.remember(tx, "ada", "192.0.2.9"), {"attempt_pkey"}),
    "registration": Plan(lambda tx: attempts.take_registration(tx, RATE, "192.0.2.9"), {"attempt_pkey"}),
    "forget attempts": Plan(lambda tx: attempts.forget(tx, "ada"), {"attempt_username"}),
    "attempts": Plan(lambda tx: attempts.of(tx, "ada", "ada@example.org"), {"attempt_username", "attempt_pkey"}),
    "prune attempts": Plan(attempts.prune, {"attempt_expiry", "attempt_pkey"}),
    "event": Plan(lambda tx: events.record(tx, "ada", "login", "192.0.2.1"), set()),
    "events": Plan(lambda tx: events.of(tx, "ada"), {"event_account"}),
    "prune events": Plan(events.prune, {"event_account", "event_at", "event_pkey"}),
    "new item": Plan(lambda tx: items.create(tx, "ada", "{}", ROOM), COUNTED),
    "item": Plan(lambda tx: items.find(tx, "ada", "ada-1"), ITEMS),
    "page": Plan(lambda tx: items.page(tx, "ada", "", 200), {"item_list"}),
    "next page": Plan(lambda tx: items.page(tx, "ada", "ada-5", 200), {"item_list"}),
    "empty page": Plan(lambda tx: items.page(tx, "nobody", "", 200), {"item_list"}),
    "changes": Plan(
        lambda tx: items.changes(tx, "ada", 5, FEW, 200), {"item_change", "deleted_item_change", "item_pkey"}
    ),
    "prune deletions": Plan(items.prune, {"deleted_item_at", "deleted_item_pkey", "account_pkey"}),
    "replace item": Plan(
        lambda tx: items.replace(tx, "ada", ITEM, "[]", ROOM), ITEMS | {"account_pkey", "kept_answers_pkey"}
    ),
    "delete item": Plan(lambda tx: items.delete(tx, "ada", ITEM), ITEMS | {"account_pkey"}),
    "first of a key": Plan(
        lambda tx: idempotency.once(tx, KEY._replace(key="new"), lambda: MADE), {"idempotency_key_pkey"}
    ),
    "replay of a key": Plan(lambda tx: idempotency.once(tx, KEY, lambda: MADE), {"idempotency_key_pkey"}),
    "export kept answers": Plan(
        exporting("exported_answer", "body", "ada", "POST /data ada key-1"), {"idempotency_key_owner"}
    ),
    "export deletions": Plan(
        exporting("exported_deletion", "deleted_at", "ada", "gone-1"), {"deleted_item_list", "deleted_item_pkey"}
    ),
    "export mails": Plan(exporting("exported_mail", "email", "ada", "ada-mail-1"), {"mail_account", "mail_pkey"}),
    "export mail tokens": Plan(
        exporting("exported_mail_token", "email", "ada", "ada1"), {"mail_token_account", "mail_token_pkey"}
    ),
    "export secrets": Plan(exporting("exported_client_secret", "used_at", "machine-1", "secret-1"), SECRETS),
    "prune keys": Plan(idempotency.prune, {"idempotency_key_expiry", "idempotency_key_pkey"}),
}


@pytest.fixture(scope="module", params=STATES)
def plans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    directory = tmp_path_factory.mktemp("plans")
    with plans_of(request.param, directory, {"token": SCHEMA}, OLD, NEW) as plans:
        yield plans


@pytest.mark.parametrize("name", PLANS)
def test_every_statement_looks_at_few_rows_more_than_it_gives(plans: Plans, name: str) -> None:
    check(plans, PLANS[name].act, START, PLANS[name].indexes, PLANS[name].walked)
