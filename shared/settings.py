"""Settings: from the environment only, into one frozen dataclass a service.

A field made by `setting` is read from the variable of its name in capitals. Defaults stand in
sight; a missing or bad value raises SettingsError, which names the variable and never its value.
"""

import contextlib
import dataclasses
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from shared import files

MIN_SECRET_BYTES = 32
SECRETS = ("secret_key", "secret_key_file", "signing_key", "signing_key_file", "jwks", "jwks_file")
# Heroku's routers reach a dyno from 10.x, Dokku's nginx from a Docker bridge; their addresses are not known beforehand.
PLATFORM_PROXIES = ("127.0.0.1", "10.0.0.0/8", "172.16.0.0/12")


class SettingsError(Exception):
    """One line for the operator: `VARIABLE: what is wrong`."""


@dataclasses.dataclass(frozen=True)
class Secret:
    """A value that no repr and no log shows."""

    value: bytes = dataclasses.field(repr=False)


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not (raw.isascii() and raw.isdigit() and len(raw) < 20) or not minimum <= int(raw) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(raw)

    return parse


def boolean(raw: str) -> bool:
    if raw.lower() not in ("true", "false", "on", "off", "1", "0"):
        raise ValueError("must be true or false")
    return raw.lower() in ("true", "on", "1")


def choice(*options: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in options:
            raise ValueError("must be " + " or ".join(options))
        return raw

    return parse


def names(raw: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in raw.split(",") if name.strip())


def secret_list(raw: str) -> tuple[Secret, ...]:
    values = [value.strip().encode() for value in raw.split(",")]
    if any(len(value) < MIN_SECRET_BYTES for value in values):
        raise ValueError(f"every secret must have at least {MIN_SECRET_BYTES} bytes")
    if any(value.startswith((b"-----BEGIN", b"ssh-")) for value in values):
        raise ValueError("is a key pair's; a private key goes into SIGNING_KEY_FILE")
    return tuple(Secret(value) for value in values)


def secret_file(raw: str) -> tuple[Secret, ...]:
    try:
        return secret_list(_read(raw).decode().strip())
    except UnicodeDecodeError:
        raise ValueError("the file is not text") from None


def pem_or_jwks(raw: str) -> Secret:
    return Secret(raw.replace("\\n", "\n").encode())  # a platform's form for variables has one line


def pem_or_jwks_file(raw: str) -> Secret:
    return Secret(_read(raw))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"the file can't be read ({error.strerror})") from None


def bearer_token(raw: str) -> Secret:
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,}=*", raw):  # RFC 6750 §2.1
        raise ValueError("must be 16 characters or more of A-Z, a-z, 0-9 and ._~+/-")
    return Secret(raw.encode())


def readable_file(raw: str) -> str:
    """The path of a file that a library opens."""
    _read(raw)
    return raw


def networks(raw: str) -> tuple[str, ...]:
    """A list of addresses and CIDR networks; `*` trusts every peer."""
    parts = names(raw)
    for part in parts:
        if part != "*":
            try:
                ipaddress.ip_network(part)
            except ValueError:
                raise ValueError("must be a comma list of addresses or CIDR networks") from None
    return parts


