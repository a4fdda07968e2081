"""What a token may do and what ends it take the account's lock in turn: nothing comes between asking and writing."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import requests

from tests.databases import rows
from tests.postgres import execute
from tests.processes import eventually
from tests.token_svc.answers import oauth_error
from tests.token_svc.users import User, operate, refresh

pytestmark = pytest.mark.parametrize("storage", ["postgres"], indirect=True)  # SQLite has one writer at a time

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (%s)::oid"


@contextlib.contextmanager
def held(user: User) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """The account's lock, as a transaction in another process holds it."""
    with psycopg.connect(user.service.env["DATABASE_URL"]) as connection:
        connection.execute(LOCK, [f"account {user.profile['id']}"])
        yield connection


def waiting(user: User) -> int:
    url = user.service.env["DATABASE_URL"]
    (database,) = execute(url, "SELECT oid FROM pg_database WHERE datname = current_database()")[0]
    return int(execute(url, WAITING, database)[0][0])


REQUESTS: dict[str, Callable[[User, str], requests.Response]] = {
    "POST /data": lambda user, path: user.post("/data", json={"data": 1}),
    "PUT /data": lambda user, path: user.put(path, json={"data": 1}),
    "PATCH /data": lambda user, path: user.patch(path, json={"data": {}}),
    "DELETE /data": lambda user, path: user.delete(path),
    "POST /revoke": lambda user, path: user.service.post("/revoke", {"token": user.refresh_token}),
    "POST /token": lambda user, path: refresh(user.service, user.refresh_token),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_writes_and_what_ends_their_token_wait_for_each_other(user: User, name: str) -> None:
    path = f"/data/{user.add({})['id']}"
    with ThreadPoolExecutor(1) as pool:
        with held(user):
            asked = pool.submit(REQUESTS[name], user, path)
            eventually(lambda: waiting(user) or asked.done())
            assert not asked.done()
        assert asked.result().ok


def test_a_session_that_ends_in_the_middle_of_a_rotation_gives_no_pair(user: User) -> None:
    with ThreadPoolExecutor(1) as pool:
        with held(user) as connection:
            asked = pool.submit(refresh, user.service, user.refresh_token)
            eventually(lambda: waiting(user) or asked.done())
            of_user = "session_id IN (SELECT id FROM session WHERE account_id = %s)"
            connection.execute(f"DELETE FROM refresh_token WHERE {of_user}".encode(), [user.profile["id"]])
            connection.execute("DELETE FROM session WHERE account_id = %s", [user.profile["id"]])
        oauth_error(asked.result(), 401, "invalid_grant")


def test_a_disabled_user_s_refresh_token_gives_no_pair(user: User) -> None:
    rows(user.service, "UPDATE account SET is_disabled = 1 WHERE id = ?", user.profile["id"])
    oauth_error(refresh(user.service, user.refresh_token), 401, "invalid_grant")
    assert operate(user.service, "enable", user.username).returncode == 0
