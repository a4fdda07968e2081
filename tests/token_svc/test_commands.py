"""The operator's commands over users and keys: on a service that runs, and by their exit statuses."""

import json
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Done, command, on_a_terminal, said
from tests.databases import ON_A_FILE, rows
from tests.processes import TokenService
from tests.token_svc.answers import is_bad_token
from tests.token_svc.users import PASSWORD, User, fresh_name, refresh
from token_svc.__main__ import parser

NEW_PASSWORD = "an even better password"
ACTIONS = [
    *([], ["serve"], ["users"], ["keys"], ["doctor"], ["metrics"], ["openapi"], ["backup"], ["restore"], ["copy"]),
    *(["users", action] for action in ("list", "show", "create", "import", "export", "disable", "enable", "grant")),
    *(["users", action] for action in ("set-password", "end-sessions", "delete")),
    *(["keys", action] for action in ("new", "public", "rotate")),
    ["clients"],
    *(["clients", action] for action in ("list", "show", "create", "rotate", "grant", "disable", "enable", "delete")),
]


def operate(service: TokenService, *arguments: str, stdin: str = "", **env: str) -> Done:
    return command(service.log.parent, "token_svc", *arguments, stdin=stdin, **{**service.env, **env})


def answer(service: TokenService, *arguments: str, stdin: str = "") -> Any:
    done = operate(service, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def works(user: User) -> bool:
    answered = user.get("/me")
    assert answered.status_code == 200 or is_bad_token(answered)
    return answered.status_code == 200


@pytest.mark.parametrize("arguments", ACTIONS, ids=" ".join)
def test_every_command_helps(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*arguments, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m token_svc")


def test_to_ask_for_help_makes_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "token_svc", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["users"],
        ["users", "show"],
        ["users", "show", "\udcff"],
        ["users", "create", "ann"],
        ["users", "create", "ann", "ann@example.org", PASSWORD],
        ["users", "set-password", "ann", PASSWORD],
        ["users", "grant", "ann"],
        ["users", "list", "--limit", "many"],
        ["keys", "new", "--algorithm", "HS256"],
    ],
    ids=ascii,
)
def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert (said.out, "usage:" in said.err) == ("", True)


@pytest.mark.parametrize("arguments", [["users", "list"], ["keys", "rotate"], ["keys", "public"], ["backup", "b"]])
def test_bad_settings_are_3(tmp_path: Path, arguments: list[str]) -> None:
    assert said(command(tmp_path, "token_svc", *arguments, PORT="hunter2"), 3).startswith("PORT: ")


CHANGES = [["disable"], ["enable"], ["grant", "data"], ["set-password"], ["end-sessions"], ["delete", "--yes"]]


NOBODY = "nobody-of-that-name"
NO_ID = "id:01a2065b-d97d-72cc-a1c6-dd67974b0f2a"


@ON_A_FILE
@pytest.mark.parametrize(
    ("change", "name"), [(["show"], NO_ID), (["show"], ""), *((change, NOBODY) for change in CHANGES)]
)
def test_a_user_who_is_not_there_is_1(tokens: TokenService, change: list[str], name: str) -> None:
    done = operate(tokens, "users", change[0], name, *change[1:], stdin=f"{NEW_PASSWORD}\n")
    assert said(done, 1) == f"there is no user {name}"
    assert done.stdout == ""


@pytest.mark.parametrize("action", [["list"], ["show", "ann"], *([one[0], "ann", *one[1:]] for one in CHANGES)])
def test_in_another_directory_no_database_is_made(tmp_path: Path, action: list[str]) -> None:
    done = command(tmp_path, "token_svc", "users", *action, stdin=f"{NEW_PASSWORD}\n")
    assert "no database" in said(done, 1)
    assert not list(tmp_path.glob("**/*.db"))


KINDS = ["disabled", "enabled", "granted", "password_changed", "session_ended", "deleted"]


