"""Users of another system: which hashes are taken, and what becomes of each line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Done, command
from tests.databases import rows
from tests.processes import TokenService
from tests.token_svc.users import PASSWORD, User, fresh_name
from token_svc import foreign_hashes, passwords

# Of "correct horse battery staple", as Django 5.2.19, Werkzeug 3.1.9, passlib 1.7.4 and bcrypt 4.3.0 have written them.
HASHES = {
    "Django PBKDF2": "pbkdf2_sha256$1000$v0j2oI2B5VoPNHNIOIIE3B$d5GkTX5uumaAyIA/Y9zpvdzHhm6NBrq7HdWbVH/i2zQ=",
    "Django PBKDF2 SHA-1": "pbkdf2_sha1$1000$Fo5yYgjdOmoKU4nf2dNXPA$dekD//mgw6KhLsV/en10WMFgZDs=",
    "Django argon2": "argon2$argon2id$v=19$m=1024,t=2,p=8$VVY1bE1oT3dpNUl4Q21oUUtaYnBNdQ"
    "$wv6WYyi/oJ5LmXIaPzTkLPAR7AdCUOZa7JEqNOqrsqA",
    "Django bcrypt": "bcrypt$$2b$06$7YG2FE0U8kgJEtjbI9/01eOSp9GXbTdYMVEZ5Xf3F8W9Z2FAy4O7C",
    "Django bcrypt SHA-256": "bcrypt_sha256$$2b$06$4ekrdK1xNpU.lzjomTNks.j3IPr2m1dyDltulBd4GI4EvG43bGbCi",
    "Django scrypt": "scrypt$1024$vvEsrUsFKbAzdxRFUgmrbj$8$5"
    "$M40Mt1EuhWmp992Aqr1EJYfslQwI7oGXG1LTQdn369yoepAYd/dh2St+YwIEbg9VYXyDtmGaHpH5nhfU5rW2eg==",
    "Werkzeug scrypt": "scrypt:1024:8:1$Cen08oy32IOrVBt6$45c8a6464b401e18be8d69cb35a8bdd04f3d575d2d6e14b34b0597576ee"
    "6a8c5e91a63000be93eb6abd38675145d58564450ad7cf59fe6cd92ef0d5a24aaa6a8",
    "Werkzeug PBKDF2": "pbkdf2:sha256:1000$pdtjZ7BHTatHITzN"
    "$e9c6027006cfb34f2a5fd8db1539257b98fefb13bec9c7848aa9c8635ef87b8f",
    "Werkzeug PBKDF2 SHA-512": "pbkdf2:sha512:1000$FOEeKqgnq6sIbkR8$16025e6fccee62f5e3b98cda07b5cd5719383c95ca92edfa5de"
    "87bb7f74333c0790a00f9922a53d9dcc5442ca5066a75d50c52adf98f8e655a52bed8c12f6a6e",
    "Werkzeug PBKDF2 SHA-1": "pbkdf2:sha1:1000$CNt0QaFtxSxjhEcv$8b3eae8d6fdb2b763afc4f03dacd2ed66d828fa2",
    "passlib argon2": "$argon2id$v=19$m=1024,t=1,p=4$35szhjAGAMAYQ8iZU2pNSQ"
    "$VRX151k+nOiSjM2VjFa1nQJFXnNGzaEgkhBMKd7NgSo",
    "passlib scrypt": "$scrypt$ln=10,r=8,p=1$8f4/B4AQ4vw/Z6yVEoIQ4g$LQSj15NjG6ENqrNOSiALIRAe+jpAnQmfhQHRCumgTPg",
    "passlib PBKDF2 SHA-1": "$pbkdf2$1000$hTDm/P./F4LwHsP4v9f63w$cLbowGXcRZQFB95.sooa1ffw52A",
    "passlib PBKDF2": "$pbkdf2-sha256$1000$lzKGEGKs9T6HkNL63zvnPA$b0RywLKH7s6aNCNaEV3DEWGU.9Y9gXjxinSMlGuNEWY",
    "passlib PBKDF2 SHA-512": "$pbkdf2-sha512$1000$5VyLUWothVBqDUFIKQVAqA"
    "$lrLuQHnXz4am5z3FDt5SmES.GSecNV5i6H67gOYZ0vh4ZWDgDrgHhYfBRdeAoymnRdtzcBRcU7cIPpFJtuuRMw",
    "passlib bcrypt SHA-256": "$bcrypt-sha256$v=2,t=2b,r=6$sZWAsFMw3V1rgj3OEJlbHO$ZL9Ysr/R1xNiXhVYfDhQ8JbSBOc2jXS",
    "bcrypt 2y": "$2y$06$dsm9lb1xJXY49J6vI5t2Tux1y2ubIWWjKvGnMXglGK660iDy.TMNG",
    "bcrypt 2a": "$2a$06$VKpVdwi53v3cdAmRgbUNYu2IBNagCYjmGxqkftJE3SbdvkwxYNz.O",
    "bcrypt 2b": "$2b$06$Ai4suvlu6Jo9SXZIu26XbeDMVfJt8C3yxk0qDmwChiBXJdzpgSmFm",
}
LONG = "$2b$06$RX/X4B.n2U4LEAM7FWpmG.pzTSixNTXxbObiKaJkKtqh8akkQuEwG"  # of its first 72 bytes
TOO_MUCH = {
    "bcrypt": "$2b$31$" + HASHES["bcrypt 2b"][7:],
    "Django bcrypt": "bcrypt$$2b$17$" + HASHES["bcrypt 2b"][7:],
    "passlib bcrypt SHA-256": HASHES["passlib bcrypt SHA-256"].replace("r=6", "r=20"),
    "Django PBKDF2": HASHES["Django PBKDF2"].replace("$1000$", "$99999999$"),
    "Werkzeug PBKDF2": HASHES["Werkzeug PBKDF2"].replace(":1000$", ":99999999$"),
    "Django scrypt": HASHES["Django scrypt"].replace("$1024$", "$67108864$"),
    "Werkzeug scrypt": HASHES["Werkzeug scrypt"].replace(":1024:8:1$", ":1048576:8:9$"),
    "passlib scrypt": HASHES["passlib scrypt"].replace("ln=10", "ln=31"),
    "passlib argon2": HASHES["passlib argon2"].replace("m=1024", "m=4194304"),
}
BROKEN = {
    "empty": "",
    "plain": "correct horse battery staple",
    "SHA-512 crypt": "$6$rounds=5000$saltsalt$" + "a" * 86,
    "MD5": "md5$salt$0123456789abcdef0123456789abcdef",
    "scrypt of no power": HASHES["Werkzeug scrypt"].replace(":1024:", ":1000:"),
    "scrypt of more than its blocks allow": HASHES["Werkzeug scrypt"].replace(":1024:8:1$", ":65536:1:1$"),
    "scrypt of more than hashlib allows": HASHES["Werkzeug scrypt"].replace(":1024:8:1$", ":2:9999:1678$"),
    "passlib scrypt of more than its blocks allow": HASHES["passlib scrypt"].replace("ln=10,r=8", "ln=16,r=1"),
    "passlib scrypt of no power": HASHES["passlib scrypt"].replace("ln=10", "ln=0"),
    "bcrypt of no cost": HASHES["bcrypt 2b"].replace("$06$", "$03$"),
    "Django bcrypt of no cost": HASHES["Django bcrypt SHA-256"].replace("$06$", "$00$"),
    "passlib bcrypt of no cost": HASHES["passlib bcrypt SHA-256"].replace("r=6", "r=3"),
    "bcrypt salt of more than 128 bits": HASHES["bcrypt 2b"].replace("26XbeDMV", "26XbvDMV"),
    "passlib bcrypt salt of more than 128 bits": HASHES["passlib bcrypt SHA-256"].replace("EJlbHO$", "EJlbHP$"),
    "scrypt of nothing": HASHES["Werkzeug scrypt"].replace(":1024:8:1$", ":1024:0:1$"),
    "no rounds": HASHES["Werkzeug PBKDF2"].replace(":1000$", ":0$"),
    "no base64": HASHES["Django PBKDF2"].replace("/i2zQ=", "/i2zQ"),
    "odd hex": HASHES["Werkzeug PBKDF2 SHA-1"] + "a",
    "two lines": HASHES["bcrypt 2b"] + "\n",
}


@pytest.mark.parametrize("kind", HASHES)
def test_a_hash_of_another_system_checks_its_password_and_no_other(kind: str) -> None:
    stored = foreign_hashes.own_form(HASHES[kind])
    assert passwords.hash_fault(HASHES[kind]) == ""
    assert passwords._verify(PASSWORD, stored)
    assert not passwords._verify(PASSWORD + "r", stored)
    assert not passwords._verify("", stored)
    assert passwords.needs_renewal(stored)


def test_of_a_long_password_bcrypt_counts_the_first_72_bytes() -> None:
    assert passwords._verify(PASSWORD * 3, LONG)
    assert passwords._verify(PASSWORD * 3 + "x" * 100, LONG)
    assert not passwords._verify(PASSWORD * 2, LONG)


@pytest.mark.parametrize("stored", [*TOO_MUCH.values(), *BROKEN.values()], ids=[*TOO_MUCH, *BROKEN])
def test_a_hash_that_costs_too_much_or_is_none_is_neither_taken_nor_computed(stored: str) -> None:
    assert passwords.hash_fault(stored)
    assert foreign_hashes.check_of(stored) is None
    assert not passwords._verify(PASSWORD, stored)


def test_a_check_that_fails_for_another_reason_lets_nobody_in() -> None:
    assert not passwords._verify("\ud800", HASHES["bcrypt 2b"])  # no bytes


def transfer(service: TokenService, file: Path, *arguments: str) -> Done:
    return command(service.log.parent, "token_svc", "users", "import", str(file), *arguments, **service.env)


def exported(service: TokenService) -> list[dict[str, Any]]:
    done = command(service.log.parent, "token_svc", "users", "export", **service.env)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def user(kind: str = "bcrypt 2b", **changes: Any) -> dict[str, Any]:
    name = fresh_name()
    return {"username": name, "email": f"{name}@example.org", "password_hash": HASHES[kind], **changes}


def written(directory: Path, *lines: Any) -> Path:
    file = directory / "users.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts))
    return file


def test_imported_users_log_in_and_are_renewed(tokens: TokenService, tmp_path: Path) -> None:
    users = [user(kind) for kind in HASHES]
    done = transfer(tokens, written(tmp_path, *users))
    assert (done.returncode, done.stdout) == (0, f"{len(users)} imported, 0 there already, 0 faulty\n"), done.stderr
    for one in users:
        wrong = User.login_as(tokens, one["username"], "not the right one")
        assert wrong.status_code == 401
        assert User.login_as(tokens, one["username"]).status_code == 200, one
        ((renewed,),) = rows(tokens, "SELECT password_hash FROM account WHERE username = ?", one["username"])
        assert not passwords.needs_renewal(renewed)
        assert User.login_as(tokens, one["username"]).status_code == 200, one


def test_what_a_line_says_is_taken_over(tokens: TokenService, tmp_path: Path) -> None:
    one = user(scope="tasks pictures", email_verified=True)
    other = user(is_disabled=True)
    assert transfer(tokens, written(tmp_path, one, other)).returncode == 0
    answer = User.login_as(tokens, one["username"]).json()
    assert answer["scope"] == "tasks pictures"
    me = tokens.get("/me", headers={"Authorization": f"Bearer {answer['access_token']}"}).json()
    assert me["email_verified"] is True
    assert User.login_as(tokens, other["username"]).status_code == 401


def test_a_second_run_changes_nothing(tokens: TokenService, tmp_path: Path) -> None:
    one, two = user(), user()
    file = written(tmp_path, one, two)
    transfer(tokens, file)
    User.login_as(tokens, one["username"])
    before = [line for line in exported(tokens) if line["username"] in (one["username"], two["username"])]
    done = transfer(tokens, file)
    assert (done.returncode, done.stdout) == (0, "0 imported, 2 there already, 0 faulty\n")
    after = [line for line in exported(tokens) if line["username"] in (one["username"], two["username"])]
    assert before == after


def change_email(tokens: TokenService, username: str) -> None:
    bearer = {"Authorization": f"Bearer {User.login_as(tokens, username).json()['access_token']}"}
    body = {"email": f"{fresh_name()}@example.org", "current_password": PASSWORD}
    assert tokens.request("PATCH", "/me", json=body, headers=bearer).status_code == 200


def test_an_imported_user_who_has_changed_their_email_is_there_already(tokens: TokenService, tmp_path: Path) -> None:
    one = user()
    transfer(tokens, written(tmp_path, one))
    change_email(tokens, one["username"])
    heir = User(tokens, email=one["email"])  # of the address
    done = transfer(tokens, written(tmp_path, one | {"username": one["username"].upper()}))
    assert (done.returncode, done.stdout) == (0, "0 imported, 1 there already, 0 faulty\n"), done.stderr
    assert heir.get("/me").json()["email"] == one["email"]


def test_a_stranger_who_has_the_username_is_told(tokens: TokenService, tmp_path: Path) -> None:
    stranger = User(tokens)
    change_email(tokens, stranger.username)
    done = transfer(tokens, written(tmp_path, user(username=stranger.username)))
    assert (done.returncode, done.stdout) == (1, "0 imported, 0 there already, 1 faulty\n")
    assert done.stderr.splitlines()[0] == "line 1: the username is taken"


def test_faulty_lines_are_told_and_skipped(tokens: TokenService, tmp_path: Path) -> None:
    good, taken = user(), user()
    lines = [
        good,
        "not json",
        "",
        "[]",
        {"username": "x"},
        user(email="nowhere"),
        user(password_hash="plain text"),
        user(scope='a"b'),
        user(extra=1),
        taken,
        taken | {"email": f"{fresh_name()}@example.org"},
        taken | {"username": fresh_name()},
        '{"username": "\\ud800"}',
        json.dumps({"username": "x" * 70_000}),
        user(),
    ]
    done = transfer(tokens, written(tmp_path, *lines))
    assert done.returncode == 1
    assert done.stdout == "3 imported, 0 there already, 11 faulty\n"
    told = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert told == [*(f"line {number}" for number in (2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14)), "11 lines were skipped"]
    assert "line 5: email: required; password_hash: required; username: must have 3 to 64 characters" in done.stderr
    assert "plain text" not in done.stderr
    for one in (good, taken, lines[-1]):
        assert User.login_as(tokens, one["username"]).status_code == 200  # type: ignore[index]


def test_an_export_can_be_imported_elsewhere(tokens: TokenService, tmp_path: Path) -> None:
    here = User(tokens)
    (line,) = [one for one in exported(tokens) if one["username"] == here.username]
    assert line.keys() == {
        *("id", "username", "email", "email_verified", "password_hash", "scope", "is_disabled", "created_at")
    }
    file = written(tmp_path, line)
    done = command(tmp_path, "token_svc", "users", "import", str(file), "--json")
    assert (done.returncode, json.loads(done.stdout)["imported"]) == (0, 1), done.stderr
    there = command(tmp_path, "token_svc", "users", "export")
    assert json.loads(there.stdout)["password_hash"] == line["password_hash"]


def test_a_file_that_is_not_there_is_one_line(tokens: TokenService) -> None:
    done = transfer(tokens, Path("nowhere.jsonl"))
    assert (done.returncode, done.stderr) == (1, "nowhere.jsonl can't be read (No such file or directory)\n")
