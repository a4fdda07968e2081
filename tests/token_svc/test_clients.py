"""Machine clients: how they say who they are, what they get for it, and what ends that."""

import base64
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote_plus

import jwt
import pytest
import requests

from tests.commands import said
from tests.databases import everything, rows
from tests.processes import TokenService, eventually
from tests.token_svc.answers import is_bad_token, oauth_error, problem
from tests.token_svc.machines import Machine, operate
from tests.token_svc.users import PASSWORD, User, form_of, fresh_name
from tests.token_svc.users import operate as operate_users
from token_svc import clients
from token_svc.clients import MAX_SECRETS


@pytest.fixture(scope="module")
def machine(tokens: TokenService) -> Machine:
    """One that no test changes."""
    return Machine(tokens, "data tasks introspect")


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"}


GRANT = {"grant_type": "client_credentials"}
WAYS: dict[str, Callable[[Machine], dict[str, Any]]] = {
    "Basic": lambda machine: {"data": GRANT, "auth": machine.credentials},
    "Basic in lower case": lambda machine: {
        "data": GRANT,
        "headers": {"Authorization": basic(*machine.credentials)["Authorization"].replace("Basic", "basic")},
    },
    "Basic, percent-encoded": lambda machine: {
        "data": GRANT,
        "headers": basic(f"%{ord(machine.id[0]):x}{machine.id[1:]}", quote_plus(machine.secret)),
    },
    "Basic with JSON": lambda machine: {"json": GRANT, "auth": machine.credentials},
    "form": lambda machine: {"data": GRANT | {"client_id": machine.id, "client_secret": machine.secret}},
    "JSON": lambda machine: {"json": GRANT | {"client_id": machine.id, "client_secret": machine.secret}},
    "its id in both places": lambda machine: {"data": GRANT | {"client_id": machine.id}, "auth": machine.credentials},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_gets_a_token_for_its_secret(machine: Machine, way: str) -> None:
    answer = machine.service.request("POST", "/token", **WAYS[way](machine))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 1800, "data tasks introspect")


def test_its_token_says_that_it_is_a_machines(machine: Machine) -> None:
    claims = jwt.decode(machine.access_token(), options={"verify_signature": False})
    assert claims["sub"] == claims["client_id"] == machine.id
    assert "sid" not in claims


def test_it_may_ask_for_less_and_not_for_more(machine: Machine) -> None:
    assert machine.token(scope="data").json()["scope"] == "data"
    oauth_error(machine.token(scope="data work"), 400, "invalid_scope")


BAD: dict[str, Callable[[Machine], dict[str, Any]]] = {
    "wrong secret": lambda machine: {"data": GRANT, "auth": (machine.id, "wrong")},
    "another's secret": lambda machine: {"data": GRANT, "auth": (machine.id, machine.secret[::-1])},
    "unknown client": lambda machine: {"data": GRANT, "auth": ("nightly", machine.secret)},
    "a user": lambda machine: {"data": GRANT, "auth": ("ada", PASSWORD)},
    "the name for the id": lambda machine: {"data": GRANT, "auth": (machine.name, machine.secret)},
    "no secret": lambda machine: {"data": GRANT | {"client_id": machine.id}},
    "an empty secret": lambda machine: {"data": GRANT, "auth": (machine.id, "")},
    "nothing": lambda machine: {"data": GRANT},
    "nothing in JSON": lambda machine: {"json": GRANT},
    "wrong in JSON": lambda machine: {"json": GRANT | {"client_id": machine.id, "client_secret": "wrong"}},
    "no base64": lambda machine: {"data": GRANT, "headers": {"Authorization": "Basic ~~~"}},
    "no colon": lambda machine: {"data": GRANT, "headers": {"Authorization": "Basic YWJj"}},
    "no ASCII": lambda machine: {"data": GRANT, "headers": basic("ä", "ö")},
    "percent-encoded UTF-8": lambda machine: {"data": GRANT, "headers": basic("%C3%A4", "x")},
    "half of a character": lambda machine: {"data": GRANT, "headers": basic("%ff", "x")},
    "NUL": lambda machine: {"data": GRANT, "headers": basic(f"{machine.id}%00", machine.secret)},
    "very long": lambda machine: {"data": GRANT, "auth": ("a" * 10_000, "b" * 10_000)},
    "a bearer token": lambda machine: {"data": GRANT, "headers": machine.bearer()},
}


