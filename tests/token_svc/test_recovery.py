"""Forgotten passwords and verified addresses: the tokens of mails, and what they are good for."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.commands import command
from tests.databases import everything, rows
from tests.mail import TOKEN, files_of, text_of, token_in, written_to
from tests.processes import TokenService, eventually
from tests.token_svc.answers import faults, is_bad_token, problem
from tests.token_svc.users import PASSWORD, User, form_of, fresh_name, operate, refresh
from token_svc.mail.outbox import RATE, RESET
from token_svc.mail.tokens import LIFETIME_MS

NEW_PASSWORD = "an even better password"
RESETTING, CONFIRMING = "new password", "Confirm"


def forgot(service: TokenService, email: str) -> requests.Response:
    answer = service.post("/password/forgot", {"email": email})
    assert (answer.status_code, answer.json()) == (202, {}), answer.text
    return answer


def reset(service: TokenService, token: str, password: str = NEW_PASSWORD) -> requests.Response:
    return service.post("/password/reset", {"token": token, "password": password})


def verify(service: TokenService, token: str) -> requests.Response:
    return service.post("/email/verify", {"token": token})


def email_of(user: User) -> str:
    return str(user.profile["email"])


def reset_token(user: User) -> str:
    forgot(user.service, email_of(user))
    return token_in(written_to(user.service, email_of(user), RESETTING))


def verify_mail(user: User, nth: int = 1) -> EmailMessage:
    return written_to(user.service, email_of(user), CONFIRMING, nth)


def is_bad(answer: requests.Response) -> bool:
    problem(answer, 400, "invalid_token")
    return True


def test_a_reset_gives_a_new_pair_and_ends_everything_before_it(user: User) -> None:
    other_session = user.login().json()
    token = reset_token(user)
    answer = reset(user.service, token)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert is_bad_token(user.get("/me"))
    for old in (user.refresh_token, other_session["refresh_token"]):
        assert refresh(user.service, old).status_code == 401
    assert user.login().status_code == 401
    user.take(answer.json())
    assert user.get("/me").json()["email_verified"] is True
    assert user.login(password=NEW_PASSWORD).status_code == 200
    assert refresh(user.service, user.refresh_token).status_code == 200
    assert "password_reset" in str(user.get("/me/export").json()["events"])


@pytest.mark.parametrize(
    ("body", "pointers"),
    [({"password": "short"}, {"/token", "/password"}), ({"token": 5, "password": "short"}, {"/token", "/password"})],
)
def test_all_that_is_wrong_with_a_reset_is_told(tokens: TokenService, body: Any, pointers: set[str]) -> None:
    assert faults(tokens.post("/password/reset", body)).keys() == pointers


def test_a_token_works_once(user: User) -> None:
    token = reset_token(user)
    assert reset(user.service, token).status_code == 200
    assert is_bad(reset(user.service, token))


def test_of_twenty_at_once_one_succeeds(user: User) -> None:
    token = reset_token(user)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: reset(user.service, token, f"{NEW_PASSWORD} {n}"), range(20)))
    good = [number for number, answer in enumerate(answers) if answer.status_code == 200]
    assert len(good) == 1
    assert {answer.status_code for answer in answers} <= {200, 400, 503}  # busy: too many hashes at once
    assert user.login(password=f"{NEW_PASSWORD} {good[0]}").status_code == 200


def test_a_token_of_before_a_new_address_is_refused(user: User) -> None:
    token = reset_token(user)
    body = {"current_password": user.password, "email": f"{fresh_name()}@example.org"}
    assert user.patch("/me", json=body).status_code == 200
    assert is_bad(reset(user.service, token))


def test_a_token_of_before_a_new_password_is_refused(user: User) -> None:
    token = reset_token(user)
    body = {"current_password": user.password, "password": NEW_PASSWORD}
    assert user.patch("/me", json=body).status_code == 200
    assert is_bad(reset(user.service, token, "yet another good password"))


def test_the_token_of_a_disabled_or_deleted_user_is_refused(user: User, other: User) -> None:
    tokens = [reset_token(one) for one in (user, other)]
    assert operate(user.service, "disable", user.username).returncode == 0
    assert other.delete("/me", json={"current_password": other.password}).status_code == 204
    for token in tokens:
        assert is_bad(reset(user.service, token))


def test_a_token_is_too_old_after_half_an_hour(user: User) -> None:
    token = reset_token(user)
    sql = "UPDATE mail_token SET expires_at = expires_at - ? WHERE account_id = ? AND kind = 'reset'"
    rows(user.service, sql, LIFETIME_MS[RESET], user.profile["id"])
    assert LIFETIME_MS[RESET] == 30 * 60 * 1000
    assert is_bad(reset(user.service, token))


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 100_000, "💥", '"'])
def test_what_is_no_token_is_one_and_the_same_400(tokens: TokenService, token: str) -> None:
    answers = [problem(call, 400, "invalid_token") for call in (reset(tokens, token), verify(tokens, token))]
    assert answers[0]["detail"] == answers[1]["detail"] == "the token was used, is too old, or is none"


def test_a_token_of_one_kind_is_none_of_the_other(user: User) -> None:
    assert is_bad(reset(user.service, token_in(verify_mail(user))))
    assert is_bad(verify(user.service, reset_token(user)))


def test_a_bad_new_password_is_told_and_the_token_goes_on_working(user: User) -> None:
    token = reset_token(user)
    assert reset(user.service, token, "password").status_code == 422
    assert reset(user.service, token, user.username).status_code == 422
    assert reset(user.service, token).status_code == 200


def test_an_address_is_found_in_any_spelling(user: User) -> None:
    forgot(user.service, email_of(user).upper())
    assert written_to(user.service, email_of(user), RESETTING)


def test_an_unknown_address_gets_the_same_answer_and_no_mail(tokens: TokenService, user: User) -> None:
    def anonymous(answer: requests.Response) -> tuple[object, ...]:
        changing = ("x-request-id", "date")
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in changing}
        return answer.status_code, answer.content, headers

    unknown = f"{fresh_name()}@example.org"
    answers = [anonymous(forgot(tokens, one)) for one in (unknown, email_of(user), "nonsense", "", "a@b@c")]
    assert all(answer == answers[0] for answer in answers)
    written_to(tokens, email_of(user), RESETTING)
    eventually(lambda: rows(tokens, "SELECT count(*) FROM mail") == [(0,)], 30)
    assert not any(one["To"] in (unknown, "nonsense") for one in files_of(tokens))


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_an_unknown_address_takes_as_long_as_a_known_one(tokens: TokenService) -> None:
    """Two addresses that were asked for as often, each first in turn, so that a busy machine slows both, and not while
    a mail is on its way, which slows what comes next."""
    session = requests.Session()

    def seconds(email: str) -> float:
        eventually(lambda: rows(tokens, "SELECT 1 FROM mail LIMIT 1") == [], 30, every=0.005)
        started = time.perf_counter()
        session.post(f"{tokens.url}/password/forgot", json={"email": email}, timeout=60)
        return time.perf_counter() - started

    def pairs_of(known: str) -> Iterator[tuple[float, float]]:
        unknown = f"x{known}"
        seconds(unknown)  # as the known one, which got a mail at its registration
        for _ in range(RATE[0] // 2):
            yield seconds(known), seconds(unknown)
            yield (seconds(unknown), seconds(known))[::-1]

    pairs = [pair for _ in range(25) for pair in pairs_of(email_of(User(tokens)))]
    longer = sum(known > unknown for known, unknown in pairs)
    assert len(pairs) == 100
    assert 22 <= longer <= 78, longer  # of 100 fair tosses: 5.6 standard deviations


def test_an_address_gets_five_mails_an_hour(user: User) -> None:
    other = User(user.service)
    for _ in range(RATE[0] + 2):
        forgot(user.service, email_of(user))
    forgot(user.service, email_of(other))
    written_to(user.service, email_of(other), RESETTING)
    eventually(lambda: rows(user.service, "SELECT count(*) FROM mail") == [(0,)], 30)
    assert len(files_of(user.service, email_of(user))) == RATE[0] == 5  # the one of the registration among them


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_who_asks_too_often_is_limited(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(RATE_LIMITS="register=3/minute")
    found = [service.post("/password/forgot", {"email": f"{n}@example.org"}) for n in range(4)]
    assert [answer.status_code for answer in found] == [202, 202, 202, 429]
    assert int(found[-1].headers["Retry-After"]) >= 1


def test_no_token_is_stored_or_logged(user: User) -> None:
    found = [reset_token(user), token_in(verify_mail(user))]
    stored, log = everything(user.service), user.service.log.read_bytes()
    for token in found:
        assert TOKEN.fullmatch(token)
        assert token.encode() not in stored
        assert token.encode() not in log


# Verified addresses.


def test_the_mail_at_registration_verifies_the_address(user: User) -> None:
    assert user.get("/me").json()["email_verified"] is False
    token = token_in(verify_mail(user))
    answer = verify(user.service, token)
    assert (answer.status_code, answer.json()) == (200, {"email": email_of(user), "email_verified": True})
    assert user.get("/me").json()["email_verified"] is True
    assert is_bad(verify(user.service, token))


def test_a_new_address_has_to_be_verified_anew(user: User) -> None:
    old = token_in(verify_mail(user))
    verify(user.service, token_in(verify_mail(user)))
    new = f"{fresh_name()}@example.org"
    changed = user.patch("/me", json={"current_password": user.password, "email": new}).json()
    assert (changed["email"], changed["email_verified"]) == (new, False)
    assert is_bad(verify(user.service, old))
    assert verify(user.service, token_in(written_to(user.service, new, CONFIRMING))).status_code == 200
    assert user.get("/me").json()["email_verified"] is True


def test_to_set_the_verified_address_that_there_is_changes_nothing(user: User) -> None:
    verify(user.service, token_in(verify_mail(user)))
    before = user.get("/me/export").json()
    for same in (email_of(user), f"{email_of(user)}\u00ad."):
        changed = user.patch("/me", json={"current_password": user.password, "email": same}).json()
        assert changed == user.profile | {"email_verified": True}
    assert user.get("/me/export").json() == before
    eventually(lambda: rows(user.service, "SELECT count(*) FROM mail") == [(0,)], 30)
    assert len(files_of(user.service, email_of(user))) == 1


def test_to_set_the_unverified_address_that_there_is_sends_its_mail_again(user: User) -> None:
    user.patch("/me", json={"current_password": user.password, "email": email_of(user)})
    assert verify(user.service, token_in(verify_mail(user, nth=2))).status_code == 200


def test_a_new_address_can_be_verified_though_the_password_changes_with_it(user: User) -> None:
    new = f"{fresh_name()}@example.org"
    body = {"current_password": user.password, "email": new, "password": NEW_PASSWORD}
    assert user.patch("/me", json=body).status_code == 200
    assert verify(user.service, token_in(written_to(user.service, new, CONFIRMING))).status_code == 200


def test_a_token_verifies_an_address_whatever_else_changes(user: User) -> None:
    token = token_in(verify_mail(user))
    body = {"current_password": user.password, "password": NEW_PASSWORD}
    assert user.patch("/me", json=body).status_code == 200
    for action in (["grant", user.username, "data"], ["disable", user.username]):
        assert operate(user.service, *action).returncode == 0
    assert is_bad(verify(user.service, token))
    assert operate(user.service, "enable", user.username).returncode == 0
    assert verify(user.service, token).status_code == 200


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_where_it_is_required_a_password_lets_in_those_with_a_verified_address(
    start_tokens: Callable[..., TokenService],
) -> None:
    service = start_tokens(REQUIRE_VERIFIED_EMAIL="true")
    user = User(service)
    refused = user.login()
    assert (refused.status_code, refused.json()["code"]) == (403, "email_not_verified")
    assert user.login(password="wrong").status_code == 401
    assert verify(service, token_in(verify_mail(user, nth=2))).status_code == 200  # another with the refusal
    assert user.login().status_code == 200


def test_a_user_of_the_operators_gets_a_mail_too(tokens: TokenService) -> None:
    name = fresh_name()
    arguments = ("users", "create", name, f"{name}@example.org")
    assert command(tokens.log.parent, "token_svc", *arguments, stdin=f"{PASSWORD}\n", **tokens.env).returncode == 0
    assert verify(tokens, token_in(written_to(tokens, f"{name}@example.org", CONFIRMING))).status_code == 200


# Settings.

PRODUCTION = {"APP_ENV": "production", "SECRET_KEY": "a secret of this test that is as long as it has to be"}


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_in_production_without_a_server_there_is_no_mail(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(HOST="127.0.0.1", **PRODUCTION)
    assert service.post("/register", form_of()).status_code == 201
    for answer in (
        service.post("/password/forgot", {"email": "a@example.org"}),
        reset(service, "x"),
        verify(service, "x"),
    ):
        problem(answer, 403, "mail_not_configured")
    assert rows(service, "SELECT count(*) FROM mail") == [(0,)]


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_pages_and_texts_are_the_operators(start_tokens: Callable[..., TokenService], tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "reset.txt").write_text("Subject: For $username\n\n$link\n")
    (texts / "reset.de.txt").write_text("Subject: Grüezi $username: new password\n\nHier: $link\n", encoding="utf-8")
    (texts / "reset.de.html").write_text('<a href="$link">hier, $username</a>')
    service = start_tokens(MAIL_TEMPLATES="texts", RESET_URL="https://app.example.com/reset?from=mail")
    user = User(service)
    headers = {"Accept-Language": "fr-CH, de;q=0.9, en;q=0.5"}
    service.post("/password/forgot", {"email": email_of(user)}, headers=headers)
    mail = written_to(service, email_of(user), "Grüezi")
    token = token_in(mail)
    assert text_of(mail) == f"Hier: https://app.example.com/reset?from=mail&token={token}\n"
    assert f'<a href="https://app.example.com/reset?from=mail&amp;token={token}">' in text_of(mail, "html")
    assert reset(service, token).status_code == 200
