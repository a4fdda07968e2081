"""POST /token, /revoke and /introspect, and what ends a session."""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from jose import jwt

from shared import ids
from tests.databases import ON_A_FILE, everything, rows
from tests.only_post_svc.wire import talk
from tests.processes import TokenService, eventually
from tests.token_svc.answers import is_bad_token, oauth_error
from tests.token_svc.tables import Tables
from tests.token_svc.users import PASSWORD, User, form_of, fresh_name, operate, refresh
from tests.tokens import KEYS, claims_of
from token_svc import accounts, events, sessions
from token_svc.accounts import AccountRow
from token_svc.sessions import GRACE_MS, MAX_SESSIONS, REFRESH_MS, Session

FORM = "application/x-www-form-urlencoded"


def send_form(service: TokenService, path: str, form: Any, content_type: str = FORM) -> requests.Response:
    body = form if isinstance(form, (bytes, str)) else urlencode(form)
    return service.request("POST", path, data=body, headers={"Content-Type": content_type})


def login_form(user: User, **more: Any) -> dict[str, Any]:
    return {"grant_type": "password", "username": user.username, "password": user.password, **more}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def works(service: TokenService, access_token: str) -> bool:
    answer = service.get("/me", headers=bearer(access_token))
    assert answer.status_code == 200 or is_bad_token(answer), answer.text
    return answer.status_code == 200


def test_json_logs_in_and_gets_what_registering_gave_without_the_user(user: User) -> None:
    answer = user.login()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json().keys() == user.pair.keys() - {"user"}
    assert works(user.service, answer.json()["access_token"])


def test_a_form_logs_in_as_rfc_6749_has_it(user: User) -> None:
    answer = send_form(user.service, "/token", login_form(user))
    assert answer.status_code == 200
    assert answer.json() | {"access_token": "", "refresh_token": ""} == {
        "access_token": "",
        "token_type": "Bearer",
        "expires_in": 1800,
        "refresh_token": "",
        "scope": "data tasks",
    }


def test_a_form_may_name_its_charset(user: User) -> None:
    for content_type in (f"{FORM}; charset=UTF-8", f'{FORM};charset="utf-8"', FORM.upper()):
        assert send_form(user.service, "/token", login_form(user), content_type).status_code == 200


def test_a_form_carries_any_character_percent_encoded(tokens: TokenService) -> None:
    user = User(tokens, password="a+b&c=d é 🙂 %41")
    assert send_form(tokens, "/token", login_form(user)).status_code == 200


@pytest.mark.parametrize("path", ["/register", "/token"])
def test_an_answer_with_tokens_is_not_to_be_stored(tokens: TokenService, path: str) -> None:
    user = User(tokens)
    body = form_of() if path == "/register" else {"username": user.username, "password": user.password}
    assert tokens.post(path, body).headers["Cache-Control"] == "no-store"


def test_json_takes_the_grant_type_too(user: User) -> None:
    assert user.login(grant_type="password").status_code == 200


def wrong_logins(service: TokenService) -> dict[str, dict[str, str]]:
    user, disabled = User(service), User(service)
    assert operate(service, "disable", disabled.username).returncode == 0
    return {
        "unknown": {"username": fresh_name(), "password": PASSWORD},
        "wrong password": {"username": user.username, "password": "not the right one"},
        "disabled": {"username": disabled.username, "password": disabled.password},
        "disabled, more scope": {"username": disabled.username, "password": disabled.password, "scope": "introspect"},
        "disabled, wrong": {"username": disabled.username, "password": "not the right one"},
        "huge password": {"username": user.username, "password": "x" * 100_000},
        "huge username": {"username": "x" * 100_000, "password": PASSWORD},
        "empty": {"username": "", "password": ""},
        "no username": {"username": "a b", "password": PASSWORD},
    }


def anonymous(answer: requests.Response) -> tuple[int, str, dict[str, str]]:
    """An answer but what differs between any two."""
    request_id = answer.headers["X-Request-ID"]
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
    return answer.status_code, answer.text.replace(request_id, "-"), headers


def test_every_wrong_login_by_json_is_one_and_the_same_401(tokens: TokenService) -> None:
    answers = [tokens.post("/token", body) for body in wrong_logins(tokens).values()]
    oauth_error(answers[0], 401, "invalid_grant")
    assert answers[0].headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert [anonymous(answer) for answer in answers] == [anonymous(answers[0])] * len(answers)


def test_every_wrong_login_by_form_is_one_and_the_same_400(tokens: TokenService) -> None:
    wrong = wrong_logins(tokens)
    del wrong["empty"]  # RFC 6749 §3.1: an empty parameter is as good as none
    answers = [send_form(tokens, "/token", {"grant_type": "password", **body}) for body in wrong.values()]
    oauth_error(answers[0], 400, "invalid_grant")
    assert [anonymous(answer) for answer in answers] == [anonymous(answers[0])] * len(answers)