@ON_A_FILE
@pytest.mark.parametrize(("change", "kind"), list(zip(CHANGES, KINDS, strict=True)), ids=KINDS)
def test_every_change_is_in_the_audit_trail(user: User, change: list[str], kind: str) -> None:
    arguments = ("users", change[0], user.username, *change[1:])
    done = operate(user.service, *arguments, stdin=f"{NEW_PASSWORD}\n")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert f"audit.{kind}" in line and user.profile["id"] in line and "operator" in line
    sql = "SELECT kind FROM event WHERE account_id = ? AND address = 'operator'"
    recorded = rows(user.service, sql, user.profile["id"])
    assert recorded == ([] if kind == "deleted" else [(kind,)])  # of who is deleted nothing is kept


@ON_A_FILE
def test_a_change_for_a_script_is_json_and_its_audit_line_is_elsewhere(user: User) -> None:
    done = operate(user.service, "users", "grant", user.username, "tasks", "data", "--json")
    changed = json.loads(done.stdout)
    assert changed == {**user.profile, "scope": "data tasks", "is_disabled": False}
    assert "audit.granted" in done.stderr and done.stderr.count("\n") == 1
    assert answer(user.service, "users", "disable", user.username)["is_disabled"] is True


def test_the_newest_users_are_listed_first(tokens: TokenService) -> None:
    users = [User(tokens) for _ in range(3)]
    listed = answer(tokens, "users", "list", "--limit", "2")["items"]
    assert listed == [{**one.profile, "scope": "data tasks", "is_disabled": False} for one in users[:0:-1]]
    lines = operate(tokens, "users", "list", "--limit", "1").stdout.splitlines()
    assert lines[0].split() == ["USER", "ID", "EMAIL", "SCOPE", "DISABLED", "CREATED"]
    assert lines[1].split()[:3] == [users[2].username, users[2].profile["id"], users[2].profile["email"]]


@ON_A_FILE
def test_a_user_is_shown_by_name_and_by_id_without_a_secret(user: User) -> None:
    user.add("something of mine")
    user.login()
    shown = answer(user.service, "users", "show", user.username.upper())
    assert shown["user"] == {**user.profile, "scope": "data tasks", "is_disabled": False}
    assert (shown["items"], len(shown["sessions"])) == (1, 2)
    assert [event["event"] for event in shown["events"]] == ["registered", "login"]
    assert answer(user.service, "users", "show", f"id:{user.profile['id']}") == shown
    text = operate(user.service, "users", "show", user.username).stdout
    assert user.profile["email"] in text and "registered" in text
    for secret in ("argon2", "something of mine", user.refresh_token):
        assert secret not in text + json.dumps(shown)


def test_an_id_is_not_taken_for_the_name_of_somebody_else(user: User, other: User) -> None:
    impostor = User(user.service, username=user.profile["id"])
    shown = answer(user.service, "users", "show", user.profile["id"])
    assert shown["user"]["id"] == impostor.profile["id"]
    assert answer(user.service, "users", "show", f"id:{user.profile['id']}")["user"]["id"] == user.profile["id"]


def test_a_new_user_can_log_in(tokens: TokenService) -> None:
    name = fresh_name()
    made = answer(tokens, "users", "create", name, f"{name}@example.org", stdin=f"{PASSWORD}\n")
    assert (made["username"], made["email"], made["scope"]) == (name, f"{name}@example.org", "data tasks")
    assert User.login_as(tokens, name).status_code == 200
    assert answer(tokens, "users", "show", name)["events"][0]["address"] == "operator"