def http_url(raw: str) -> str:
    """Without a query and a fragment, as RFC 8414 §2 has an issuer."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/%-]*)?", raw):
        raise ValueError("must be an http or https URL without a query")
    return raw


def public_url(raw: str) -> str:
    return http_url(raw).rstrip("/")


def root_path(raw: str) -> str:
    if not re.fullmatch(r"/?|(/[A-Za-z0-9._~-]+)+/?", raw):
        raise ValueError("must be the prefix that a proxy strips, such as /auth")
    return raw.rstrip("/")


def origins(raw: str) -> tuple[str, ...]:
    """Origins as browsers send them (RFC 6454 §6.2): lower case, without a default port or a path."""
    parts = names(raw)
    for part in parts:
        has_default_port = part.endswith(":443" if part.startswith("https:") else ":80")
        if not re.fullmatch(r"https?://[a-z0-9._~:\[\]-]+", part) or has_default_port:
            raise ValueError("must be a comma list of origins such as https://app.example.com,http://localhost:3000")
    return parts


def host_names(raw: str) -> tuple[str, ...]:
    parts = names(raw)
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", part) for part in parts):
        raise ValueError("must be a comma list of names such as tasks.example.com, without ports")
    return tuple(part.lower() for part in parts)


def state_directory(raw: str) -> str:
    """It is made with the first file in it."""
    with contextlib.suppress(OSError):
        path = Path(raw).absolute()
        if next(one for one in (path, *path.parents) if one.exists()).is_dir():
            return raw
    raise ValueError("must be a directory, or one that can be made")


def is_this_machine(host: str) -> bool:
    """Whether only processes of this machine reach that address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def database_url(raw: str) -> str:
    raw = raw.strip()  # a file that it was read from ends in a newline
    is_sqlite = raw.startswith("sqlite:///") and raw != "sqlite:///"
    if is_sqlite:
        return f"sqlite:///{_database_file(raw.removeprefix('sqlite:///'))}"
    if not raw.startswith(("postgres://", "postgresql://")):
        raise ValueError("must be postgresql://…, sqlite:///path or sqlite:///:memory:")
    hosts_and_name = re.sub("^[a-z]+://([^@/]*@)?", "", raw).partition("?")[0]
    if "@" in hosts_and_name:  # libpq would take a part of the password for the host, and print it
        raise ValueError("characters such as @ and / in its password have to be percent-encoded")
    return re.sub("(?<=[?&])pgbouncer=[^&]*&?", "", raw).rstrip("?&")  # Prisma's; a pooler is noticed without it


def _database_file(path: str) -> str:
    if "?" in path:
        raise ValueError("SQLite takes no parameters (what begins with ?)")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError("~ names no user's home here; write the whole path") from None


Rate = tuple[int, int]  # requests, in so many seconds
PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclasses.dataclass(frozen=True)
class RateLimits:
    """Logins and registrations are what attackers try; `other` requests have no limit unless one is set."""

    login: Rate | None = (10, 60)
    register: Rate | None = (5, 60)
    other: Rate | None = None


def rate_limits(raw: str) -> RateLimits:
    """`off`, or the limits to change: `login=10/minute,other=600/minute`."""
    if raw == "off":
        return RateLimits(None, None, None)
    limits = {}
    for part in names(raw):
        name, _, rate = part.partition("=")
        count, _, period = rate.partition("/")
        if name not in vars(RateLimits()) or not re.fullmatch("[1-9][0-9]{0,8}", count) or period not in PERIODS:
            raise ValueError("must be off or a list such as login=10/minute,other=600/minute")
        limits[name] = (int(count), PERIODS[period])
    return RateLimits(**limits)


