"""Sends the mails of the outbox: by SMTP, or into files in development.

Each is sent in a thread of its own, AT_ONCE of them, within TRY_SECONDS: a server that hangs holds up neither requests
nor the stop of the process.
"""

import asyncio
import contextlib
import logging
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Protocol

from shared import files
from shared.database import Database
from shared.database.jobs import Helper
from shared.errors import Unavailable
from shared.settings import is_this_machine
from token_svc.accounts import AccountRow
from token_svc.mail import outbox, tokens
from token_svc.mail.letters import Letters
from token_svc.mail.outbox import MailRow
from token_svc.settings import MailURL

POLL_SECONDS = 5.0
STEP_SECONDS = 20.0  # for each answer of a server
TRY_SECONDS = 60.0  # for one mail
AT_ONCE = 4
PERMANENT = range(500, 600)

log = logging.getLogger(__name__)


class Refused(Exception):
    """The server will never take this mail."""


class Delivery(Protocol):
    def deliver(self, message: EmailMessage, name: str) -> None:
        """Raises Refused for good, OSError or smtplib.SMTPException for now."""

    def abort(self) -> None:
        """Ends a delivery that takes too long."""


class FileDelivery:
    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def deliver(self, message: EmailMessage, name: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = (self._directory / f"{name}.eml").resolve()
        files.replace(path, message.as_bytes())
        log.info("mail.written", extra={"path": str(path)})

    def abort(self) -> None:
        pass


class SMTPDelivery:
    """One delivery by SMTP."""

    def __init__(self, url: MailURL) -> None:
        self._url = url
        self._client: smtplib.SMTP | None = None

    def deliver(self, message: EmailMessage, name: str) -> None:
        try:
            with self._connected() as client:
                client.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise (Refused(codes) if all(code in PERMANENT for code in codes) else error) from error
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise (Refused(error.smtp_code) if error.smtp_code in PERMANENT else error) from error
        except (smtplib.SMTPNotSupportedError, UnicodeError) as error:
            raise Refused(type(error).__name__) from error

    def _connected(self) -> smtplib.SMTP:
        url, context = self._url, ssl.create_default_context()
        if url.scheme == "smtps":
            client: smtplib.SMTP = smtplib.SMTP_SSL(url.host, url.port, timeout=STEP_SECONDS, context=context)
            self._client = client
        else:
            self._client = client = smtplib.SMTP(url.host, url.port, timeout=STEP_SECONDS)
            client.ehlo()
            if client.has_extn("starttls") or not is_this_machine(url.host):
                client.starttls(context=context)  # raises where it is not offered: no mail goes out in the clear
        if url.user:
            client.login(url.user, url.password)
        return client

    def abort(self) -> None:
        connection = self._client.sock if self._client else None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Mailer:
    def __init__(self, database: Database, url: MailURL, letters: Letters) -> None:
        self._database = database
        self._url = url
        self._letters = letters
        self.news = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()
        database.subscribe(outbox.HINT, lambda about: self.news.set())

    async def step(self) -> None:
        """Starts to send what is due, as many at once as there are places."""
        while one := await self._claimed_for_a_place():
            task = asyncio.create_task(self._send(one))
            self._sending.add(task)
            task.add_done_callback(self._done)

    async def _claimed_for_a_place(self) -> MailRow | None:
        claimed = None
        await self._places.acquire()
        try:
            claimed = await self._claimed()
        finally:
            if claimed is None:
                self._places.release()
        return claimed

    async def _claimed(self) -> MailRow | None:
        if not await self._database.read(outbox.is_due):  # mostly there is none, and looking writes nothing
            return None
        return await self._database.write(outbox.claim)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._places.release()

    async def _send(self, one: MailRow) -> None:
        about: dict[str, object] = {"mail": one.id, "kind": one.kind, "sub": one.account_id, "attempt": one.attempts}
        try:
            await self._try(one, about)
        except Unavailable as error:
            log.warning("mail.database_unavailable", extra=about | {"reason": error.detail})  # its lease ends

    async def _try(self, one: MailRow, about: dict[str, object]) -> None:
        try:
            if made := await self._database.write(lambda tx: tokens.make(tx, one)):
                await self._deliver(one, *made)
                log.info("mail.sent", extra=about)
        except OSError as error:  # smtplib's errors are OSErrors; a certificate's is a ValueError, too
            is_kept = await self._database.write(lambda tx: outbox.postpone(tx, one))
            event = "mail.postponed" if is_kept else "mail.given_up"
            log.warning(event, extra=about | {"reason": _reason(error)})
            return
        except (Refused, ValueError) as error:
            log.error("mail.refused", extra=about | {"reason": _reason(error)})
        await self._database.write(lambda tx: outbox.drop(tx, one))

    async def _deliver(self, one: MailRow, account: AccountRow, token: str) -> None:
        sender = self._url.sender
        message = self._letters.write(one.kind, account.username, one.email, one.language, token, sender)
        message["Date"] = formatdate(localtime=False)
        message["Message-ID"] = f"<{one.id}@{sender.rpartition('@')[2]}>"
        delivery: Delivery = FileDelivery(self._url.path) if self._url.scheme == "file" else SMTPDelivery(self._url)
        thread = Helper("mail")
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await thread.do(lambda: delivery.deliver(message, one.id))
        finally:
            delivery.abort()
            thread.stop()


def _reason(error: Exception) -> str:
    """For the log, without the server's text, which may name the address."""
    code = getattr(error, "smtp_code", "") or (error.args[0] if isinstance(error, Refused) else "")
    told = str(error) if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException) else ""
    return " ".join(filter(None, (type(error).__name__, str(code), told)))