def test_the_first_user_makes_the_database(tmp_path: Path) -> None:
    done = command(tmp_path, "token_svc", "users", "create", "ann", "ann@example.org", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "audit.registered" in done.stdout
    assert (tmp_path / "var" / "token.db").exists()


MAKING = [["users", "import", "-", "--json"], ["clients", "create", "nightly", "--json"], ["restore", "copy.db"]]


@pytest.mark.parametrize("arguments", MAKING, ids=lambda arguments: arguments[0])
def test_a_command_that_makes_a_database_says_where(tmp_path: Path, arguments: list[str]) -> None:
    copied = command(tmp_path, "token_svc", "users", "import", "-", DATABASE_URL="sqlite:///copy.db")
    assert copied.stderr == f"made a new database at {tmp_path}/copy.db\n"
    done = command(tmp_path, "token_svc", *arguments)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, f"made a new database at {tmp_path}/var/token.db")
    assert arguments[0] == "restore" or json.loads(done.stdout)
    again = command(tmp_path, "token_svc", "users", "import", "-")
    assert (again.returncode, again.stderr) == (0, "")


@ON_A_FILE
def test_at_a_terminal_the_password_is_asked_for(user: User) -> None:
    arguments = ("token_svc", "users", "set-password", user.username)
    answers = [("new password: ", NEW_PASSWORD), ("once more: ", NEW_PASSWORD)]
    status, shown = on_a_terminal(user.service.log.parent, *arguments, answers=answers, **user.service.env)
    assert status == 0 and "audit.password_changed" in shown
    assert NEW_PASSWORD not in shown
    assert user.login(password=NEW_PASSWORD).status_code == 200


REFUSED = [
    (("x", "x@example.org"), PASSWORD, "USERNAME: must have 3 to 64 characters"),
    (("a user", "x@example.org"), PASSWORD, "USERNAME: must be made of letters"),
    (("somebody", "nowhere"), PASSWORD, "EMAIL: must be an email address"),
    (("somebody", "x@example.org"), "short", "the password must have at least 8 characters"),
    (("somebody", "x@example.org"), "", "the password must have at least 8 characters"),
    (("somebody", "x@example.org"), "password1", "the password is one of the most common"),
    (("somebody", "x@example.org"), "somebody1", "the password must not be made of the username"),
    (("somebody", "x@example.org"), "long enough\0", "the password must not have a NUL"),
]


@ON_A_FILE
@pytest.mark.parametrize(("names", "password", "why"), REFUSED)
def test_what_a_registration_would_refuse_is_refused(
    tokens: TokenService, names: tuple[str, str], password: str, why: str
) -> None:
    done = operate(tokens, "users", "create", *names, stdin=f"{password}\n")
    assert said(done, 1).startswith(why)
    assert User.login_as(tokens, "somebody", password or "-").status_code in (400, 401)


@ON_A_FILE
def test_a_name_or_an_email_that_is_taken_is_refused(user: User) -> None:
    email = f"{uuid.uuid4().hex}@example.org"
    taken = operate(user.service, "users", "create", user.username.upper(), email, stdin=PASSWORD)
    assert said(taken, 1) == "the username is taken"
    taken = operate(user.service, "users", "create", fresh_name(), user.profile["email"], stdin=PASSWORD)
    assert said(taken, 1) == "the email is taken"


def test_a_new_password_ends_every_session(user: User) -> None:
    done = operate(user.service, "users", "set-password", user.username, stdin=f"{NEW_PASSWORD}\n")
    assert done.returncode == 0 and NEW_PASSWORD not in done.stdout
    assert not works(user)
    assert refresh(user.service, user.refresh_token).status_code == 401
    assert user.login().status_code == 401
    assert user.login(password=NEW_PASSWORD).status_code == 200


def test_whoever_knew_the_old_password_is_a_stranger_again(user: User) -> None:
    known = "SELECT 1 FROM attempt WHERE username_key = ?"
    assert rows(user.service, known, user.username)
    assert operate(user.service, "users", "set-password", user.username, stdin=NEW_PASSWORD).returncode == 0
    assert rows(user.service, known, user.username) == []


@ON_A_FILE
def test_a_new_password_that_is_a_bad_one_changes_nothing(user: User) -> None:
    bad = operate(user.service, "users", "set-password", user.username, stdin=f"{user.username}1\n")
    assert "made of the username" in said(bad, 1)
    assert works(user)
    assert user.login().status_code == 200