@pytest.mark.parametrize("way", BAD)
def test_any_other_credentials_are_one_and_the_same_401(machine: Machine, way: str) -> None:
    answer = machine.service.request("POST", "/token", **BAD[way](machine))
    body = oauth_error(answer, 401, "invalid_client")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="only_post"'
    assert body["detail"] == "the client's id or its secret is not right"


def test_to_say_it_twice_is_a_400(machine: Machine) -> None:
    body = GRANT | {"client_id": machine.id, "client_secret": machine.secret}
    answer = machine.service.request("POST", "/token", data=body, auth=machine.credentials)
    oauth_error(answer, 400, "invalid_request")


def test_a_machine_has_no_password_and_no_refresh_token(machine: Machine) -> None:
    for name in (machine.name, machine.id, f"client:{machine.name}", f"client:{machine.id}", ""):
        for password in (machine.secret, "", "x"):
            answer = machine.service.post("/token", {"username": name, "password": password})
            oauth_error(answer, 401, "invalid_grant")


def test_a_machine_gets_no_mail_for_a_new_password(machine: Machine) -> None:
    for email in (f"client:{machine.id}", ""):
        assert machine.service.post("/password/forgot", {"email": email}).status_code == 202
    eventually(lambda: rows(machine.service, "SELECT count(*) FROM mail") == [(0,)], 30)
    assert rows(machine.service, "SELECT count(*) FROM mail_token WHERE account_id = ?", machine.id) == [(0,)]


def test_a_user_may_have_the_name_of_a_machine(machine: Machine) -> None:
    assert User(machine.service, username=machine.name).get("/me").status_code == 200


def test_it_owns_data_as_a_user_does(tokens: TokenService, user: User) -> None:
    one, two = Machine(tokens), Machine(tokens)
    made = tokens.post("/data", {"data": [1, 2.50]}, headers=one.bearer())
    assert made.status_code == 201, made.text
    path = f"/data/{made.json()['id']}"
    assert tokens.get(path, headers=one.bearer()).json() == made.json()
    assert tokens.get("/data", headers=one.bearer()).json()["items"] == [made.json()]
    assert tokens.get(path, headers=two.bearer()).status_code == user.get(path).status_code == 404
    exported = tokens.get("/me/export", headers=one.bearer()).json()
    assert exported["items"] == [made.json()]
    assert tokens.request("DELETE", path, headers=one.bearer()).status_code == 204


def test_its_quota_counts(start_tokens: Callable[..., TokenService]) -> None:
    machine = Machine(start_tokens(MAX_ITEMS_PER_USER="1"))
    bearer = machine.bearer()
    assert machine.service.post("/data", {"data": 1}, headers=bearer).status_code == 201
    problem(machine.service.post("/data", {"data": 2}, headers=bearer), 409, "quota_exceeded")


def test_it_sees_itself_and_changes_nothing_of_itself(machine: Machine) -> None:
    service, bearer = machine.service, machine.bearer()
    shown = service.get("/me", headers=bearer).json()
    assert (shown["id"], shown["name"]) == (machine.id, machine.name)
    for method, body in (("PATCH", {"current_password": "x", "password": PASSWORD}), ("DELETE", {})):
        problem(service.request(method, "/me", json=body, headers=bearer), 403, "not_a_user")


def test_disabling_ends_it_at_once_and_enabling_gives_it_new_tokens(tokens: TokenService) -> None:
    machine = Machine(tokens)
    bearer = machine.bearer()
    assert tokens.get("/me", headers=bearer).status_code == 200
    assert machine.operate("disable")["is_disabled"] is True
    assert is_bad_token(tokens.get("/me", headers=bearer))
    oauth_error(machine.token(), 401, "invalid_client")
    machine.operate("enable")
    assert is_bad_token(tokens.get("/me", headers=bearer))
    assert tokens.get("/me", headers=machine.bearer()).status_code == 200


