"""Settings come from the environment, and a bad one is named without its value."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from only_post_svc.settings import Settings
from shared import cpus
from shared.settings import PLATFORM_PROXIES, RateLimits, Secret, SettingsError, development_secret

SECRET = "5ecret-" * 6
PRODUCTION = {"APP_ENV": "production", "SECRET_KEY": SECRET}


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def settings(**environ: str) -> Settings:
    return Settings.from_env(environ)


def complaint(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(**environ)
    return str(caught.value)


def test_an_empty_environment_is_a_development_on_this_machine_only() -> None:
    made = settings()
    assert (made.app_env, made.host, made.port, made.task_auth) == ("development", "127.0.0.1", 9003, "off")
    assert made.database_url == "sqlite:///var/only_post.db"
    assert made.max_body_bytes == 1024 * 1024
    assert made.max_queued == 100_000
    assert made.lease_seconds == 30
    assert made.result_ttl == 7 * 86400
    assert made.worker_processes == cpus.usable()


def test_production_listens_everywhere_and_asks_for_tokens() -> None:
    made = settings(**PRODUCTION)
    assert (made.host, made.task_auth, made.app_env) == ("0.0.0.0", "required", "production")


def test_what_is_set_wins_over_what_production_would_choose() -> None:
    made = settings(**PRODUCTION, HOST="127.0.0.1", TASK_AUTH="off")
    assert (made.host, made.task_auth) == ("127.0.0.1", "off")


def test_a_dyno_is_production() -> None:
    made = settings(DYNO="web.1", SECRET_KEY=SECRET, DATABASE_URL="sqlite:////data/x.db")
    assert made.app_env == "production"


def test_an_empty_variable_is_an_unset_one() -> None:
    assert settings(PORT="", TASK_AUTH="", DATABASE_URL="", APP_ENV="") == settings()


def test_a_variable_of_somebody_else_is_none_of_its_business() -> None:
    assert settings(WORKERS="many", DEBUG="?") == settings()


def test_production_needs_a_secret() -> None:
    assert complaint(APP_ENV="production").startswith("SECRET_KEY: required in production")


def test_a_dyno_needs_a_database_url_since_its_disk_does_not_last() -> None:
    assert complaint(DYNO="web.1", SECRET_KEY=SECRET).startswith("DATABASE_URL: required")


def test_production_does_not_believe_every_peer_about_addresses() -> None:
    assert complaint(**PRODUCTION, FORWARDED_ALLOW_IPS="*").startswith("FORWARDED_ALLOW_IPS: ")
    assert settings(FORWARDED_ALLOW_IPS="*").forwarded_allow_ips == ("*",)


DYNO = {"DYNO": "web.1", "SECRET_KEY": SECRET, "DATABASE_URL": "sqlite:////data/x.db"}


@pytest.mark.parametrize("preset", ["", "*", "*,10.0.0.0/8"])
def test_a_dyno_believes_the_platform_s_own_proxies_whatever_the_buildpack_exports(preset: str) -> None:
    assert settings(**DYNO, FORWARDED_ALLOW_IPS=preset).forwarded_allow_ips == PLATFORM_PROXIES


def test_a_dyno_believes_the_proxies_that_were_named() -> None:
    assert settings(**DYNO, FORWARDED_ALLOW_IPS="192.0.2.7").forwarded_allow_ips == ("192.0.2.7",)


BAD = [
    ("STATE_DIR", "/dev/null"),
    ("STATE_DIR", "/dev/null/state"),
    ("PORT", "web"),
    ("PORT", "-1"),
    ("PORT", "65536"),
    ("PORT", "٩٠٠٣"),
    ("PORT", "9003 "),
    ("PORT", "9" * 5000),
    ("APP_ENV", "staging"),
    ("DATABASE_URL", "mysql://user:hunter2@db/x"),
    ("DATABASE_URL", "sqlite://relative-hunter2"),
    ("DATABASE_URL", "sqlite:///"),
    ("DATABASE_URL", "sqlite:///x.db?timeout=5"),
    ("DATABASE_URL", "sqlite:///~hunter2/x.db"),
    ("DATABASE_URL", "postgresql://user:hun@ter2@db/x"),
    ("DATABASE_URL", "postgresql://user:hun/ter2@db/x"),
    ("DATABASE_URL", "postgresql://user:hun?@ter2@db/x"),
    ("SECRET_KEY", "short-hunter2"),
    ("SECRET_KEY", f"{SECRET},short-hunter2"),
    ("SECRET_KEY", "hunter2".ljust(31, "x")),
    ("SECRET_KEY", f"{SECRET},"),
    ("SECRET_KEY", " " * 40),
    ("SECRET_KEY_FILE", "/nowhere/hunter2"),
    ("JWKS_FILE", "/nowhere/hunter2"),
    ("SIGNING_KEY_FILE", "/nowhere/hunter2"),
    ("ISSUER", "hunter2"),
    ("ISSUER", "https://example.com/?hunter2"),
    ("PUBLIC_URL", "ftp://hunter2"),
    ("RATE_LIMITS", "hunter2"),
    ("RATE_LIMITS", "login=0/minute"),
    ("RATE_LIMITS", "login=10/fortnight"),
    ("RATE_LIMITS", "hunter2=10/minute"),
    ("RATE_LIMITS", "login=-1/minute"),
    ("MAX_BODY_BYTES", "1MB"),
    ("MAX_BODY_BYTES", "0"),
    ("LOG_LEVEL", "loud"),
    ("LOG_FORMAT", "xml"),
    ("FORWARDED_ALLOW_IPS", "hunter2"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
    ("REQUIRE_HTTPS", "perhaps"),
    ("TLS_CERT_FILE", "/nowhere/hunter2"),
    ("TLS_KEY_FILE", "/nowhere/hunter2"),
    ("METRICS_TOKEN", "short-hunter2"),
    ("METRICS_TOKEN", "hunter2 hunter2 hunter2"),
    ("TASK_AUTH", "maybe"),
    ("WORKER_PROCESSES", "-1"),
    ("TASK_CONCURRENCY", "0"),
    ("LEASE_SECONDS", "0"),
    ("LEASE_SECONDS", "1.5"),
    ("RESULT_TTL", "a week"),
    ("MAX_QUEUED", "0"),
    ("HEALTH_GET", "perhaps"),
]


@pytest.mark.parametrize(("variable", "value"), BAD, ids=lambda text: ascii(text[:40]))
def test_a_bad_value_is_one_line_that_names_the_variable_and_not_the_value(variable: str, value: str) -> None:
    line = complaint(**{variable: value})
    assert line.startswith(f"{variable}: ")
    assert "\n" not in line
    assert "hunter2" not in line
    assert len(line) < 200


def test_the_value_is_not_in_the_chain_of_exceptions_either() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(SECRET_KEY="short-hunter2")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


GOOD: list[tuple[str, str, str, Any]] = [
    ("PORT", "0", "port", 0),
    ("HEALTH_GET", "true", "health_get", True),
    ("HEALTH_GET", "0", "health_get", False),
    ("TASK_MODULES", " a.b, c ,", "task_modules", ("a.b", "c")),
    ("WORKER_PROCESSES", "0", "worker_processes", 0),
    ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1", "forwarded_allow_ips", ("10.0.0.0/8", "::1")),
    ("DATABASE_URL", "sqlite:///:memory:", "database_url", "sqlite:///:memory:"),
    ("RATE_LIMITS", "off", "rate_limits", RateLimits(None, None, None)),
    ("RATE_LIMITS", "other=600/minute", "rate_limits", RateLimits(other=(600, 60))),
    ("RATE_LIMITS", "login=1/hour,register=2/day", "rate_limits", RateLimits((1, 3600), (2, 86400))),
]


@pytest.mark.parametrize(("variable", "value", "name", "parsed"), GOOD)
def test_a_good_value_is_understood(variable: str, value: str, name: str, parsed: Any) -> None:
    assert getattr(settings(**{variable: value}), name) == parsed


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////a@b/x.db",
        "postgres://user:hunter%402@db/x",
        "postgresql://user:h:u?n#t!er2@db:5432,db2:5433/x?sslmode=require",
        "postgresql:///x?host=@abstract",
    ],
)
def test_a_database_url_stays_as_it_is(url: str) -> None:
    assert settings(DATABASE_URL=url).database_url == url


def test_a_list_of_secrets_keeps_its_order() -> None:
    first, second = "a" * 32, "b" * 32
    made = settings(SECRET_KEY=f"{first}, {second}").secret_key
    assert [secret.value for secret in made] == [first.encode(), second.encode()]


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    made = settings(APP_ENV="production", SECRET_KEY_FILE=str(file))
    assert [secret.value for secret in made.secret_key] == [SECRET.encode()]


def test_a_bad_secret_in_a_file_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hunter2\xff")
    line = complaint(SECRET_KEY_FILE=str(file))
    assert line.startswith("SECRET_KEY_FILE: ")
    assert "hunter2" not in line


def test_no_repr_of_the_settings_shows_a_secret(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("hunter2")
    made = settings(
        SECRET_KEY=SECRET,
        METRICS_TOKEN=SECRET,
        JWKS_FILE=str(keys),
        SIGNING_KEY_FILE=str(keys),
        JWKS="hunter2",
        SIGNING_KEY="hunter2",
    )
    for shown in (repr(made), str(made), f"{made}", repr(made.secret_key), str(made.jwks)):
        assert "5ecret" not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sqlite:///x.db\n", "sqlite:///x.db"),
        (" postgresql://db/x\n", "postgresql://db/x"),
        ("sqlite:///~/x.db", f"sqlite:///{Path.home() / 'x.db'}"),
        ("postgresql://db/x?pgbouncer=true", "postgresql://db/x"),
        ("postgresql://db/x?pgbouncer=true&sslmode=require", "postgresql://db/x?sslmode=require"),
        ("postgresql://db/x?sslmode=require&pgbouncer=true", "postgresql://db/x?sslmode=require"),
    ],
)
def test_a_database_url_is_taken_as_other_tools_write_it(given: str, understood: str) -> None:
    assert settings(DATABASE_URL=given).database_url == understood


def test_the_settings_can_not_be_changed() -> None:
    made = settings()
    with pytest.raises(AttributeError):
        made.port = 1  # type: ignore[misc]


def test_the_development_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    made = settings().secret_key
    file = tmp_path / "var" / "secret_key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made == settings().secret_key == (Secret(file.read_bytes()),)
    assert len(made[0].value) >= 32


def test_two_directories_have_different_development_secrets(tmp_path: Path) -> None:
    assert development_secret(tmp_path / "a" / "key") != development_secret(tmp_path / "b" / "key")


def test_many_that_start_at_once_agree_on_one_development_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: development_secret(tmp_path / "var" / "key"), range(8)))
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"\n", b"short"])
def test_a_development_secret_that_was_cut_short_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "secret_key").write_bytes(content)
    assert complaint().startswith("STATE_DIR: secret_key in it was cut short")


@pytest.mark.parametrize("path", ["/proc/hunter2", "/sys/hunter2/state"])
def test_a_state_directory_in_which_no_file_can_be_made_is_one_line_that_names_it(path: str) -> None:
    line = complaint(STATE_DIR=path)
    assert line.startswith("STATE_DIR: ")
    assert "hunter2" not in line


def test_a_default_directory_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where the directory should be")
    assert complaint().startswith("STATE_DIR: ")


def test_a_secret_has_32_bytes_wherever_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for length, is_enough in ((31, False), (32, True)):
        file.write_text("x" * length + "\n")
        for given in ({"SECRET_KEY": "x" * length}, {"SECRET_KEY_FILE": str(file)}):
            if is_enough:
                assert settings(**given).secret_key == (Secret(b"x" * 32),)
            else:
                assert complaint(**given).startswith(next(iter(given)))


def test_what_only_looks_makes_no_secret_and_finds_the_one_that_is_there(tmp_path: Path) -> None:
    looking = Settings.from_env({}, makes_files=False)
    assert (looking.secret_key, looking.secret_origin) == ((), "")
    assert not (tmp_path / "var").exists()
    made = settings()
    assert Settings.from_env({}, makes_files=False).secret_key == made.secret_key


def test_what_is_kept_in_files_is_kept_in_the_state_directory(tmp_path: Path) -> None:
    made = settings(STATE_DIR="state")
    file = tmp_path / "state" / "secret_key"
    assert made.database_url == "sqlite:///state/only_post.db"
    assert made.secret_key == (Secret(file.read_bytes()),)
    assert (made.secret_origin, settings(STATE_DIR="state").secret_origin) == (f"made in {file}", f"found in {file}")


def test_public_keys_alone_give_no_secret() -> None:
    made = settings(JWKS='{"keys": []}', APP_ENV="production")
    assert (made.secret_key, made.secret_origin) == ((), "JWKS")


def test_production_makes_no_secret_of_its_own(tmp_path: Path) -> None:
    complaint(APP_ENV="production")
    settings(**PRODUCTION)
    assert not (tmp_path / "var").exists()