def test_ended_sessions_are_over_at_once_and_the_password_is_the_same(user: User) -> None:
    assert operate(user.service, "users", "end-sessions", user.username).returncode == 0
    assert not works(user)
    assert refresh(user.service, user.refresh_token).status_code == 401
    assert user.login().status_code == 200


def test_a_disabled_user_is_out_until_enabled(user: User) -> None:
    assert operate(user.service, "users", "disable", f"id:{user.profile['id']}").returncode == 0
    assert not works(user)
    assert user.login().status_code == 401
    assert operate(user.service, "users", "enable", user.username).returncode == 0
    assert user.login().status_code == 200


def test_a_deleted_user_is_gone_with_all_data_and_others_are_not(user: User, other: User) -> None:
    user.add("mine")
    other.add("another's")
    assert operate(user.service, "users", "delete", user.username, "--yes").returncode == 0
    assert not works(user)
    assert rows(user.service, "SELECT 1 FROM item WHERE account_id = ?", user.profile["id"]) == []
    assert works(other)
    assert len(other.get("/data").json()["items"]) == 1


@ON_A_FILE
def test_nobody_is_deleted_by_a_slip(user: User) -> None:
    assert "--yes" in said(operate(user.service, "users", "delete", user.username, stdin="y\n"), 1)
    arguments = ("token_svc", "users", "delete", user.username)
    directory, env = user.service.log.parent, user.service.env
    assert on_a_terminal(directory, *arguments, answers=[("[y/N]", "")], **env)[0] == 1
    assert works(user)
    assert on_a_terminal(directory, *arguments, answers=[("[y/N]", "y")], **env)[0] == 0
    assert not works(user)


@ON_A_FILE
def test_a_copy_made_and_put_back_beside_a_running_service(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens()
    kept = User(service)
    kept.add("kept")
    assert operate(service, "backup", "copy.db").returncode == 0
    lost = User(service)
    kept.add("lost")
    assert "--force" in said(operate(service, "restore", "copy.db"), 1)
    assert works(lost)
    assert operate(service, "restore", "copy.db", "--force").returncode == 0
    assert not works(lost)
    assert [one["data"] for one in kept.get("/data").json()["items"]] == ["kept"]
    kept.add("new")
    assert User(service).login().status_code == 200


def key_of(directory: Path, *arguments: str) -> str:
    """The file of a new key, whose id is the last word of what is said."""
    done = command(directory, "token_svc", "keys", "new", *arguments)
    assert done.returncode == 0, done.stderr
    assert "audit.key_made" in done.stderr and "PRIVATE" not in done.stdout + done.stderr
    return done.stdout.splitlines()[0].split()[-1]


@ON_A_FILE
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_new_key_signs_and_its_public_half_verifies(
    start_tokens: Callable[..., TokenService], tmp_path: Path, algorithm: str
) -> None:
    kid = key_of(tmp_path, "key.pem", "--algorithm", algorithm)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    service = start_tokens(SIGNING_KEY_FILE="key.pem")
    assert works(User(service))
    published = service.get("/.well-known/jwks.json").json()
    assert [(one["kid"], one["alg"]) for one in published["keys"]] == [(kid, algorithm)]
    printed = command(tmp_path, "token_svc", "keys", "public", SIGNING_KEY_FILE="key.pem")
    assert json.loads(printed.stdout) == published


def test_a_new_key_never_goes_over_a_file_that_is_there(tmp_path: Path) -> None:
    key_of(tmp_path)
    made = tmp_path / "var" / "signing_key.pem"
    before = made.read_bytes()
    assert "File exists" in said_last(command(tmp_path, "token_svc", "keys", "new"), 1)
    (tmp_path / "link.pem").symlink_to(tmp_path / "nowhere")
    assert "File exists" in said_last(command(tmp_path, "token_svc", "keys", "new", "link.pem"), 1)
    assert made.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    assert [one.name for one in (tmp_path / "var").iterdir()] == ["signing_key.pem"]


def said_last(done: Done, status: int) -> str:
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()[-1]


def test_a_shared_secret_has_nothing_public_and_is_rotated_by_a_list(tmp_path: Path) -> None:
    assert "SIGNING_KEY_FILE" in said(command(tmp_path, "token_svc", "keys", "public"), 1)
    done = command(tmp_path, "token_svc", "keys", "rotate")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line[:2] in ("1.", "2.", "3.")]
    assert "SECRET_KEY=new,old" in done.stdout
    assert not (tmp_path / "var").exists()  # it only looks