def test_a_username_of_a_megabyte_of_combining_marks_is_refused_like_any_other(user: User) -> None:
    marks = "a" + "\u0316\u0300" * 200_000  # putting them in order takes minutes
    body = json.dumps({"username": marks, "password": PASSWORD}, ensure_ascii=False).encode()
    answer = user.service.request("POST", "/token", data=body, timeout=20)
    oauth_error(answer, 401, "invalid_grant")


LESS = [("data", "data"), ("tasks", "tasks"), ("tasks data data", "tasks data"), (" data  ", "data")]


@pytest.mark.parametrize(("asked", "given"), [*LESS, ("  ", "data tasks")])
def test_a_session_may_ask_for_less(user: User, asked: str, given: str) -> None:
    for answer in (user.login(scope=asked), send_form(user.service, "/token", login_form(user, scope=asked))):
        assert answer.json()["scope"] == given
    user.take(answer.json())
    assert user.get("/data").status_code == (200 if "data" in given else 403)


@pytest.mark.parametrize(
    "asked", ["introspect", "data introspect", "admin", "DATA", "data,tasks", "data\u00a0tasks", "data\ttasks"]
)
def test_a_session_may_not_ask_for_more(user: User, asked: str) -> None:
    oauth_error(user.login(scope=asked), 400, "invalid_scope")
    oauth_error(send_form(user.service, "/token", login_form(user, scope=asked)), 400, "invalid_scope")


def test_a_refresh_keeps_the_scope_of_its_session(user: User) -> None:
    narrow = user.login(scope="data").json()
    assert refresh(user.service, narrow["refresh_token"]).json()["scope"] == "data"


def test_a_refresh_may_narrow_its_access_token_and_not_the_session(user: User) -> None:
    narrowed = refresh(user.service, user.refresh_token, scope="tasks").json()
    assert narrowed["scope"] == "tasks"
    answer = user.service.get("/data", headers=bearer(narrowed["access_token"]))
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert refresh(user.service, narrowed["refresh_token"]).json()["scope"] == "data tasks"  # RFC 6749 §6


def test_a_refresh_may_not_ask_for_more_and_is_not_used_up(user: User) -> None:
    narrow = user.login(scope="data").json()["refresh_token"]
    oauth_error(refresh(user.service, narrow, scope="data tasks"), 400, "invalid_scope")
    assert refresh(user.service, narrow).status_code == 200


def test_a_granted_scope_is_for_new_sessions(user: User) -> None:
    assert operate(user.service, "grant", user.username, "data", "introspect").returncode == 0
    assert user.login().json()["scope"] == "data introspect"
    assert refresh(user.service, user.refresh_token).json()["scope"] == "data"  # what it had, and still may have


def test_a_scope_that_is_taken_away_is_gone_at_once_and_from_refreshed_tokens(user: User) -> None:
    elsewhere = user.login(scope="tasks").json()
    assert operate(user.service, "grant", user.username, "data").returncode == 0
    for access_token in (user.pair["access_token"], elsewhere["access_token"]):
        assert not works(user.service, access_token)
    assert refresh(user.service, elsewhere["refresh_token"]).json()["scope"] == ""
    oauth_error(refresh(user.service, user.refresh_token, scope="tasks"), 400, "invalid_scope")
    user.take(refresh(user.service, user.refresh_token).json())
    assert user.pair["scope"] == "data"
    assert user.get("/data").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "kind"), [(["disable"], "disabled"), (["enable"], "enabled"), (["grant", "data"], "granted")]
)
def test_what_the_operator_does_is_an_audit_line(user: User, arguments: list[str], kind: str) -> None:
    done = operate(user.service, arguments[0], user.username, *arguments[1:])
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert f"audit.{kind}" in line
    assert user.profile["id"] in line
    assert "operator" in line


def test_the_operator_is_told_of_a_user_who_is_not_there_or_a_scope_that_is_none(user: User) -> None:
    absent = operate(user.service, "grant", fresh_name(), "data")
    assert (absent.returncode, absent.stderr.startswith("there is no user")) == (1, True)
    assert "audit" not in absent.stdout
    assert operate(user.service, "disable", fresh_name()).returncode == 1
    assert operate(user.service, "grant", user.username, 'every"thing').returncode == 2


