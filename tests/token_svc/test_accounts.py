"""POST /register and everything under /me."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.databases import ON_A_FILE, rows, shared_by_tests, tables
from tests.processes import TokenService, eventually
from tests.token_svc.answers import faults, is_bad_token, problem
from tests.token_svc.users import PASSWORD, User, form_of, fresh_name, refresh
from token_svc import accounts, emails, names
from token_svc.models.accounts import ChangeRequest, PasswordRequest, RegisterRequest
from token_svc.models.tokens import TokenOnlyRequest, TokenRequest
from token_svc.passwords import Passwords

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def register(service: TokenService, **changes: Any) -> requests.Response:
    return service.post("/register", form_of(**changes))


def test_registering_answers_201_with_a_pair_of_tokens_and_the_user(tokens: TokenService) -> None:
    body = form_of()
    answer = tokens.post("/register", body)
    assert answer.status_code == 201
    pair = answer.json()
    user = pair.pop("user")
    assert ID.fullmatch(user.pop("id"))
    assert TIME.fullmatch(user.pop("created_at"))
    assert user == {"username": body["username"], "email": body["email"]}
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", pair.pop("access_token"))
    assert len(pair.pop("refresh_token")) >= 40
    assert pair == {"token_type": "Bearer", "expires_in": 1800, "scope": "data tasks"}


def test_what_registering_gave_is_good_at_once(user: User) -> None:
    assert user.get("/me").json() == user.profile
    assert refresh(user.service, user.refresh_token).status_code == 200
    assert user.login().status_code == 200


WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"/username", "/password", "/email"}),
    ({"username": "ada", "password": PASSWORD}, {"/email"}),
    ({"username": "a", "password": "x"}, {"/username", "/password", "/email"}),
    ({"username": "a", "password": "x", "email": "none", "q": 1}, {"/username", "/password", "/email", "/q"}),
    ({"username": "ada", "password": "ada-ada-ada", "email": 5}, {"/password", "/email"}),
    ({**form_of(), "username": 5}, {"/username"}),
    ({**form_of(), "password": None}, {"/password"}),
    ({**form_of(), "email": ["a@example.org"]}, {"/email"}),
    ({**form_of(), "scope": "introspect"}, {"/scope"}),
    ({**form_of(), "is_admin": True, "id": "x"}, {"/is_admin", "/id"}),
    ({"username": "x", "password": "short", "email": "none"}, {"/username", "/password", "/email"}),
]


@pytest.mark.parametrize(("body", "pointers"), WRONG)
def test_a_registration_of_the_wrong_shape_is_refused_where_it_is_wrong(
    tokens: TokenService, body: dict[str, Any], pointers: set[str]
) -> None:
    assert faults(tokens.post("/register", body)).keys() == pointers


def test_a_closed_service_takes_no_new_users_and_lets_the_old_ones_in(
    start_tokens: Callable[..., TokenService],
) -> None:
    service = start_tokens()
    user = User(service)
    service.terminate()
    user.service = start_tokens(REGISTRATION="closed")
    problem(register(user.service), 403, "registration_closed")
    assert user.login().status_code == 200


SCRIPTS = ["Ünïcödé", "Ελένη", "Дмитрий", "משתמש", "مستخدم", "用户名", "०१२", "हिन्दी", "สมศรี", "தமிழ்", "ትግርኛ"]


@pytest.mark.parametrize("username", ["abc", "a" * 64, "Ada.Lovelace_1-2", "e\u0301" * 64, *SCRIPTS])
def test_letters_and_digits_of_any_script_make_a_username(tokens: TokenService, username: str) -> None:
    answer = register(tokens, username=username)
    assert answer.status_code == 201
    assert answer.json()["user"]["username"] == username
    assert User.login_as(tokens, username).status_code == 200


REFUSED_NAMES = {
    "empty": "",
    "two letters": "ab",
    "65 letters": "a" * 65,
    "one megabyte": "a" * 1_000_000,
    "long once folded": "ﷺ" * 4,
    "space inside": "ada lovelace",
    "trailing space": "adalovelace ",
    "NBSP": "ada\u00a0lovelace",
    "zero-width space": "ada\u200blovelace",
    "zero-width joiner": "ada\u200dlovelace",
    "soft hyphen": "ada\u00adlovelace",
    "variation selector": "adalovelace\ufe0f",
    "right-to-left override": "\u202eada",
    "byte order mark": "\ufeffada",
    "Hangul filler": "ada\u3164lovelace",
    "only Hangul fillers": "\u3164\u115f\u1160",
    "Hangul initial filler": "ada\u115flovelace",
    "half-width Hangul filler": "ada\uffa0lovelace",
    "folds to a slash": "ada½",
    "folds to brackets": "ada⑴",
    "folds to spaces": "adaﷺ",
    "emoji": "ada🙂",
    "line break": "ada\nlovelace",
    "at": "ada@example",
    "colon": "ada:lovelace",
    "slash": "../ada",
    "quote": "ada'--",
    "percent": "ada%",
    "full-width at": "ada＠example",
    "unassigned": "ada\U000e0fff",
    "private use": "ada\ue000",
    "a mark before all letters": "\u0301ada",
    "a mark on a dot": "ada.\u0301",
    "five marks on a letter": "ada" + "\u0363" * 5,
    "an enclosing mark": "ada\u20dd",
    "a combining grapheme joiner": "ada\u034f",
    "marks without end": "a" + "\u0301" * 100_000,
}


@pytest.mark.parametrize("username", REFUSED_NAMES.values(), ids=REFUSED_NAMES)
def test_any_other_character_or_length_in_a_username_is_refused(tokens: TokenService, username: str) -> None:
    assert faults(tokens.post("/register", {**form_of(), "username": username})).keys() == {"/username"}


SAME_NAMES = {
    "case": ("{}admin", "{}ADMIN"),
    "full-width": ("{}admin", "{}ＡＤＭＩＮ"),
    "Kelvin sign": ("{}kelvin", "{}\u212aelvin"),
    "sharp s": ("{}straße", "{}STRASSE"),
    "capital sharp s": ("{}straße", "{}STRAẞE"),
    "final sigma": ("{}ΟΔΟΣ", "{}οδος"),
    "ligature": ("{}field", "{}ﬁeld"),
    "NFC and NFD": ("{}josé", unicodedata.normalize("NFD", "{}josé")),
    "circled digit": ("{}1st", "{}①st"),
    "long s": ("{}ship", "{}ſhip"),
}


@pytest.mark.parametrize(("first", "second"), SAME_NAMES.values(), ids=SAME_NAMES)
def test_two_spellings_of_a_username_are_one_name(tokens: TokenService, first: str, second: str) -> None:
    prefix = fresh_name("n")
    assert register(tokens, username=first.format(prefix)).status_code == 201
    problem(register(tokens, username=second.format(prefix)), 409, "username_taken")
    assert User.login_as(tokens, second.format(prefix)).status_code == 200


OTHER_NAMES = {
    "Cyrillic а": ("{}admin", "{}аdmin"),
    "Turkish dotted capital I": ("{}izmir", "{}İzmir"),
    "Turkish dotless small i": ("{}izmir", "{}ızmir"),
    "accent": ("{}jose", "{}josé"),
    "dots": ("{}a.b", "{}ab"),
}


@pytest.mark.parametrize(("first", "second"), OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_names_that_only_look_alike_are_two(tokens: TokenService, first: str, second: str) -> None:
    prefix = fresh_name("n")
    ids = {register(tokens, username=name.format(prefix)).json()["user"]["id"] for name in (first, second)}
    assert len(ids) == 2


def test_folding_a_folded_name_changes_nothing() -> None:
    characters = [chr(point) for point in range(0x20, 0x3000)] + [chr(point) for point in range(0xF900, 0xFFF0)]
    made = [a + b for a, b in zip(characters, reversed(characters), strict=True)]
    assert [name for name in made if names.fold(names.fold(name)) != names.fold(name)] == []


def test_of_twenty_registrations_of_one_name_at_once_one_is_taken(tokens: TokenService) -> None:
    name = fresh_name()

    def one(number: int) -> tuple[int, str]:
        spelling = name.upper() if number % 2 else name
        while (answer := register(tokens, username=spelling)).json().get("code") == "busy":
            pass  # a machine with one core has no room for twenty passwords at once
        return answer.status_code, answer.json().get("code", "")

    with ThreadPoolExecutor(20) as pool:
        assert Counter(pool.map(one, range(20))) == {(201, ""): 1, (409, "username_taken"): 19}
    assert len(rows(tokens, "SELECT 1 FROM account WHERE username_key = ?", name)) == 1


@pytest.mark.parametrize(
    "email",
    [
        "a@b",
        "first.last+tag@sub.example.org",
        "δοκιμή@παράδειγμα.δοκιμή",
        "a" * 64 + "@example.org",
        f"{'a' * 64}@{'b' * 63}.{'b' * 62}.{'b' * 62}",
        f"a@{'b' * 63}.{'b' * 62}.{'b' * 62}.{'b' * 62}",
    ],
    ids=lambda email: email[:12],
)
def test_addresses_that_can_exist_are_taken_as_they_are(tokens: TokenService, email: str) -> None:
    answer = register(tokens, email=email)
    assert answer.status_code == 201
    assert answer.json()["user"]["email"] == email


REFUSED_EMAILS = ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n", "a@b c", "<a@b>", "a,b@c", "a" * 65 + "@b"]
REFUSED_EMAILS += [f"{'a' * 64}@{'b' * 63}.{'b' * 63}.{'b' * 62}", f"aa@{'b' * 63}.{'b' * 62}.{'b' * 62}.{'b' * 62}"]
REFUSED_EMAILS += [f"a@{'.'.join(['ü' * 57] * 4)}"]
REFUSED_EMAILS += ["a@b..c", "a@.b", f"a@{'b' * 64}.c", f"a@{'ü' * 60}.c"]
REFUSED_EMAILS += ["a@" + "b" * 190, "a\u00a0b@c", "a@b\u2028", "x" * 1_000_000]


@pytest.mark.parametrize("email", REFUSED_EMAILS, ids=lambda email: repr(email[:12]))
def test_what_is_no_email_address_is_refused(tokens: TokenService, email: str) -> None:
    assert faults(tokens.post("/register", {**form_of(), "email": email})).keys() == {"/email"}


SAME_EMAILS = {
    "case": ("{}@example.com", "{}@EXAMPLE.com"),
    "IDNA": ("{}@bücher.example", "{}@xn--bcher-kva.example"),
    "IDNA in capitals": ("{}@BÜCHER.example", "{}@XN--BCHER-KVA.example"),
    "decomposed": ("{}@bücher.example", "{}@bu\u0308cher.example"),
    "full-width": ("{}@example.com", "{}@ｅｘａｍｐｌｅ．com"),
    "the root's dot": ("{}@example.com", "{}@example.com."),
    "another full stop": ("{}@example.com", "{}@example。com"),
    "a zero-width space": ("{}@example.com", "{}@exa\u200bmple.com"),
    "a soft hyphen": ("{}@example.com", "{}\u00ad@example.com"),
    "a variation selector": ("{}@example.com", "{}@example.com\ufe0f"),
    "an emoji": ("{}@i❤.ws", "{}@I❤.ws"),
    "IDNA beside an underscore": ("{}@foo_bar.bücher.example", "{}@FOO_bar。xn--bcher-kva.example"),
}


@pytest.mark.parametrize(("first", "second"), SAME_EMAILS.values(), ids=SAME_EMAILS)
def test_two_spellings_of_an_address_are_one(first: str, second: str) -> None:
    assert emails.key(first.format("ann")) == emails.key(second.format("ann"))
    assert emails.key(first.format("ann")) != emails.key(second.format("anna"))


def test_an_address_is_one_users_however_it_is_spelled(tokens: TokenService) -> None:
    user = User(tokens, email=f"{fresh_name()}@bücher.example")
    spelled = user.profile["email"].upper().replace("BÜCHER", "xn--bc\u200bher-kva") + "."
    problem(register(tokens, email=spelled), 409, "email_taken")
    other = User(tokens)
    change = {"current_password": other.password, "email": spelled}
    problem(other.patch("/me", json=change), 409, "email_taken")
    assert user.patch("/me", json={"current_password": user.password, "email": spelled}).status_code == 200


def test_an_address_is_kept_without_what_is_not_seen(tokens: TokenService) -> None:
    name = fresh_name()
    assert User(tokens, email=f"{name}@exa\u200bmple.com.").profile["email"] == f"{name}@example.com"


def test_the_email_logs_in_as_the_username_does(user: User) -> None:
    assert User.login_as(user.service, user.profile["email"].upper()).status_code == 200
    assert User.login_as(user.service, user.profile["email"], "wrong password").status_code == 401


def test_a_password_has_its_length_in_composed_characters(tokens: TokenService) -> None:
    assert faults(tokens.post("/register", form_of(password="e\u0301" * 4))).keys() == {"/password"}
    assert User(tokens, password="x\u0323\u0302" * 8).login().status_code == 200
    long = "e\u0301" * 1024
    assert User(tokens, password=long).login(password="é" * 1024).status_code == 200
    assert faults(tokens.post("/register", form_of(password=f"{long}x"))).keys() == {"/password"}


TAKEN_PASSWORDS = {
    "eight characters": "q8#Lm0zV",
    "1,024 characters": "x1" * 512,
    "only digits": "8350176249",
    "spaces": "  a b c d  ",
    "emoji": "🙂🙃🙂🙃🙂🙃🙂🙃",
    "any script": "пароль密码كلمة",
    "control characters": "tab\tbell\x07\u2028end",
    "1,024 of four bytes": "🙂" * 1024,
}


@pytest.mark.parametrize("password", TAKEN_PASSWORDS.values(), ids=TAKEN_PASSWORDS)
def test_any_unicode_makes_a_password_and_every_character_of_it_counts(tokens: TokenService, password: str) -> None:
    user = User(tokens, password=password)
    assert user.login().status_code == 200
    assert user.login(password=password[:-1]).status_code == 401
    assert user.login(password=password[:-1] + "z").status_code == 401


def test_the_73rd_byte_of_a_password_matters(tokens: TokenService) -> None:
    user = User(tokens, password="q" * 72 + "a")
    assert user.login(password="q" * 72 + "b").status_code == 401
    assert user.login(password="q" * 72).status_code == 401
    assert user.login().status_code == 200


def test_a_password_is_the_same_from_every_keyboard(tokens: TokenService) -> None:
    typed = {form: unicodedata.normalize(form, "pässwörter-für-jede-tastatur") for form in ("NFC", "NFD")}
    assert typed["NFC"] != typed["NFD"]
    for sent, typed_later in (("NFC", "NFD"), ("NFD", "NFC")):
        user = User(tokens, password=typed[sent])
        assert user.login(password=typed[typed_later]).status_code == 200


def test_compatible_characters_are_not_the_same_password(tokens: TokenService) -> None:
    assert User(tokens, password="secret-x²-secret").login(password="secret-x2-secret").status_code == 401


COMMON = ["password", "PassWord", "12345678", "iloveyou", "qwertyuiop", "ｐａｓｓｗｏｒｄ１", " " * 12, "\u3000" * 12]
REFUSED_PASSWORDS = ["", "q8#Lm0z", "x" * 1025, "x" * 1_000_000, *COMMON]


@pytest.mark.parametrize("password", REFUSED_PASSWORDS, ids=lambda password: repr(password[:12]))
def test_a_short_a_huge_or_a_common_password_is_refused(tokens: TokenService, password: str) -> None:
    assert faults(tokens.post("/register", {**form_of(), "password": password})).keys() == {"/password"}


@pytest.mark.parametrize("password", ["Adalovelace", "adalovelace1", "1adalovelace!", "ADALOVELACEadalovelace"])
def test_a_password_made_of_the_username_is_refused(tokens: TokenService, password: str) -> None:
    assert faults(register(tokens, username="adalovelace", password=password)).keys() == {"/password"}


@pytest.mark.parametrize("password", ["countess@example.org", "Countess99", "countess@example.org1"])
def test_a_password_made_of_the_email_is_refused(tokens: TokenService, password: str) -> None:
    assert faults(register(tokens, email="countess@example.org", password=password)).keys() == {"/password"}


def test_a_password_that_only_contains_the_username_is_taken(tokens: TokenService) -> None:
    name = fresh_name()
    User(tokens, username=name, password=f"{name} likes long walks")


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00x", r"\u0000"], ids=["high", "low", "NUL"])
@pytest.mark.parametrize("path", ["/register", "/token"])
def test_half_a_surrogate_pair_or_nul_in_a_password_is_no_json(tokens: TokenService, path: str, escape: str) -> None:
    body = json.dumps({**form_of(), "password": "-*-"} if path == "/register" else {"username": "a", "password": "-*-"})
    answer = tokens.request("POST", path, data=body.replace("-*-", "long enough" + escape).encode())
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@ON_A_FILE
def test_the_least_length_is_a_setting(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(PASSWORD_MIN_LENGTH="15")
    assert faults(register(service, password="fourteen chars")) == {"/password": "must have at least 15 characters"}
    assert register(service, password="fifteen chars ok").status_code == 201


def test_why_a_password_is_refused_is_known_without_hashing_it(tmp_path: Path) -> None:
    passwords = Passwords(min_length=8)
    passwords.close()  # its threads take no more work: a hash would fail
    assert passwords.fault("x" * 1_000_000, "ada", "a@b")
    assert passwords.fault("password", "ada", "a@b")


def test_me_is_the_profile_and_nothing_more(user: User) -> None:
    assert user.get("/me").json().keys() == {"id", "username", "email", "email_verified", "created_at"}


def test_a_new_email_is_shown_and_frees_the_old_one(user: User) -> None:
    old, new = user.profile["email"], f"{fresh_name()}@example.org"
    answer = user.patch("/me", json={"current_password": user.password, "email": new})
    assert (answer.status_code, answer.json()) == (200, {**user.profile, "email": new})
    assert user.get("/me").json()["email"] == new
    assert register(user.service, email=old).status_code == 201


def test_the_case_of_ones_own_email_may_change(user: User) -> None:
    new = user.profile["email"].upper()
    assert user.patch("/me", json={"current_password": user.password, "email": new}).json()["email"] == new


def test_anothers_email_is_refused_and_nothing_changes(user: User, other: User) -> None:
    change = {"current_password": user.password, "email": other.profile["email"], "password": "another good one"}
    problem(user.patch("/me", json=change), 409, "email_taken")
    assert user.get("/me").json() == user.profile
    assert user.login().status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_wrong_current_password_is_a_403_and_changes_nothing(user: User, method: str) -> None:
    body = {"current_password": "not the right one"}
    if method == "PATCH":
        body["password"] = "a good new password"
    problem(user.request(method, "/me", json=body), 403, "wrong_password")
    assert user.get("/me").status_code == 200
    assert user.login().status_code == 200


CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"current_password": PASSWORD, "email": "none"}, {"/email"}),
    ({"current_password": PASSWORD, "password": "short"}, {"/password"}),
    ({"current_password": PASSWORD, "password": "password"}, {"/password"}),
    ({"current_password": PASSWORD, "password": 12345678}, {"/password"}),
    ({"current_password": PASSWORD, "username": "another"}, {"/username"}),
    ({"email": "a@example.org"}, {"/current_password"}),
    ({"current_password": None}, {"/current_password"}),
    ({"password": "short", "email": "bad"}, {"/current_password", "/password", "/email"}),
    ({"current_password": "wrong", "password": "short", "email": 5}, {"/password", "/email"}),
]


@pytest.mark.parametrize(("body", "pointers"), CHANGES)
def test_a_change_of_the_wrong_shape_is_refused_where_it_is_wrong(
    user: User, body: dict[str, Any], pointers: set[str]
) -> None:
    assert faults(user.patch("/me", json=body)).keys() == pointers


def test_a_new_password_may_not_be_made_of_the_new_email(user: User) -> None:
    change = {"current_password": user.password, "email": "newcountess@example.org", "password": "newcountess1"}
    assert faults(user.patch("/me", json=change)).keys() == {"/password"}


def test_a_new_password_works_and_the_old_one_does_not(user: User) -> None:
    new = "an even better password"
    assert user.patch("/me", json={"current_password": user.password, "password": new}).status_code == 200
    assert user.login().status_code == 401
    assert user.login(password=new).status_code == 200


def test_a_new_password_ends_every_other_session_and_goes_on_with_this_one(user: User) -> None:
    elsewhere = user.login().json()
    again = refresh(user.service, user.refresh_token).json()["refresh_token"]
    change = {"current_password": user.password, "password": "an even better password"}
    changed = user.patch("/me", json=change).json()
    assert is_bad_token(user.service.get("/me", headers={"Authorization": f"Bearer {elsewhere['access_token']}"}))
    assert refresh(user.service, elsewhere["refresh_token"]).status_code == 401
    assert is_bad_token(user.get("/me"))  # an access token from before
    for before in (user.refresh_token, again):
        assert refresh(user.service, before).status_code == 401
    user.take(changed)
    assert user.get("/me").json() == {name: changed[name] for name in user.profile}
    assert refresh(user.service, user.refresh_token).status_code == 200


def delete(user: User) -> requests.Response:
    return user.delete("/me", json={"current_password": user.password})


def test_deleting_answers_204_without_a_body(user: User) -> None:
    answer = delete(user)
    assert (answer.status_code, answer.content) == (204, b"")


def test_deleting_needs_the_password(user: User) -> None:
    assert faults(user.delete("/me", json={})).keys() == {"/current_password"}
    assert user.delete("/me").status_code == 400
    assert user.get("/me").status_code == 200


def test_a_deleted_user_is_let_in_no_more(user: User) -> None:
    user.add("mine")
    delete(user)
    assert is_bad_token(user.get("/me"))
    assert is_bad_token(user.get("/data"))
    assert refresh(user.service, user.refresh_token).status_code == 401
    assert user.login().status_code == 401


@pytest.fixture(scope="module")
def counting(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """Where failed logins are counted."""
    limits = "login=10/minute"
    with shared_by_tests(TokenService, storage, tmp_path_factory.mktemp("counting"), RATE_LIMITS=limits) as service:
        yield service


def test_of_a_deleted_user_nothing_is_left_in_any_table(counting: TokenService) -> None:
    user = User(counting, username="somebody-to-forget", email="forget@example.org")
    user.add("a secret to forget", **{"Idempotency-Key": "a-key-to-forget"})
    user.login(password="not the right one")
    user.login()
    assert delete(user).status_code == 204
    needles = ("forget", user.profile["id"])

    def left() -> dict[str, Any]:
        found = {table: rows(counting, f"SELECT * FROM {table}") for table in tables(counting) if table != "migration"}
        return {table: rows for table, rows in found.items() if any(needle in str(rows) for needle in needles)}

    eventually(lambda: left() == {})


def test_the_name_of_a_deleted_user_can_be_had_again_and_brings_no_old_token_back(user: User) -> None:
    delete(user)
    heir = User(user.service, username=user.username, email=user.profile["email"])
    assert heir.profile["id"] != user.profile["id"]
    assert is_bad_token(user.get("/me"))
    assert refresh(user.service, user.refresh_token).status_code == 401
    assert heir.get("/data").json()["items"] == []


def test_the_export_has_everything_there_is(user: User) -> None:
    added = [user.add({"n": n}) for n in range(45)]
    user.login()
    export = user.get("/me/export")
    assert (export.status_code, export.headers["Content-Type"]) == (200, "application/json")
    found = export.json()
    assert found["user"] == {**user.profile, "scope": "data tasks", "is_disabled": False}
    assert [(one["kind"], one["failures"]) for one in found["attempts"]] == [("known", 0), ("mail", 1)]
    assert found["items"] == added
    assert [one["refreshed_at"] for one in found["sessions"]] == [None, None]
    assert [event["event"] for event in found["events"]] == ["registered", "login"]


def test_the_export_has_the_logins_that_failed(counting: TokenService) -> None:
    user = User(counting)
    for _ in range(2):
        user.login(password="not the right one")
    found = user.get("/me/export").json()["attempts"]
    assert [(one["kind"], one["address"], one["failures"]) for one in found] == [
        ("known", "127.0.0.1", 0),
        ("login", "127.0.0.1", 2),
        ("mail", hashlib.sha256(user.profile["email"].encode()).hexdigest(), 1),
    ]
    assert all(TIME.fullmatch(one["at"]) for one in found)


def test_the_export_is_streamed(user: User) -> None:
    for _ in range(3):
        user.add("x" * 500_000)
    export = user.get("/me/export", stream=True)
    assert export.headers["Transfer-Encoding"] == "chunked"
    assert len(json.loads(export.content)["items"]) == 3


def test_the_export_has_no_hash_and_no_token(user: User) -> None:
    (stored,) = rows(user.service, "SELECT password_hash FROM account WHERE id = ?", user.profile["id"])
    digests = rows(user.service, "SELECT digest FROM refresh_token")
    export = user.get("/me/export").text
    assert not any(secret in export for secret in (stored[0], "$argon2", user.refresh_token, user.pair["access_token"]))
    assert not any(digest in export for (digest,) in digests)


def test_an_export_has_nothing_of_another_user(user: User, other: User) -> None:
    other.add("another's")
    export = user.get("/me/export").text
    assert other.profile["id"] not in export
    assert "another's" not in export


SECRETS = [
    RegisterRequest("ada", "hunter2", "ada@example.org"),
    TokenRequest(username="ada", password="hunter2"),
    TokenRequest("refresh_token", refresh_token="hunter2"),
    TokenOnlyRequest("hunter2"),
    ChangeRequest("hunter2", "ada@example.org", "hunter2"),
    PasswordRequest("hunter2"),
    accounts.AccountRow("id", "ada", "ada@example.org", "hunter2", "data", 1, 0, 0),
]


@pytest.mark.parametrize("made", SECRETS, ids=lambda made: type(made).__name__)
def test_no_repr_shows_a_password_a_hash_or_a_token(made: object) -> None:
    assert "hunter2" in str(made.__reduce_ex__(2))  # it is there
    for shown in (repr(made), str(made), f"{made}", repr([made])):
        assert "hunter2" not in shown


def test_what_the_database_says_is_in_the_log_and_not_in_the_answer(start_tokens: Callable[..., TokenService]) -> None:
    user = User(start_tokens())
    rows(user.service, "ALTER TABLE item RENAME TO moved")
    for answer in (user.get("/data"), user.get(f"/data/{user.profile['id']}"), user.post("/data", json={"data": 1})):
        body = problem(answer, 503, "database_unavailable")
        assert answer.headers["Retry-After"]
        assert not re.search("item|table|moved|sql", answer.text, re.IGNORECASE), body
    assert re.search("no such table|does not exist", user.service.log.read_text())