def setting(default: Any, parse: Callable[[str], Any] = str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    app_env: str = setting("development", choice("development", "production"))
    dyno: str = setting("")  # set by Heroku and Dokku; means that the disk does not last
    host: str = setting("127.0.0.1")
    port: int
    state_dir: str = setting("var", state_directory)  # of files: default databases, the development secret, mails
    database_url: str = setting("", database_url)  # when unset, `database_file` in `state_dir`
    secret_key: tuple[Secret, ...] = setting((), secret_list)
    secret_key_file: tuple[Secret, ...] = setting((), secret_file)
    signing_key: Secret | None = setting(None, pem_or_jwks)
    signing_key_file: Secret | None = setting(None, pem_or_jwks_file)
    jwks: Secret | None = setting(None, pem_or_jwks)
    jwks_file: Secret | None = setting(None, pem_or_jwks_file)
    issuer: str = setting("http://localhost:9004", http_url)  # of all tokens: the same for both services
    audience: str = setting("only_post")
    public_url: str = setting("", public_url)  # what clients are told; as the request has it when unset
    rate_limits: RateLimits = setting(RateLimits(), rate_limits)
    max_body_bytes: int = setting(1024 * 1024, integer(1024, 1024**3))
    log_level: str = setting("info", choice("debug", "info", "warning", "error"))
    log_format: str = setting("logfmt", choice("logfmt", "json"))
    forwarded_allow_ips: tuple[str, ...] = setting(("127.0.0.1",), networks)
    require_https: bool = setting(False, boolean)
    metrics_token: Secret | None = setting(None, bearer_token)
    tls_cert_file: str = setting("", readable_file)
    tls_key_file: str = setting("", readable_file)
    root_path: str = setting("", root_path)  # what a proxy in front strips from paths
    cors_origins: tuple[str, ...] = setting((), origins)
    max_connections: int = setting(0, integer(1, 10**7))  # 0: what the limit of open files leaves room for
    secret_origin: str = dataclasses.field(default="", compare=False)  # logged at start: services must share one

    database_file: ClassVar[str]

    @classmethod
    def variables(cls) -> dict[str, dataclasses.Field[Any]]:
        """The name of each variable that is read, with its field."""
        fields = (field for field in dataclasses.fields(cls) if "parse" in field.metadata)
        return {field.name.upper(): field for field in fields}

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, makes_files: bool = True) -> Self:
        """Makes the development secret where there is none yet, unless `makes_files` is false. Raises SettingsError."""
        given = {}
        for variable, field in cls.variables().items():
            if raw := environ.get(variable, ""):
                try:
                    given[field.name] = field.metadata["parse"](raw)
                except ValueError as error:
                    raise SettingsError(f"{variable}: {error}") from None
        made = cls(**cls.completed(given))
        return made if made.secret_key or made.has_public_keys else made._with_development_secret(makes_files)

    def _with_development_secret(self, makes_files: bool) -> Self:
        file = self.development_secret_file
        how = "found" if file.exists() else "made"
        if how == "made" and not makes_files:
            return self
        return dataclasses.replace(self, secret_key=(development_secret(file),), secret_origin=f"{how} in {file}")

    @property
    def development_secret_file(self) -> Path:
        return Path(self.state_dir, "secret_key").absolute()

    @property
    def has_derived_secret(self) -> bool:
        """Whether `secret_key` is the hash of the signing key, for want of another."""
        return self.secret_origin in ("SIGNING_KEY", "SIGNING_KEY_FILE")

    @property
    def has_public_keys(self) -> bool:
        return bool(self.jwks or self.jwks_file)

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Adds the defaults that depend on other settings. Raises SettingsError for combinations that cannot work."""
        if given.get("dyno"):
            given.setdefault("app_env", "production")
            if "database_url" not in given:
                raise SettingsError("DATABASE_URL: required on a host whose disk does not last (DYNO is set)")
            if "*" in given.get("forwarded_allow_ips", "*"):  # Heroku's Python buildpack exports it to every app
                given["forwarded_allow_ips"] = PLATFORM_PROXIES
        given.setdefault("database_url", f"sqlite:///{Path(given.get('state_dir', 'var'), cls.database_file)}")
        is_production = given.get("app_env") == "production"
        if is_production:
            given.setdefault("host", "0.0.0.0")
        if is_production and "*" in given.get("forwarded_allow_ips", ()):
            raise SettingsError("FORWARDED_ALLOW_IPS: * lets any caller choose its address; name your proxies")
        _need_both(given, "tls_cert_file", "tls_key_file")
        given["secret_origin"] = next((name.upper() for name in SECRETS if name in given), "")
        given["secret_key"] = given.get("secret_key") or given.get("secret_key_file") or _derived_secret(given)
        if not given["secret_origin"] and is_production:
            raise SettingsError("SECRET_KEY: required in production, at least 32 bytes")
        return given


def _need_both(given: Mapping[str, Any], first: str, second: str) -> None:
    for name, other in ((first, second), (second, first)):
        if name in given and other not in given:
            raise SettingsError(f"{other.upper()}: required beside {name.upper()}")


def _derived_secret(given: Mapping[str, Any]) -> tuple[Secret, ...]:
    """With a private key alone, its hash, which is the same on all hosts."""
    keys = [given[name].value for name in ("signing_key", "signing_key_file") if name in given]
    return (Secret(hashlib.sha256(b"".join(keys)).digest()),) if keys else ()


def development_secret(path: Path) -> Secret:
    """The secret for development: the first process makes the file, all others read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was quicker
                files.create(path, secrets.token_urlsafe(48).encode())
        secret = Secret(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"STATE_DIR: no file can be made or read in it ({error.strerror})") from None
    if len(secret.value) < MIN_SECRET_BYTES:
        raise SettingsError(f"STATE_DIR: {path.name} in it was cut short; delete it and another is made")
    return secret