@pytest.mark.parametrize("grant_type", [1, True, ["password"], {}])
def test_a_grant_type_that_is_no_text_is_a_422(user: User, grant_type: Any) -> None:
    answer = user.service.post("/token", {"grant_type": grant_type, "username": user.username, "password": PASSWORD})
    oauth_error(answer, 422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == "/grant_type"


@pytest.mark.parametrize("grant_type", ["implicit", "authorization_code", "PASSWORD", "x" * 1000])
def test_another_grant_type_is_unsupported(user: User, grant_type: str) -> None:
    oauth_error(user.login(grant_type=grant_type), 400, "unsupported_grant_type")
    answer = send_form(user.service, "/token", login_form(user, grant_type=grant_type))
    oauth_error(answer, 400, "unsupported_grant_type")


MISSING: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["/username", "/password"]),
    ({"username": "ada"}, ["/password"]),
    ({"password": PASSWORD}, ["/username"]),
    ({"grant_type": "refresh_token"}, ["/refresh_token"]),
    ({"grant_type": "refresh_token", "username": "a", "password": "b"}, ["/refresh_token"]),
]


@pytest.mark.parametrize(("body", "pointers"), MISSING)
def test_a_missing_member_is_pointed_at(tokens: TokenService, body: dict[str, Any], pointers: list[str]) -> None:
    by_json = oauth_error(tokens.post("/token", body), 422, "invalid_request")
    form = {"grant_type": "password", **body}
    by_form = oauth_error(send_form(tokens, "/token", form), 400, "invalid_request")  # RFC 6749 §5.2
    assert [error["pointer"] for error in by_json["errors"]] == pointers
    assert [error["pointer"] for error in by_form["errors"]] == pointers


def test_a_missing_member_is_told_beside_one_of_a_wrong_type(tokens: TokenService) -> None:
    body = oauth_error(tokens.post("/token", {"username": 5}), 422, "invalid_request")
    assert [error["pointer"] for error in body["errors"]] == ["/username", "/password"]


@pytest.mark.parametrize("empty", [{}, {"grant_type": ""}])
def test_a_form_has_to_name_its_grant_type(user: User, empty: dict[str, str]) -> None:
    form = {"username": user.username, "password": user.password, **empty}
    body = oauth_error(send_form(user.service, "/token", form), 400, "invalid_request")
    assert [error["pointer"] for error in body["errors"]] == ["/grant_type"]


DESCRIPTION = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §5.2


@pytest.mark.parametrize("name", ['"', "\\", "é", "\u007f", "\n", "🙂"])
def test_an_error_description_has_only_the_characters_it_may_have(tokens: TokenService, name: str) -> None:
    body = oauth_error(tokens.post("/revoke", {"token": "x", "x" + name: 1}), 422, "invalid_request")
    assert DESCRIPTION.fullmatch(body["error_description"])
    assert body["errors"][0]["pointer"] == f"/x{name}"


def test_unknown_members_of_json_are_ignored_as_a_forms_are(user: User) -> None:
    assert user.login(resource="x", audience=["y"]).status_code == 200


def test_unknown_and_empty_fields_of_a_form_are_ignored(user: User) -> None:
    form = login_form(user, client_id="app", resource="x", scope="", refresh_token="")
    assert send_form(user.service, "/token", form).status_code == 200


@pytest.mark.parametrize("more", ["&", "&&", "&scope", "&scope=", "&scope&client_id"])
def test_a_form_may_end_in_an_ampersand_and_have_fields_without_a_value(user: User, more: str) -> None:
    answer = send_form(user.service, "/token", urlencode(login_form(user)) + more)
    assert (answer.status_code, answer.json().get("scope")) == (200, "data tasks")
    assert send_form(user.service, "/revoke", f"token={answer.json()['refresh_token']}{more}").status_code == 200


def test_a_form_may_have_utf_8_that_is_not_escaped(tokens: TokenService) -> None:
    user = User(tokens, password="pässwörter für alle")
    body = f"grant_type=password&username={user.username}&password=pässwörter+für alle".encode()
    assert send_form(tokens, "/token", body).status_code == 200


@pytest.mark.parametrize("name", ["username", "password", "grant_type", "scope", "client_id"])
def test_a_field_that_is_sent_twice_is_refused(user: User, name: str) -> None:
    fields = [*login_form(user, scope="data", client_id="app").items()]
    body = urlencode(fields + [field for field in fields if field[0] == name])
    oauth_error(send_form(user.service, "/token", body), 400, "invalid_request")


NO_FORMS = {
    "no pairs": b"grant_type",
    "Latin-1": "grant_type=password&username=é&password=x".encode("latin-1"),
    "bad UTF-8": b"grant_type=password&username=%ff&password=x",
    "surrogate": b"grant_type=password&username=%ed%a0%80&password=x",
    "NUL": b"grant_type=password&username=a%00b&password=x",
    "too many fields": b"&".join(b"f%d=x" % number for number in range(21)),
    "JSON": json.dumps({"username": "a", "password": "b"}).encode(),
}


@pytest.mark.parametrize("body", NO_FORMS.values(), ids=NO_FORMS)
@pytest.mark.parametrize("path", ["/token", "/revoke"])
def test_what_is_no_form_is_refused(tokens: TokenService, path: str, body: bytes) -> None:
    oauth_error(send_form(tokens, path, body), 400, "invalid_request")


