"""The doctor finds what is wrong, says what to do, and is content with what is right."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shared.cli import disks
from tests.commands import command
from tests.processes import Service, TokenService

GOOD_SECRET = "JkVX2u0lqYF0W3m1cT7pNw8sRz5oEa9hGdQb6xUyKiM4"
PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": GOOD_SECRET,
    "FORWARDED_ALLOW_IPS": "10.0.0.0/8",
    "SHIPPED_TASKS": "on",
    "DATABASE_URL": "sqlite:///home.db",
}


def examine(directory: Path, service: str = "only_post_svc", **env: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and what was found."""
    done = command(directory, service, "doctor", "--json", **env)
    report = json.loads(done.stdout)
    statuses = [one["status"] for one in report["checks"]]
    assert report["status"] == next(status for status in ("fail", "warn", "ok") if status in statuses)
    assert "hunter2" not in done.stdout + done.stderr
    return done.returncode, report["checks"]


@dataclass
class Fault:
    """What is planted, and what has to be found."""

    check: str
    status: str
    needle: str
    env: dict[str, str] = field(default_factory=dict)
    plant: Callable[[Path], object] = lambda directory: None
    service: str = "only_post_svc"


def home_of(directory: Path) -> Path:
    """The database of a service that has run here."""
    assert command(directory, "token_svc", "users", "create", "ada", "a@example.org", stdin=GOOD_SECRET).returncode == 0
    return directory / "var" / "token.db"


def broken(directory: Path) -> None:
    (directory / "var").mkdir()
    (directory / "var" / "only_post.db").write_text("no database, but quite a lot of text" * 100)


def own_secret(directory: Path) -> None:
    """As the first start makes it, which a service in another directory does not find."""
    (directory / "var").mkdir()
    (directory / "var" / "secret_key").write_text(GOOD_SECRET)


def from_the_future(directory: Path) -> None:
    with closing(sqlite3.connect(home_of(directory))) as connection, connection:
        connection.execute("UPDATE migration SET applied_at = applied_at + 3600000")


def strange_table(directory: Path) -> None:
    with closing(sqlite3.connect(home_of(directory))) as connection, connection:
        connection.execute("ALTER TABLE migration RENAME COLUMN applied_at TO at")


def task_without_code(directory: Path) -> None:
    module = "from only_post_svc import task\n@task('gone.home')\ndef gone() -> None: ...\n"
    (directory / "gone.py").write_text(module)
    env = {"TASK_MODULES": "gone", "PYTHONPATH": str(directory)}
    assert command(directory, "only_post_svc", "tasks", "submit", "gone.home", **env).returncode == 0


def key_file(directory: Path, mode: int) -> None:
    assert command(directory, "token_svc", "keys", "new", "key.pem").returncode == 0
    (directory / "key.pem").chmod(mode)


def key_set(directory: Path) -> None:
    (directory / "jwks.json").write_text('{"keys": []}')


def unwritable_lock(directory: Path) -> None:
    home_of(directory)
    (directory / "var" / "token.db-lock").chmod(0o400)


