"""A mail server, as real as aiosmtpd makes it, and mails as their readers see them."""

import asyncio
import email
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Protocol
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from tests.processes import HTTPService, eventually, free_port

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class MailServer:
    """`answers` are what the next mails are answered with, in turn; a mail without one is taken."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.taken: list[EmailMessage] = []
        self.tried = 0
        self.were_secure: list[bool] = []
        self.port = free_port()

    async def handle_DATA(self, server: Protocol, session: Session, envelope: Envelope) -> str:
        self.tried += 1
        self.were_secure.append(session.ssl is not None)
        if self.answers:
            return self.answers.pop(0)
        self.taken.append(message_of(envelope.original_content or b""))
        return "250 taken"

    def mail_to(self, address: str, subject: str = "") -> EmailMessage:
        """The mail, once it has come."""

        def found() -> EmailMessage | None:
            return next((one for one in self.taken if address in one["To"] and subject in one["Subject"]), None)

        mail: EmailMessage = eventually(found, 30)
        self.taken.remove(mail)
        return mail


class _Controller(Controller):
    """One that closes its connections when it stops."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.protocols: list[Protocol] = []
        super().__init__(*arguments, **options)

    def factory(self) -> Protocol:
        self.protocols.append(super().factory())  # type: ignore[no-untyped-call]
        return self.protocols[-1]

    def stop(self, no_assert: bool = False) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self.loop).result(10)
        super().stop(no_assert)

    async def _hang_up(self) -> None:
        await _some_turns()  # asyncio can't close what was accepted, but has no transport before its server is closed
        assert self.server is not None
        self.server.close()
        for protocol in self.protocols:
            if protocol.transport is not None:
                cast(asyncio.Transport, protocol.transport).abort()
        await _some_turns()  # in which the sockets are closed


async def _some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None, password: str = "") -> Iterator[MailServer]:
    """With `tls` it offers STARTTLS and asks for it; with `password` it takes mails after a login only."""

    def authenticate(server: Protocol, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"app", password.encode())
        return AuthResult(success=is_right, handled=False)  # aiosmtpd answers 235 or 535

    server = MailServer()
    controller = _Controller(
        server,
        hostname="127.0.0.1",
        port=server.port,
        tls_context=tls,
        require_starttls=tls is not None,
        authenticator=authenticate if password else None,
        auth_required=bool(password),
        auth_require_tls=tls is not None,
    )
    controller.start()
    try:
        yield server
    finally:
        controller.stop()


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def token_in(mail: EmailMessage) -> str:
    return str(TOKEN.findall(text_of(mail))[-1])


def files_of(service: HTTPService, address: str = "") -> list[EmailMessage]:
    """The mails that a service of development has written, to an address or all."""
    texts = [path.read_bytes() for path in sorted((service.log.parent / "var" / "mail").glob("*.eml"))]
    mails = [message_of(text) for text in texts if address.encode() in text]  # to parse one takes half a millisecond
    return [mail for mail in mails if address in ("", mail["To"])]


def message_of(text: bytes) -> EmailMessage:
    message = email.message_from_bytes(text, policy=SMTP)
    assert isinstance(message, EmailMessage)
    return message


def written_to(service: HTTPService, address: str, subject: str, nth: int = 1) -> EmailMessage:
    """The nth mail to an address, once it is written."""

    def found() -> list[EmailMessage]:
        return [one for one in files_of(service, address) if subject in one["Subject"]][nth - 1 :]

    return eventually(found, 30)[0]  # type: ignore[no-any-return]