UNREADABLE = {
    400: b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    431: b"X-A: " + b"a" * 70_000,
}


@pytest.mark.parametrize("status", UNREADABLE)
@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect?x=1", "/me"])
def test_what_the_server_refuses_by_itself_on_an_oauth_route_says_them_too(
    tokens: TokenService, path: str, status: int
) -> None:
    (answer,) = talk(tokens, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + UNREADABLE[status])
    assert answer.status == status
    is_oauth = path != "/me"
    assert answer.headers["content-type"] == ("application/json" if is_oauth else "application/problem+json")
    assert answer.problem.get("error") == ("invalid_request" if is_oauth else None)
    assert ("error_description" in answer.problem) == is_oauth


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
def test_every_refusal_of_the_oauth_routes_says_error_and_error_description(introspector: User, path: str) -> None:
    request = introspector.service.request
    headers = dict(bearer(introspector.pair["access_token"]))
    good = json.dumps({"token": "x"})
    refused = {
        (405, "GET"): request("GET", path),
        (405, "PUT"): request("PUT", path, data=good),
        (413, "POST"): request("POST", path, data=b"x" * 1_100_000, headers=headers),
        (415, "POST"): request("POST", path, data=good, headers={**headers, "Content-Type": "text/plain"}),
        (400, "POST"): request("POST", path, data=b"{", headers=headers),
        (422, "POST"): request("POST", path, data=b"[]", headers=headers),
    }
    for (status, _), answer in refused.items():
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
        assert isinstance(answer.json()["error"], str)
        assert DESCRIPTION.fullmatch(answer.json()["error_description"])
        assert answer.json()["error_description"] == answer.json()["detail"].replace("…", "?")
        assert answer.json().keys() >= {"type", "title", "status", "code", "request_id"}


def test_a_refresh_gives_the_same_session_another_pair(user: User) -> None:
    answer = refresh(user.service, user.refresh_token)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    pair = answer.json()
    assert pair.keys() == user.pair.keys() - {"user"}
    assert pair["refresh_token"] != user.refresh_token
    assert works(user.service, pair["access_token"])
    assert works(user.service, user.pair["access_token"])
    assert len(user.get("/me/export").json()["sessions"]) == 1


def test_a_form_refreshes(user: User) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": user.refresh_token}
    assert send_form(user.service, "/token", form).status_code == 200


def used_ago(user: User, token: str, seconds: float) -> None:
    """Lets so much time go by since the refresh token was used."""
    used_at = int(time.time() * 1000 - seconds * 1000)
    digest = hashlib.sha256(token.encode()).hexdigest()
    rows(user.service, "UPDATE refresh_token SET used_at = ? WHERE digest = ?", used_at, digest)


def test_a_refresh_token_used_again_at_once_gives_the_very_same_pair(user: User) -> None:
    first, second = (refresh(user.service, user.refresh_token).json() for _ in range(2))
    assert first == second
    assert works(user.service, first["access_token"])
    assert refresh(user.service, first["refresh_token"]).status_code == 200
    assert refresh(user.service, user.refresh_token).json() == first  # though it has been used itself by now


def test_a_refresh_token_used_again_may_ask_for_another_scope(user: User) -> None:
    first, second = (refresh(user.service, user.refresh_token, scope=scope).json() for scope in ("data", "tasks"))
    assert (first["scope"], second["scope"]) == ("data", "tasks")
    assert first["refresh_token"] == second["refresh_token"]
    assert first["access_token"] != second["access_token"]


def test_of_two_lines_of_one_refresh_token_there_is_one_and_the_later_use_ends_it(user: User) -> None:
    thief, owner = (refresh(user.service, user.refresh_token).json()["refresh_token"] for _ in range(2))
    assert thief == owner
    assert refresh(user.service, owner).status_code == 200
    used_ago(user, owner, seconds=11)
    assert refresh(user.service, thief).status_code == 401
    assert is_bad_token(user.get("/me"))


def test_a_successor_is_found_after_the_secret_has_been_rotated(tables: Tables) -> None:
    pair = sessions.start(tables, an_account(tables), "data")
    first = sessions.rotate(tables, pair.refresh_token, [b"old"])
    again = sessions.rotate(tables, pair.refresh_token, [b"new", b"old"])
    assert first is not None
    assert first == again
    lost = sessions.rotate(tables, pair.refresh_token, [b"new"])
    assert lost is not None
    assert lost.refresh_token == ""


def test_a_refresh_token_used_again_later_ends_the_whole_session(user: User) -> None:
    elsewhere = user.login().json()
    pair = refresh(user.service, user.refresh_token).json()
    used_ago(user, user.refresh_token, seconds=11)
    oauth_error(refresh(user.service, user.refresh_token), 401, "invalid_grant")
    assert not works(user.service, pair["access_token"])
    assert not works(user.service, user.pair["access_token"])
    oauth_error(refresh(user.service, pair["refresh_token"]), 401, "invalid_grant")
    assert works(user.service, elsewhere["access_token"])