def test_deleting_ends_it_with_its_data(tokens: TokenService) -> None:
    machine = Machine(tokens)
    bearer = machine.bearer()
    assert tokens.post("/data", {"data": "the machine's"}, headers=bearer).status_code == 201
    machine.operate("delete", "--yes")
    assert is_bad_token(tokens.get("/data", headers=bearer))
    oauth_error(machine.token(), 401, "invalid_client")
    for table in ("client_secret", "item", "event"):
        assert rows(tokens, f"SELECT count(*) FROM {table} WHERE account_id = ?", machine.id) == [(0,)]


def test_granting_takes_away_at_once(tokens: TokenService) -> None:
    machine = Machine(tokens, "data tasks")
    bearer = machine.bearer()
    assert machine.operate("grant", "tasks", "pictures")["scope"] == "pictures tasks"
    assert is_bad_token(tokens.get("/data", headers=bearer))
    assert machine.token().json()["scope"] == "pictures tasks"


def test_of_a_rotation_two_secrets_work_until_it_is_finished(tokens: TokenService) -> None:
    machine = Machine(tokens)
    first = machine.secret
    second = machine.operate("rotate")["client_secret"]
    for secret in (first, second):
        machine.secret = secret
        assert machine.token().status_code == 200
    machine.operate("rotate", "--finish")
    machine.secret = first
    oauth_error(machine.token(), 401, "invalid_client")
    machine.secret = second
    assert machine.token().status_code == 200
    (shown,) = machine.operate("show")["secrets"]
    assert shown["used_at"]


def test_with_one_secret_there_is_no_rotation_to_finish(tokens: TokenService) -> None:
    machine = Machine(tokens)
    done = operate(tokens, "rotate", machine.name, "--finish")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no second secret" in done.stderr
    assert machine.token().status_code == 200
    assert "client_secret_ended" not in str(machine.operate("show"))


def test_of_three_secrets_the_oldest_is_over(tokens: TokenService) -> None:
    machine = Machine(tokens)
    found = [machine.secret, *(machine.operate("rotate")["client_secret"] for _ in range(MAX_SECRETS))]
    statuses = [tokens.request("POST", "/token", data=GRANT, auth=(machine.id, one)).status_code for one in found]
    assert statuses == [401, 200, 200]


def test_a_secret_is_nowhere_but_where_it_was_printed(tokens: TokenService) -> None:
    machine = Machine(tokens)
    assert machine.token().status_code == 200
    assert len(machine.secret) == 43  # 256 bits in base64url
    assert machine.secret.encode() not in everything(tokens)
    assert machine.secret not in tokens.log.read_text()
    assert clients.digest_of(machine.secret) not in str(machine.operate("show"))


def test_it_is_in_the_audit_trail(tokens: TokenService) -> None:
    machine = Machine(tokens)
    machine.token()
    tokens.request("POST", "/token", data=GRANT, auth=(machine.id, "wrong"))
    machine.operate("rotate")
    machine.operate("disable")
    kinds = [event["event"] for event in machine.operate("show")["events"]]
    made = ["client_created", "client_login", "client_login_failed", "client_secret_made", "disabled"]
    assert kinds == made
    told = re.compile(rf"event=audit\.(client_\w+) .*sub={machine.id}")
    eventually(lambda: told.findall(tokens.log.read_text()) == ["client_login", "client_login_failed"])


def test_its_export_has_nothing_of_a_user_of_its_name(tokens: TokenService) -> None:
    user = User(tokens)
    assert user.get("/me/export").json()["attempts"]
    machine = Machine(tokens, name=user.username)
    assert tokens.request("GET", "/me/export", headers=machine.bearer()).json()["attempts"] == []


def test_a_token_an_hour_is_a_row_and_not_every_token(tokens: TokenService) -> None:
    machine = Machine(tokens)
    for _ in range(3):
        machine.token()
    sql = "SELECT count(*) FROM event WHERE account_id = ? AND kind = 'client_login'"
    assert rows(tokens, sql, machine.id) == [(1,)]
    rows(tokens, "UPDATE client_secret SET used_at = used_at - 3600000 WHERE account_id = ?", machine.id)
    machine.token()
    assert rows(tokens, sql, machine.id) == [(2,)]


# Revocation and introspection.


