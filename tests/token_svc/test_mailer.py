"""Mails on their way to a server: by TLS, until it takes them, and whatever it does."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email.headerregistry import Address
from pathlib import Path

import pytest

from shared.settings import SettingsError
from tests.certificates import make_certificate
from tests.databases import rows
from tests.mail import MailServer, files_of, mail_server, text_of, token_in
from tests.processes import TokenService, eventually
from tests.token_svc.users import User, form_of, fresh_name
from token_svc.mail.letters import Letters, wanted_languages
from token_svc.settings import Settings

Start = Callable[..., TokenService]
pytestmark = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
FAST = "UPDATE mail SET due_at = 0"  # what waits is due at once


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


def tls(directory: Path) -> tuple[ssl.SSLContext, Path]:
    certificate, key = make_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def waiting(service: TokenService) -> int:
    ((count,),) = rows(service, "SELECT count(*) FROM mail")
    return int(count)


def logged(service: TokenService, event: str) -> str:
    def lines() -> list[str]:
        return [line for line in service.log.read_text().splitlines() if f"event={event} " in line]

    return str(eventually(lines, 30)[-1])


def test_a_mail_reaches_the_server_as_text_and_as_html(start_tokens: Start, server: MailServer) -> None:
    service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{server.port}?from=hello@app.example")
    user = User(service)
    mail = server.mail_to(user.profile["email"])
    assert (mail["From"], mail["Auto-Submitted"]) == ("hello@app.example", "auto-generated")
    assert mail["Date"] and mail["Message-ID"]
    token = token_in(mail)
    assert user.username in text_of(mail) and user.username in text_of(mail, "html") and token in text_of(mail, "html")
    assert service.post("/email/verify", {"token": token}).status_code == 200
    eventually(lambda: waiting(service) == 0, 10)


def test_a_mail_goes_by_starttls_after_a_login_to_a_server_that_its_certificate_names(
    start_tokens: Start, tmp_path: Path
) -> None:
    context, certificate = tls(tmp_path)
    with mail_server(context, password="a p@ss") as server:
        url = f"smtp://app:a%20p%40ss@127.0.0.1:{server.port}"
        service = start_tokens(MAIL_URL=url, SSL_CERT_FILE=str(certificate))
        user = User(service)
        assert server.mail_to(user.profile["email"])
        assert server.were_secure == [True]
        assert "a p@ss" not in service.log.read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the server's, whose TLS is cut off
def test_no_mail_goes_to_a_server_whose_certificate_is_not_known(start_tokens: Start, tmp_path: Path) -> None:
    context, _ = tls(tmp_path)
    with mail_server(context) as server:
        service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{server.port}")
        User(service)
        assert "certificate verify failed" in logged(service, "mail.postponed")
        assert (server.tried, waiting(service)) == (0, 1)


def test_a_wrong_password_of_the_operators_loses_no_mail(start_tokens: Start, tmp_path: Path) -> None:
    context, certificate = tls(tmp_path)
    with mail_server(context, password="right") as server:
        service = start_tokens(MAIL_URL=f"smtp://app:wrong@127.0.0.1:{server.port}", SSL_CERT_FILE=str(certificate))
        User(service)
        assert "SMTPAuthenticationError 535" in logged(service, "mail.postponed")
        assert (server.tried, waiting(service)) == (0, 1)


def test_a_mail_that_is_put_off_is_sent_again(start_tokens: Start, server: MailServer) -> None:
    server.answers = ["451 greylisted", "421 busy"]
    service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{server.port}")
    user = User(service)
    logged(service, "mail.postponed")

    def is_sent() -> bool:
        rows(service, FAST)
        return bool(server.taken)

    eventually(is_sent, 60, every=0.5)
    assert service.post("/email/verify", {"token": token_in(server.mail_to(user.profile["email"]))}).status_code == 200
    assert server.tried == 3


def test_a_mail_that_is_refused_for_good_is_told_and_given_up(start_tokens: Start, server: MailServer) -> None:
    server.answers = ["550 no such mailbox"]
    service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{server.port}")
    user = User(service)
    assert "550" in logged(service, "mail.refused")
    eventually(lambda: waiting(service) == 0, 10)
    assert user.profile["email"] not in service.log.read_text()


def test_a_server_that_is_away_gets_it_later(start_tokens: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{port}")
    User(service)
    logged(service, "mail.postponed")
    assert waiting(service) == 1


def test_a_server_that_hangs_holds_up_neither_requests_nor_the_stop(start_tokens: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        service = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        users = [User(service) for _ in range(8)]  # more than are sent at once
        silent.settimeout(30)
        silent.accept()[0].close()  # the first is cut off, the others hang
        assert all(user.login().status_code == 200 for user in users)
        started = time.monotonic()
        service.terminate(10)
        assert time.monotonic() - started < 8
    with mail_server() as server:
        again = start_tokens(MAIL_URL=f"smtp://127.0.0.1:{server.port}")
        rows(again, FAST)
        eventually(lambda: len(server.taken) == len(users), 30)


def test_of_several_processes_one_sends_each_mail(start_tokens: Start, server: MailServer) -> None:
    url = f"smtp://127.0.0.1:{server.port}"
    first, second = start_tokens(MAIL_URL=url), start_tokens(MAIL_URL=url)
    for service in (first, second) * 10:
        assert service.post("/register", form_of()).status_code == 201
    eventually(lambda: len(server.taken) == 20, 30)
    eventually(lambda: waiting(first) == 0, 10)
    assert server.tried == 20
    assert len({mail["To"] for mail in server.taken}) == 20


def test_mails_of_a_laptop_are_files_that_the_log_names(start_tokens: Start) -> None:
    service = start_tokens()
    user = User(service)
    path = Path(logged(service, "mail.written").rpartition("path=")[2])
    (mail,) = files_of(service)
    assert (mail["To"], path.suffix, path.stat().st_mode & 0o777) == (user.profile["email"], ".eml", 0o600)


# Texts.

INNOCENT = ("reset", "ada", "ada@example.org", "", "t" * 43, "app@example.org")


@pytest.mark.parametrize("bad", ["a\r\nBcc: b@example.org", "a\nb", "a\r\n\r\nbody"])
@pytest.mark.parametrize("place", [1, 2, 5])
def test_no_header_comes_in_by_a_name_or_an_address(storage: str, place: int, bad: str) -> None:
    values = list(INNOCENT)
    values[place] = bad if place == 1 else f"{bad}@example.org"
    letters = Letters("", {"reset": "", "verify": ""})
    try:
        written = letters.write(*values)
    except ValueError:
        return
    head = written.as_bytes().partition(b"\r\n\r\n")[0]
    assert b"\nBcc" not in head and written["Bcc"] is None


def test_an_address_goes_to_the_host_that_its_domain_means(storage: str) -> None:
    letters = Letters("", {"reset": "", "verify": ""})
    written = letters.write("verify", "ada", "Ada.L@bücher.example", "", "t", "app@example.org")
    assert written["To"].addresses == (Address(username="Ada.L", domain="xn--bcher-kva.example"),)


def test_what_a_user_is_called_is_no_html(storage: str) -> None:
    letters = Letters("", {"reset": "https://a.example/", "verify": ""})
    written = letters.write("reset", "<b>&", "a@example.org", "", "t", "app@example.org")
    assert "&lt;b&gt;&amp;" in text_of(written, "html")


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("", []),
        ("de", ["de"]),
        ("fr-CH, fr;q=0.9, en;q=0.8, *;q=0.5", ["fr", "fr", "en"]),
        ("en;q=0.1, DE", ["de", "en"]),
        ("../../etc, \x00, de;q=x, ;;;,", ["de"]),
    ],
)
def test_the_best_language_is_first(storage: str, header: str, tags: list[str]) -> None:
    assert wanted_languages(header) == tags


@pytest.mark.parametrize("text", ["no subject", "Subject: a\n\n$password", "Subject: a\n\n$", "Subject: $other\n\nb"])
def test_a_faulty_text_ends_the_start(storage: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "reset.txt").write_text(text)
    with pytest.raises(SettingsError, match=r"^MAIL_TEMPLATES: reset\.txt: "):
        Letters(str(tmp_path), {"reset": "", "verify": ""})


# Settings.

URLS = {
    "smtp://mail.example.com": ("smtp", "mail.example.com", 587, "no-reply@mail.example.com"),
    "smtps://mail.example.com?from=a@b.example": ("smtps", "mail.example.com", 465, "a@b.example"),
    "smtp://u:p@127.0.0.1:2525": ("smtp", "127.0.0.1", 2525, "no-reply@localhost"),
}


@pytest.mark.parametrize("url", URLS)
def test_a_mail_url_says_where_to_and_from_whom(storage: str, url: str) -> None:
    found = Settings.from_env({"MAIL_URL": url}).mail_url
    assert found and (found.scheme, found.host, found.port, found.sender) == URLS[url]
    assert "p" not in repr(found).replace("smtp", "").replace("smtps", "")[8:] or "mail" in url


BAD_URLS = ["mail.example.com", "http://a", "smtp://", "smtp://a:b:c", "file:", "smtp://a?from=x", "smtp://a?to=b@c.de"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_mail_url_is_one_line_without_it(storage: str, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"MAIL_URL": url})
    assert str(caught.value).startswith("MAIL_URL: must be")


def test_verified_addresses_need_mail(storage: str) -> None:
    env = {"APP_ENV": "production", "SECRET_KEY": fresh_name("a secret") + "x" * 20, "REQUIRE_VERIFIED_EMAIL": "true"}
    with pytest.raises(SettingsError, match=r"^MAIL_URL: required"):
        Settings.from_env(env)