def test_a_refresh_token_used_again_later_ends_its_session_whatever_scope_it_asks_for(user: User) -> None:
    pair = refresh(user.service, user.refresh_token).json()
    used_ago(user, user.refresh_token, seconds=11)
    oauth_error(refresh(user.service, user.refresh_token, scope="introspect"), 401, "invalid_grant")
    assert not works(user.service, pair["access_token"])


def test_twenty_uses_of_a_refresh_token_at_once_leave_one_session_that_works(user: User) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: refresh(user.service, user.refresh_token), range(20)))
    assert Counter(answer.status_code for answer in answers) == {200: 20}
    assert len({answer.text for answer in answers}) == 1
    assert works(user.service, answers[-1].json()["access_token"])
    assert len(user.get("/me/export").json()["sessions"]) == 1


def test_an_access_token_is_no_refresh_token_and_the_other_way_round(user: User) -> None:
    oauth_error(refresh(user.service, user.pair["access_token"]), 401, "invalid_grant")
    assert is_bad_token(user.service.get("/me", headers=bearer(user.refresh_token)))


@pytest.mark.parametrize("token", ["", "x", "é", "' OR '1'='1", "x" * 500_000])
def test_what_is_no_refresh_token_is_an_invalid_grant(tokens: TokenService, token: str) -> None:
    oauth_error(refresh(tokens, token), 401, "invalid_grant")


def test_a_refresh_token_is_its_users_alone(user: User, other: User) -> None:
    pair = refresh(user.service, user.refresh_token).json()
    assert user.service.get("/me", headers=bearer(pair["access_token"])).json() == user.profile
    assert refresh(other.service, other.refresh_token).status_code == 200


# The same rules by the clock of the database.


def an_account(tables: Tables, name: str = "ada") -> AccountRow:
    return accounts.create(tables, name, f"{name}@example.org", "no hash")


def test_the_grace_of_a_used_refresh_token_is_ten_seconds_and_not_one_millisecond_more(tables: Tables) -> None:
    _, session, token, _ = sessions.start(tables, an_account(tables), "data")
    assert sessions.rotate(tables, token, KEYS)
    tables.clock += GRACE_MS
    again = sessions.rotate(tables, token, KEYS)
    assert again is not None
    assert again.refresh_token
    tables.clock += 1
    replayed = sessions.rotate(tables, token, KEYS)
    assert replayed is not None
    assert replayed.refresh_token == ""
    assert [row for row in sessions.of(tables, session.account_id) if row["id"] == session.id] == []
    assert sessions.rotate(tables, again.refresh_token, KEYS) is None


def test_grace_counts_from_the_first_use_whatever_comes_between(tables: Tables) -> None:
    _, _, token, _ = sessions.start(tables, an_account(tables), "data")
    for _ in range(3):
        rotation = sessions.rotate(tables, token, KEYS)
        assert rotation is not None
        assert rotation.refresh_token
        tables.clock += GRACE_MS // 3
    tables.clock += 1000
    replayed = sessions.rotate(tables, token, KEYS)
    assert replayed is not None
    assert replayed.refresh_token == ""


def test_a_refresh_token_lives_thirty_days(tables: Tables) -> None:
    _, _, token, _ = sessions.start(tables, an_account(tables), "data")
    tables.clock += REFRESH_MS - 1
    rotation = sessions.rotate(tables, token, KEYS)
    assert rotation is not None
    tables.clock += REFRESH_MS
    assert sessions.rotate(tables, rotation.refresh_token, KEYS) is None


def test_a_session_in_use_goes_on_beyond_thirty_days(tables: Tables) -> None:
    account = an_account(tables)
    _, session, token, _ = sessions.start(tables, account, "data")
    for _ in range(4):
        tables.clock += REFRESH_MS * 3 // 4
        rotation = sessions.rotate(tables, token, KEYS)
        assert rotation is not None
        token = rotation.refresh_token
    claims = claims_of(account.id, account.version, session.id)
    assert sessions.holder(tables, claims) == account
    tables.clock += REFRESH_MS
    assert sessions.holder(tables, claims) is None


def test_pruning_deletes_what_is_over_and_nothing_else(tables: Tables) -> None:
    account = an_account(tables)
    sessions.start(tables, account, "data")
    tables.clock += REFRESH_MS // 2
    _, session, token, _ = sessions.start(tables, account, "data")
    assert sessions.prune(tables) == 0
    tables.clock += REFRESH_MS // 2
    assert sessions.prune(tables) == 1
    assert [row["id"] for row in sessions.of(tables, account.id)] == [session.id]
    assert sessions.rotate(tables, token, KEYS)