def test_a_revoked_machine_token_works_no_more_and_its_next_one_does(machine: Machine) -> None:
    token = machine.access_token()
    for _ in range(2):
        assert machine.service.request("POST", "/revoke", data={"token": token}, auth=machine.credentials).json() == {}
    assert is_bad_token(machine.service.get("/me", headers={"Authorization": f"Bearer {token}"}))
    assert machine.introspect(token).json() == {"active": False}
    assert machine.service.get("/me", headers=machine.bearer()).status_code == 200


def test_a_client_with_the_scope_introspects_by_basic_or_by_bearer(machine: Machine, user: User) -> None:
    own = machine.access_token()
    described = machine.introspect(own).json()
    assert (described["active"], described["sub"], described["client_id"]) == (True, machine.id, machine.id)
    assert "username" not in described
    token = user.pair["access_token"]
    by_basic = machine.introspect(token).json()
    assert (by_basic["active"], by_basic["username"]) == (True, user.username)
    by_bearer = machine.service.post("/introspect", {"token": token}, headers={"Authorization": f"Bearer {own}"})
    assert by_bearer.json() == by_basic
    assert machine.introspect("nonsense").json() == {"active": False}


def test_a_client_without_the_scope_does_not(tokens: TokenService, user: User) -> None:
    answer = Machine(tokens, "data").introspect(user.pair["access_token"])
    oauth_error(answer, 403, "insufficient_scope")
    assert 'scope="introspect"' in answer.headers["WWW-Authenticate"]


# Limits.

LIMITED = {"RATE_LIMITS": "login=3/minute,register=100/minute"}