KEYS = {"SIGNING_KEY_FILE": "key.pem", "JWKS_FILE": "jwks.json"}


def rotate(directory: Path, *arguments: str, **env: str) -> Done:
    done = command(directory, "token_svc", "keys", "rotate", *arguments, **{"SIGNING_KEY_FILE": "key.pem", **env})
    assert done.returncode == 0, done.stderr
    assert "PRIVATE" not in done.stdout + done.stderr
    return done


def ids_in(file: Path) -> list[str]:
    return [one["kid"] for one in json.loads(file.read_text())["keys"]]


@ON_A_FILE
def test_after_a_rotation_the_new_key_signs_and_old_tokens_go_on_working(
    start_tokens: Callable[..., TokenService], tmp_path: Path
) -> None:
    old = key_of(tmp_path, "key.pem")
    service = start_tokens(SIGNING_KEY_FILE="key.pem")
    user = User(service)
    done = rotate(tmp_path, "--jwks", "jwks.json")
    assert "JWKS_FILE=jwks.json" in done.stdout and "audit.key_rotated" in done.stderr
    new, also = ids_in(tmp_path / "jwks.json")
    assert also == old != new
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert works(user)  # on the process from before
    service.terminate()
    user.service = start_tokens(**KEYS)
    assert works(user)
    published = user.service.get("/.well-known/jwks.json").json()["keys"]
    assert [one["kid"] for one in published] == [new, old]
    assert all(one.keys() <= {"kty", "crv", "x", "y", "kid", "use", "alg"} for one in published)
    user.take(user.login().json())
    assert works(user)
    assert not {"key.pem.next", "link"} & {one.name for one in tmp_path.iterdir()}


@ON_A_FILE
def test_after_a_rotation_cursors_and_refresh_tokens_go_on_working(
    start_tokens: Callable[..., TokenService], tmp_path: Path
) -> None:
    key_of(tmp_path, "key.pem")
    service = start_tokens(SIGNING_KEY_FILE="key.pem")
    user = User(service)
    user.add(1), user.add(2)
    page = user.get("/data?limit=1").json()
    refreshed = [user.refresh_token]
    user.take(service.post("/token", {"grant_type": "refresh_token", "refresh_token": refreshed[0]}).json())
    rotate(tmp_path, "--jwks", "jwks.json")
    service.terminate()
    user.service = start_tokens(**KEYS)
    assert user.get(f"/data?cursor={page['next_cursor']}").status_code == 200
    assert user.get(f"/data?since={page['since']}").status_code == 200
    again = user.service.post("/token", {"grant_type": "refresh_token", "refresh_token": refreshed[0]})
    assert again.json()["refresh_token"] == user.refresh_token


