"""The settings of the token service, beside those of both."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from shared import settings
from shared.settings import SettingsError, boolean, choice, integer, setting
from token_svc import scopes

MAIL_PORTS = {"smtp": 587, "smtps": 465}
MAIL_FORMS = "must be smtp://user:password@host:port, smtps://… or file:directory, with ?from=address"
HOST_NAME = re.compile(r"[a-z0-9.-]*[a-z][a-z0-9.-]*")
SENDER = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,253}")


class MailURL(NamedTuple):
    """Where mails go, and `sender`, the address that they come from. `path` is a file: URL's directory."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    path: str
    sender: str

    def __repr__(self) -> str:
        return f"MailURL({self.scheme!r}, {self.host!r})"


def mail_url(raw: str) -> MailURL:
    try:
        url = urlsplit(raw)
        host, port = url.hostname or "", url.port or MAIL_PORTS.get(url.scheme, 0)
        query = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
    except ValueError:
        raise ValueError(MAIL_FORMS) from None
    is_known = bool(host) if url.scheme in MAIL_PORTS else url.scheme == "file" and bool(url.path)
    sender = query.get("from") or f"no-reply@{host if HOST_NAME.fullmatch(host) else 'localhost'}"
    if not is_known or not query.keys() <= {"from"} or not SENDER.fullmatch(sender):
        raise ValueError(MAIL_FORMS)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    return MailURL(url.scheme, host, port, user, password, url.path, sender)


def mail_files(directory: Path) -> MailURL:
    return MailURL("file", "", 0, "", "", str(directory), "no-reply@localhost")


def page_url(raw: str) -> str:
    """A page of the user's app, which gets `?token=`, or `&token=` behind a query of its own."""
    if not re.fullmatch(r"https?://[\x21-\x7e]+", raw) or "#" in raw:
        raise ValueError("must be an http or https URL")
    return raw


def directory(raw: str) -> str:
    if not Path(raw).is_dir():
        raise ValueError("must be a directory")
    return raw


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    port: int = setting(9004, integer(0, 65535))
    access_token_seconds: int = setting(1800, integer(1, 24 * 3600))
    password_min_length: int = setting(8, integer(8, 128))
    max_items_per_user: int = setting(10_000, integer(1, 10**9))
    max_bytes_per_user: int = setting(100 * 1024**2, integer(1024, 10**15))  # items, and answers kept for their keys
    registration: str = setting("open", choice("open", "closed"))
    default_scope: str = setting(scopes.DEFAULT, scopes.parse)  # of a new user
    mail_url: MailURL | None = setting(None, mail_url)
    reset_url: str = setting("", page_url)
    verify_url: str = setting("", page_url)
    mail_templates: str = setting("", directory)
    require_verified_email: bool = setting(False, boolean)  # for logins by password

    database_file = "token.db"

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        if {"jwks", "jwks_file"} & set(given) and not {"signing_key", "signing_key_file"} & set(given):
            raise SettingsError("SIGNING_KEY_FILE: required beside a JWKS, whose keys can only verify")
        given = super().completed(given)
        if given.get("app_env") != "production":
            given.setdefault("mail_url", mail_files(Path(given.get("state_dir", "var"), "mail")))
        if given.get("require_verified_email") and "mail_url" not in given:
            raise SettingsError("MAIL_URL: required beside REQUIRE_VERIFIED_EMAIL")
        return given