TOKENS = {"service": "token_svc"}
FAULTS = {
    "bad setting": Fault("settings", "fail", "PORT: ", {"PORT": "hunter2"}),
    "misspelt setting": Fault("settings", "warn", "TASK_MODULES", {"TASK_MODULE": "myapp.jobs"}),
    "bad key set": Fault("settings", "fail", "JWKS_FILE: ", {"JWKS_FILE": "jwks.json"}, key_set),
    "no database": Fault("database", "fail", "not a database", {}, broken),
    "no server": Fault(
        "database", "fail", "DATABASE_URL: ", {"DATABASE_URL": "postgresql://ann:hunter2@127.0.0.1:1/x"}
    ),
    "strange table": Fault("database", "fail", "does not answer", {}, strange_table, **TOKENS),
    "clock set back": Fault("clock", "fail", "behind", {}, from_the_future, **TOKENS),
    "file of another": Fault("files", "fail", "token.db-lock", {}, unwritable_lock, **TOKENS),
    "repeated secret": Fault("secrets", "warn", "guessed", {"SECRET_KEY": "hunter2-" * 6}),
    "simple secret": Fault("secrets", "warn", "guessed", {"SECRET_KEY": "a" * 16 + "b" * 32}),
    "second secret": Fault("secrets", "warn", "secret 2 of 2", {"SECRET_KEY": f"{GOOD_SECRET},{'hunter2-' * 6}"}),
    "secret twice": Fault("secrets", "warn", "twice", {"SECRET_KEY": f"{GOOD_SECRET},{GOOD_SECRET}"}),
    "secret in production": Fault("secrets", "fail", "guessed", {**PRODUCTION, "SECRET_KEY": "hunter2-" * 6}),
    "key that others read": Fault(
        "secrets", "warn", "SIGNING_KEY_FILE", {"SIGNING_KEY_FILE": "key.pem"}, lambda home: key_file(home, 0o644)
    ),
    "key that others change": Fault(
        "secrets", "fail", "chmod 600", {"SIGNING_KEY_FILE": "key.pem"}, lambda home: key_file(home, 0o620)
    ),
    "any proxy": Fault("proxy", "warn", "FORWARDED_ALLOW_IPS: ", {"FORWARDED_ALLOW_IPS": "*"}),
    "all addresses": Fault("proxy", "fail", "0.0.0.0/0", {**PRODUCTION, "FORWARDED_ALLOW_IPS": "10.0.0.0/8,0.0.0.0/0"}),
    "no proxy named": Fault("proxy", "warn", "FORWARDED_ALLOW_IPS", {**PRODUCTION, "FORWARDED_ALLOW_IPS": ""}),
    "dyno": Fault("disk", "fail", "DYNO", {**PRODUCTION, "DYNO": "web.1", "DATABASE_URL": "sqlite:////home.db"}),
    "in memory": Fault("disk", "fail", "memory", {**PRODUCTION, "DATABASE_URL": "sqlite:///:memory:"}),
    "tasks that do not load": Fault("tasks", "fail", "nowhere", {"TASK_MODULES": "nowhere"}),
    "no task types": Fault("tasks", "warn", "TASK_MODULES", {"SHIPPED_TASKS": "off"}),
    "a task without its code": Fault("tasks", "warn", "1 queued of type gone.home", {}, task_without_code),
    "a secret of this directory": Fault("callers", "warn", "STATE_DIR", {"TASK_AUTH": "required"}, own_secret),
    "open to all": Fault("callers", "warn", "TASK_AUTH", {"HOST": "0.0.0.0"}),
    "open in production": Fault("callers", "fail", "TASK_AUTH", {**PRODUCTION, "TASK_AUTH": "off"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(tmp_path: Path, fault: Fault) -> None:
    fault.plant(tmp_path)
    status, found = examine(tmp_path, fault.service, **fault.env)
    meant = [one for one in found if one["check"] == fault.check and fault.needle in one["detail"]]
    assert [one["status"] for one in meant] == [fault.status], found
    assert status == (1 if any(one["status"] == "fail" for one in found) else 0)
    assert status == 1 or fault.status == "warn"


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a file system in memory")
def test_a_database_in_memory_by_way_of_a_file_is_found(tmp_path: Path) -> None:
    url = f"sqlite:////dev/shm/{tmp_path.name}-{os.getpid()}/home.db"
    status, found = examine(tmp_path, **{**PRODUCTION, "DATABASE_URL": url})
    assert status == 1
    assert [one["status"] for one in found if "tmpfs" in one["detail"]] == ["fail"]


@pytest.mark.parametrize("service", ["only_post_svc", "token_svc"])
def test_a_new_checkout_has_nothing_wrong_and_no_database_after(tmp_path: Path, service: str) -> None:
    status, found = examine(tmp_path, service)
    assert (status, [one for one in found if one["status"] == "fail"]) == (0, [])
    assert {one["check"] for one in found} >= {"settings", "sqlite", "secrets", "proxy", "disk", "database"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("service", ["only_post_svc", "token_svc"])
def test_a_good_production_fails_nothing(tmp_path: Path, service: str) -> None:
    url = f"sqlite:///{Path.cwd() / '.pytest_cache' / 'none.db'}"  # not below /tmp, which may be in memory
    status, found = examine(tmp_path, service, **{**PRODUCTION, "DATABASE_URL": url})
    beside_the_machine = [one for one in found if one["check"] not in ("disk", "clock")]
    assert [one for one in beside_the_machine if one["status"] != "ok"] == []
    assert status in (0, 1)


def test_beside_a_running_service_nothing_is_wrong(tmp_path: Path, database: dict[str, str]) -> None:
    for service in (Service(tmp_path / "tasks", database), TokenService(tmp_path / "tokens", database)):
        try:
            status, found = examine(service.log.parent, service.module, **database)
            assert status == 0
            (answers,) = [one for one in found if one["check"] == "database"]
            assert answers["status"] == "ok"
            assert ("PostgreSQL" in answers["detail"]) == bool(database)
            assert ("sqlite" in [one["check"] for one in found]) == (not database)
            assert [one["check"] for one in found if one["check"] == "clock"] == ["clock"]
        finally:
            service.kill()


def test_passwords_are_measured(tmp_path: Path) -> None:
    _, found = examine(tmp_path, "token_svc")
    (measured,) = (one for one in found if one["check"] == "passwords")
    assert "logins a second" in measured["detail"]


def test_for_people_it_is_a_line_for_each(tmp_path: Path) -> None:
    done = command(tmp_path, "only_post_svc", "doctor", FORWARDED_ALLOW_IPS="*")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["STATUS", "CHECK", "FOUND"]
    assert any(line.startswith("warn") and "FORWARDED_ALLOW_IPS" in line for line in lines)


def test_file_systems_are_known_by_their_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\n"
        f"server:/x {tmp_path} nfs4 rw 0 0\n"
        f"tmpfs {tmp_path}x tmpfs rw 0 0\n"
        f"/dev/sdb {tmp_path}/my\\040disk ext4 rw 0 0\n"
    )
    (tmp_path / "my disk").mkdir()
    assert disks.file_system(Path("/"), mounts) == "overlay"
    assert disks.file_system(tmp_path, mounts) == "nfs4"
    assert disks.file_system(tmp_path / "my disk", mounts) == "ext4"
    assert disks.file_system(tmp_path, tmp_path / "none") == ""