def statuses(count: int, call: Callable[[], requests.Response]) -> list[int]:
    return [call().status_code for _ in range(count)]


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_wrong_secrets_are_limited_and_no_right_one_and_no_user_is(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(**LIMITED)
    machine, user = Machine(service), User(service)

    def wrong() -> requests.Response:
        return service.request("POST", "/token", data=GRANT, auth=("nobody", "wrong"))

    assert statuses(4, wrong) == [401, 401, 401, 429]
    assert int(wrong().headers["Retry-After"]) >= 1
    assert machine.token().status_code == 200
    assert user.login().status_code == 200


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_failed_logins_of_users_hold_up_no_machine(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(**LIMITED)
    machine, user = Machine(service), User(service)
    assert statuses(4, lambda: user.login(password="wrong")) == [401, 401, 401, 429]
    assert machine.token().status_code == 200
    assert service.request("POST", "/token", data=GRANT, auth=(machine.id, "wrong")).status_code == 401


def passed_on(machine: Machine, username: str, password: str, address: str) -> requests.Response:
    """A login that an app's server passes on."""
    body = {"grant_type": "password", "username": username, "password": password}
    headers = {"X-Forwarded-For": address}
    return machine.service.request("POST", "/token", data=body, auth=machine.credentials, headers=headers)


NOT_FORWARDED = LIMITED | {"FORWARDED_ALLOW_IPS": "192.0.2.99"}


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_app_that_may_names_the_address_that_a_login_counts_against(
    start_tokens: Callable[..., TokenService],
) -> None:
    service = start_tokens(**NOT_FORWARDED)
    app, user = Machine(service, "logins"), User(service)
    one = statuses(4, lambda: passed_on(app, fresh_name(), "wrong", "198.51.100.1"))
    assert one == [400, 400, 400, 429]
    assert passed_on(app, user.username, PASSWORD, "198.51.100.1").status_code == 429
    assert passed_on(app, user.username, PASSWORD, "198.51.100.2").status_code == 200
    assert "198.51.100.2" in str(user.get("/me/export").json()["events"])
    assert user.login().status_code == 200


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_app_that_may_not_counts_by_its_own_address(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(**NOT_FORWARDED)
    app = Machine(service, "data")
    found = [passed_on(app, fresh_name(), "wrong", f"198.51.100.{number}").status_code for number in range(4)]
    assert found == [400, 400, 400, 429]


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_app_that_may_names_the_address_of_all_that_its_users_ask_for(
    start_tokens: Callable[..., TokenService],
) -> None:
    service = start_tokens(RATE_LIMITS="register=1/hour", FORWARDED_ALLOW_IPS="192.0.2.99")
    app, other = Machine(service, "logins"), Machine(service, "data")

    def status(path: str, body: Any, machine: Machine, address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return service.request("POST", path, json=body, auth=machine.credentials, headers=headers).status_code

    for path, done in (("/register", 201), ("/password/forgot", 202)):
        for address, expected in (("198.51.100.1", done), ("198.51.100.2", done), ("198.51.100.2", 429)):
            body = form_of() if path == "/register" else {"email": "no@example.com"}
            assert status(path, body, app, address) == expected
        assert status(path, body, other, "198.51.100.3") == done
        assert status(path, body, other, "198.51.100.4") == 429


@pytest.mark.parametrize("path", ["/register", "/password/forgot", "/password/reset", "/email/verify"])
def test_a_user_of_an_app_with_a_wrong_secret_is_refused(tokens: TokenService, path: str) -> None:
    answer = tokens.request("POST", path, json={}, auth=(fresh_name(), "wrong"))
    problem(answer, 401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_client_that_says_two_names_is_refused(machine: Machine) -> None:
    assert machine.token(client_id=machine.id).status_code == 200
    oauth_error(machine.token(client_id=fresh_name()), 400, "invalid_request")


def test_an_end_of_a_token_may_say_which_client_asks(machine: Machine) -> None:
    body = {"token": "none", "client_id": machine.id, "client_secret": machine.secret}
    for sent in ({"json": body}, {"data": body}):
        assert machine.service.request("POST", "/revoke", **sent).status_code == 200


def test_a_login_with_a_wrong_secret_is_none(tokens: TokenService, user: User) -> None:
    body = {"grant_type": "password", "username": user.username, "password": PASSWORD}
    answer = tokens.request("POST", "/token", data=body, auth=(fresh_name(), "wrong"))
    oauth_error(answer, 401, "invalid_client")
    assert tokens.request("POST", "/token", data=body, auth=("a public client", "")).status_code == 200


# The commands.


def test_the_secret_is_printed_once(tokens: TokenService) -> None:
    name = fresh_name()
    done = operate(tokens, "create", name, "--scope", "tasks work")
    printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert printed.keys() == {"client_id", "client_secret", "scope"}
    assert printed["scope"] == "tasks work"
    for action in ("show", "list"):
        assert printed["client_secret"] not in operate(tokens, action, *([name] if action == "show" else [])).stdout


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_what_a_command_cannot_do_is_one_line(machine: Machine) -> None:
    service = machine.service
    assert said(operate(service, "create", machine.name), 1) == f"there is a client {machine.name} already"
    assert said(operate(service, "create", "a b"), 1).startswith("NAME: must be made of")
    user = User(service)
    for name in ("nobody-there", user.username, f"id:{user.profile['id']}"):
        assert said(operate(service, "disable", name), 1) == f"there is no client {name}"
    assert operate(service, "create", "another", "--scope", 'a"b').returncode == 2
    many = [f"{number:060}" for number in range(20)]
    assert said(operate(service, "grant", machine.name, *many), 1).startswith("SCOPE: must have at most")


def test_no_command_for_users_reaches_a_machine(tokens: TokenService) -> None:
    machine = Machine(tokens)
    for name in (machine.name, f"id:{machine.id}", f"client:{machine.name}"):
        assert operate_users(machine.service, "disable", name).returncode == 1
    assert machine.name not in operate_users(machine.service, "list").stdout
    assert machine.name in operate(machine.service, "list").stdout


# What takes time says nothing.


def test_of_twenty_machines_at_once_each_gets_its_token(machine: Machine) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: machine.token().status_code, range(40)))
    assert set(found) == {200}


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_unknown_client_takes_as_long_as_a_known_one(machine: Machine) -> None:
    """The pairs are interleaved, so that a busy machine slows both."""
    session = requests.Session()

    def seconds(client_id: str) -> float:
        started = time.perf_counter()
        session.post(f"{machine.service.url}/token", data=GRANT, auth=(client_id, "wrong"), timeout=60)
        return time.perf_counter() - started

    unknown = f"{machine.id[:-1]}{'0' if machine.id[-1] != '0' else '1'}"
    pairs = [(seconds(machine.id), seconds(unknown)) for _ in range(200)]
    longer = sum(known > other for known, other in pairs)
    assert 60 <= longer <= 140, longer  # of 200 fair tosses: 5.6 standard deviations