@ON_A_FILE
def test_whoever_verifies_knows_the_next_key_before_it_signs(
    start_tokens: Callable[..., TokenService], tmp_path: Path
) -> None:
    old = key_of(tmp_path, "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    rotate(tmp_path, "--announce", "--jwks", "jwks.json")
    announced, also = ids_in(tmp_path / "jwks.json")
    assert also == old
    assert (tmp_path / "key.pem").read_bytes() == before  # it goes on signing
    assert stat.S_IMODE((tmp_path / "key.pem.next").stat().st_mode) == 0o600
    rotate(tmp_path, "--announce", JWKS_FILE="jwks.json")  # once more changes nothing
    assert ids_in(tmp_path / "jwks.json") == [announced, old]
    rotate(tmp_path, JWKS_FILE="jwks.json")
    assert ids_in(tmp_path / "jwks.json") == [announced, old]
    published = start_tokens(**KEYS).get("/.well-known/jwks.json").json()["keys"]
    assert [one["kid"] for one in published] == [announced, old]


def test_a_rotation_that_was_cut_short_goes_on_with_the_same_key(tmp_path: Path) -> None:
    old = key_of(tmp_path, "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    rotate(tmp_path, "--jwks", "jwks.json")
    new, _ = ids_in(tmp_path / "jwks.json")
    # As if it had been killed between the key set and the key.
    (tmp_path / "key.pem").rename(tmp_path / "key.pem.next")
    (tmp_path / "key.pem").write_bytes(before)
    rotate(tmp_path, JWKS_FILE="jwks.json")
    assert ids_in(tmp_path / "jwks.json") == [new, old]


def test_keys_that_retired_long_ago_are_left_out(tmp_path: Path) -> None:
    key_of(tmp_path, "key.pem")
    rotate(tmp_path, "--jwks", "jwks.json")
    second, first = ids_in(tmp_path / "jwks.json")
    rotate(tmp_path, JWKS_FILE="jwks.json")
    third, *before = ids_in(tmp_path / "jwks.json")
    assert before == [second, first]
    key_set = json.loads((tmp_path / "jwks.json").read_text())
    assert [sorted(one) for one in key_set["keys"]].count(sorted({*key_set["keys"][0], "retired_at"})) == 2
    key_set["keys"][2]["retired_at"] = "2026-01-01T00:00:00.000Z"
    (tmp_path / "jwks.json").write_text(json.dumps(key_set))
    rotate(tmp_path, JWKS_FILE="jwks.json")
    assert ids_in(tmp_path / "jwks.json")[1:] == [third, second]


def test_a_rotation_keeps_the_algorithm_unless_told_and_may_change_it(tmp_path: Path) -> None:
    key_of(tmp_path, "key.pem", "--algorithm", "RS256")
    rotate(tmp_path, "--jwks", "jwks.json")
    assert [one["kty"] for one in json.loads((tmp_path / "jwks.json").read_text())["keys"]] == ["RSA", "RSA"]
    rotate(tmp_path, "--algorithm", "ES256", JWKS_FILE="jwks.json")
    assert [one["kty"] for one in json.loads((tmp_path / "jwks.json").read_text())["keys"]] == ["EC", "RSA", "RSA"]


def test_a_rotation_without_a_place_for_the_old_key_is_refused(tmp_path: Path) -> None:
    key_of(tmp_path, "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    done = command(tmp_path, "token_svc", "keys", "rotate", SIGNING_KEY_FILE="key.pem")
    assert said(done, 1).startswith("JWKS_FILE: ")
    (tmp_path / "broken.json").write_text("{")
    done = command(tmp_path, "token_svc", "keys", "rotate", "--jwks", "broken.json", SIGNING_KEY_FILE="key.pem")
    assert said(done, 1).startswith("the keys can't be rotated")
    done = command(tmp_path, "token_svc", "keys", "rotate", "--jwks", "no/jwks.json", SIGNING_KEY_FILE="key.pem")
    assert said(done, 1).startswith("the keys can't be rotated")
    assert (tmp_path / "key.pem").read_bytes() == before


def test_what_root_rotates_stays_the_services(tmp_path: Path) -> None:
    key_of(tmp_path, "key.pem")
    owner = os.getuid() or 12345  # only root can give files away
    os.chown(tmp_path / "key.pem", owner, -1)
    rotate(tmp_path, "--jwks", "jwks.json")
    for name in ("key.pem", "jwks.json"):
        assert (tmp_path / name).stat().st_uid == owner