def test_events_are_kept_for_a_year_and_guesses_at_nobody_not_at_all(tables: Tables) -> None:
    events.record(tables, "ada", "login", "192.0.2.1")
    tables.clock += events.KEPT_MS - 1
    events.record(tables, "ada", "login_failed", "192.0.2.1")
    events.record(tables, events.NO_ACCOUNT, "login_failed", "192.0.2.1")
    assert events.prune(tables) == 1
    assert [event["event"] for event in events.of(tables, "ada")] == ["login", "login_failed"]
    tables.clock += 1
    assert events.prune(tables) == 1
    assert [event["event"] for event in events.of(tables, "ada")] == ["login_failed"]


def test_of_too_many_sessions_the_oldest_ends(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SURPLUS_EVERY", 1)
    ada, bob = an_account(tables), an_account(tables, "bob")
    sessions.start(tables, bob, "data")
    started = [sessions.start(tables, ada, "data") for _ in range(3)]
    more = [Session(ids.new(), ada.id, "data") for _ in range(MAX_SESSIONS - 3)]
    for session in more:
        tables.put(sessions.INSERT, **session._asdict(), now=tables.now, end=tables.now + REFRESH_MS)
    more += [sessions.start(tables, ada, "data").session for _ in range(2)]
    assert [row["id"] for row in sessions.of(tables, ada.id)] == [started[2].session.id, *(one.id for one in more)]
    assert sessions.rotate(tables, started[1].refresh_token, KEYS) is None
    assert sessions.rotate(tables, started[2].refresh_token, KEYS)
    assert len(sessions.of(tables, bob.id)) == 1


def test_surplus_sessions_end_every_now_and_then(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    monkeypatch.setattr(sessions, "SURPLUS_EVERY", 2)
    ada = an_account(tables)
    counts = set()
    for _ in range(200):
        sessions.start(tables, ada, "data")
        counts.add(len(sessions.of(tables, ada.id)))
    assert {3, 4} < counts
    assert max(counts) < 3 + 50


def test_a_refreshed_session_has_only_what_its_account_still_may(tables: Tables) -> None:
    account = an_account(tables)
    _, _, token, _ = sessions.start(tables, account, "data tasks")
    accounts.set_scopes(tables, account.id, ["introspect", "tasks"])
    rotation = sessions.rotate(tables, token, KEYS)
    assert rotation is not None
    assert rotation.session.scope == "tasks"


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
@pytest.mark.parametrize("send", ["json", "form"])
def test_either_token_revoked_ends_its_session_and_no_other(user: User, kind: str, send: str) -> None:
    elsewhere = user.login().json()
    body = {"token": user.pair[kind], "token_type_hint": kind}
    answer = user.service.post("/revoke", body) if send == "json" else send_form(user.service, "/revoke", body)
    assert answer.status_code == 200
    assert is_bad_token(user.get("/me"))
    oauth_error(refresh(user.service, user.refresh_token), 401, "invalid_grant")
    assert works(user.service, elsewhere["access_token"])


def test_a_wrong_hint_does_no_harm(user: User) -> None:
    user.service.post("/revoke", {"token": user.refresh_token, "token_type_hint": "access_token"})
    assert is_bad_token(user.get("/me"))


@pytest.mark.parametrize("token", ["x", "a.b.c", "é", "x" * 500_000])
def test_revoking_what_is_no_token_is_a_200(tokens: TokenService, token: str) -> None:
    assert tokens.post("/revoke", {"token": token}).status_code == 200
    assert send_form(tokens, "/revoke", {"token": token}).status_code == 200


def test_revoking_twice_is_a_200(user: User) -> None:
    answers = [user.service.post("/revoke", {"token": user.refresh_token}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]


def test_an_access_token_that_is_dead_ends_no_session(user: User) -> None:
    dead = user.pair["access_token"]
    change_password(user, keep=user)
    assert user.service.post("/revoke", {"token": dead}).status_code == 200
    assert user.get("/me").status_code == 200


def test_revoking_nothing_is_refused(tokens: TokenService) -> None:
    oauth_error(tokens.post("/revoke", {}), 422, "invalid_request")
    oauth_error(send_form(tokens, "/revoke", ""), 400, "invalid_request")


@pytest.fixture(scope="module")
def introspector(tokens: TokenService) -> User:
    user = User(tokens)
    assert operate(tokens, "grant", user.username, "data", "tasks", "introspect").returncode == 0
    user.take(user.login().json())
    return user


def introspected(introspector: User, token: str) -> dict[str, Any]:
    answer = introspector.post("/introspect", json={"token": token})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


INACTIVE = {"active": False}


def test_introspection_needs_its_scope(tokens: TokenService, user: User) -> None:
    body = oauth_error(user.post("/introspect", json={"token": "x"}), 403, "insufficient_scope")
    assert body["code"] == "insufficient_scope"
    oauth_error(tokens.post("/introspect", {"token": "x"}), 401, "invalid_client", "unauthorized")
    bad = tokens.post("/introspect", {"token": "x"}, headers=bearer("x"))
    oauth_error(bad, 401, "invalid_token")


def test_a_good_access_token_is_active_and_described(introspector: User, user: User) -> None:
    found = introspected(introspector, user.pair["access_token"])
    assert found["exp"] - found["iat"] == 1800 + 10
    assert found["nbf"] == found["iat"]
    assert (found["iss"], found["aud"]) == ("http://localhost:9004", "only_post")
    assert found["client_id"] and found["client_id"] != found["sub"]
    assert (
        found | {"active": True, "sub": user.profile["id"], "username": user.username, "scope": "data tasks"} == found
    )


def test_a_form_introspects(introspector: User, user: User) -> None:
    answer = introspector.post("/introspect", data={"token": user.pair["access_token"]})
    assert answer.json()["active"] is True


def test_a_good_refresh_token_is_active_and_introspecting_does_not_use_it(introspector: User, user: User) -> None:
    found = introspected(introspector, user.refresh_token)
    assert found | {"active": True, "sub": user.profile["id"], "scope": "data tasks"} == found
    used_ago(user, user.refresh_token, seconds=11)
    assert introspected(introspector, user.refresh_token) == INACTIVE


def test_a_refresh_token_that_was_used_is_inactive(introspector: User, user: User) -> None:
    refresh(user.service, user.refresh_token)
    used_ago(user, user.refresh_token, seconds=11)
    assert introspected(introspector, user.refresh_token) == INACTIVE


@pytest.mark.parametrize("token", ["x", "a.b.c", "é", ""])
def test_any_other_text_is_inactive_and_nothing_more(introspector: User, token: str) -> None:
    assert introspected(introspector, token) == INACTIVE


def test_the_tokens_of_an_ended_session_are_inactive(introspector: User, user: User) -> None:
    user.service.post("/revoke", {"token": user.refresh_token})
    assert introspected(introspector, user.pair["access_token"]) == INACTIVE
    assert introspected(introspector, user.refresh_token) == INACTIVE


def test_the_tokens_of_a_disabled_user_are_inactive(introspector: User, user: User) -> None:
    operate(user.service, "disable", user.username)
    assert introspected(introspector, user.pair["access_token"]) == INACTIVE
    assert introspected(introspector, user.refresh_token) == INACTIVE


def revoke(user: User) -> None:
    user.service.post("/revoke", {"token": user.refresh_token})


def delete(user: User) -> None:
    assert user.delete("/me", json={"current_password": user.password}).status_code == 204


def disable(user: User) -> None:
    assert operate(user.service, "disable", user.username).returncode == 0


def change_password(user: User, keep: User | None = None) -> None:
    """In a session of its own, or in that of `keep`, which is the one that goes on."""
    access_token = (keep.pair if keep else user.login().json())["access_token"]
    change = {"current_password": user.password, "password": "an even better password"}
    answer = user.service.request("PATCH", "/me", json=change, headers=bearer(access_token))
    assert answer.status_code == 200
    if keep:
        keep.take(answer.json())


@pytest.mark.parametrize("end", [revoke, delete, disable, change_password])
def test_the_tokens_of_before_stop_at_once(user: User, end: Callable[[User], None]) -> None:
    assert user.get("/me").status_code == 200
    end(user)
    for path in ("/me", "/me/export", "/data"):
        assert is_bad_token(user.get(path))
    oauth_error(refresh(user.service, user.refresh_token), 401, "invalid_grant")


def test_a_user_enabled_again_logs_in_and_has_no_old_session(user: User) -> None:
    disable(user)
    assert operate(user.service, "enable", user.username).returncode == 0
    assert is_bad_token(user.get("/me"))
    oauth_error(refresh(user.service, user.refresh_token), 401, "invalid_grant")
    assert user.login().status_code == 200


def test_an_access_token_ends_after_its_seconds(start_tokens: Callable[..., TokenService]) -> None:
    user = User(start_tokens(ACCESS_TOKEN_SECONDS="1"))
    assert user.pair["expires_in"] == 1
    eventually(lambda: is_bad_token(user.get("/me")), 5)
    user.take(refresh(user.service, user.refresh_token).json())
    assert user.pair["expires_in"] == 1


def test_tokens_are_stored_as_their_sha_256_and_nowhere_else(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens()
    user = User(service)
    pairs = [user.pair, user.login().json(), refresh(service, user.refresh_token).json()]
    digests = {hashlib.sha256(pair["refresh_token"].encode()).hexdigest() for pair in pairs}
    assert {digest for (digest,) in rows(service, "SELECT digest FROM refresh_token")} == digests
    stored = everything(service)
    assert user.username.encode() in stored
    for pair in pairs:
        assert pair["refresh_token"].encode() not in stored
        assert pair["access_token"].rpartition(".")[2].encode() not in stored
    assert user.password.encode() not in stored


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_the_log_of_a_whole_run_holds_no_secret(start_tokens: Callable[..., TokenService], style: str) -> None:
    secret = "a-secret-key-that-must-not-be-seen-in-any-log"
    service = start_tokens(LOG_LEVEL="debug", LOG_FORMAT=style, SECRET_KEY=secret)
    user = User(service, password="kept out of the log")
    data = {"key": "data kept out of the log"}
    seen = [user.pair, user.login().json(), refresh(service, user.refresh_token).json()]
    item = user.add(data, **{"Idempotency-Key": "idempotency-kept-out"})
    user.put(f"/data/{item['id']}", json={"data": data})
    user.login(password="wrong but kept out as well")
    send_form(service, "/token", login_form(user))
    service.get(f"/me?access_token={user.pair['access_token']}")
    service.get("/me", headers=bearer(user.pair["access_token"] + "x"))
    service.request("POST", "/token", data=b'{"password": "broken and kept out')
    user.get("/me/export")
    user.patch("/me", json={"current_password": user.password, "password": "the next one kept out"})
    service.post("/revoke", {"token": seen[1]["refresh_token"]})
    service.terminate()
    log = service.log.read_text()
    assert "audit.login_failed" in log
    assert "kept" not in log
    assert secret not in log
    assert "$argon2" not in log
    for pair in seen:
        assert pair["refresh_token"] not in log
        assert not any(part in log for part in pair["access_token"].split(".")[1:])
    assert not re.search(r"Traceback|ERROR", log)


def test_the_metadata_is_as_rfc_8414_has_it(tokens: TokenService) -> None:
    answer = tokens.get("/.well-known/oauth-authorization-server")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    found = answer.json()
    assert found["issuer"] == "http://localhost:9004"
    assert {"password", "refresh_token", "client_credentials"} == set(found["grant_types_supported"])
    assert found["response_types_supported"] == ["none"]
    assert found["token_endpoint_auth_methods_supported"] == ["none", "client_secret_basic", "client_secret_post"]
    assert found["introspection_endpoint_auth_methods_supported"] == ["client_secret_basic"]
    assert {"data", "tasks", "introspect", "logins"} <= set(found["scopes_supported"])


def test_every_address_of_the_metadata_answers(tokens: TokenService) -> None:
    found = tokens.get("/.well-known/oauth-authorization-server").json()
    for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint"):
        assert requests.post(found[name], json={}, timeout=60).status_code in (401, 422), name
    assert requests.get(found["jwks_uri"], timeout=60).status_code == 200


def test_the_metadata_offers_no_registration_of_oauth_clients(tokens: TokenService) -> None:
    # RFC 8414 §2: a registration_endpoint is one of RFC 7591, which registers clients and not users.
    assert "registration_endpoint" not in tokens.get("/.well-known/oauth-authorization-server").json()


@ON_A_FILE
def test_clients_are_told_the_public_address_and_the_issuer(start_tokens: Callable[..., TokenService]) -> None:
    public = "https://example.com/auth"
    service = start_tokens(PUBLIC_URL=f"{public}/", ISSUER="https://issuer.example.com", AUDIENCE="pictures")
    found = service.get("/.well-known/oauth-authorization-server").json()
    assert found["issuer"] == "https://issuer.example.com"
    assert (found["token_endpoint"], found["jwks_uri"]) == (f"{public}/token", f"{public}/.well-known/jwks.json")
    claims = jwt.get_unverified_claims(User(service).pair["access_token"])
    assert (claims["iss"], claims["aud"]) == ("https://issuer.example.com", "pictures")


@pytest.mark.parametrize("path", ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/openapi.json"])
def test_no_cache_keeps_what_anyone_may_ask_for(tokens: TokenService, path: str) -> None:
    assert tokens.get(path).headers["Cache-Control"] == "no-store"


def test_the_log_says_why_a_token_was_refused_and_the_answer_does_not(tokens: TokenService, user: User) -> None:
    answer = tokens.get("/me", headers=bearer(user.pair["access_token"][:-3]))
    assert answer.json()["detail"] == "the token is not valid"
    user.post("/revoke", json={"token": user.refresh_token})
    assert is_bad_token(user.get("/me"))
    for reason, request_id in (("signature", answer.headers["X-Request-ID"]), ("its session is over", "")):

        def is_logged(reason: str = reason, request_id: str = request_id) -> bool:
            lines = [line for line in tokens.log.read_text().splitlines() if "event=auth.refused" in line]
            return any(reason in line and request_id in line for line in lines)

        eventually(is_logged)


def test_no_key_is_published_while_it_is_a_shared_secret(tokens: TokenService) -> None:
    assert tokens.get("/.well-known/jwks.json").json() == {"keys": []}
