"""The texts of mails: built in, or from files of the operator, also in other languages.

`reset.txt`, `reset.html`, `verify.txt` and `verify.html` in MAIL_TEMPLATES replace the built-in ones;
`reset.de.txt` is for browsers that ask for German. A text begins with a line `Subject: …`. `$username`, `$link` and
`$token` stand for what the mail is about.
"""

import html
import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from string import Template
from urllib.parse import urlencode

from shared.settings import SettingsError
from token_svc import emails

NAMES = {"username", "link", "token"}
POLICY = SMTP.clone(max_line_length=998)  # RFC 5322 §2.1.1: a link is not cut
FILE = re.compile(r"(reset|verify)(?:\.([a-z]{2,3}))?\.(txt|html)")
SUBJECT = re.compile(r"Subject: *([^\r\n]+)\r?\n+")
LANGUAGE = re.compile(r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*")

RESET = """\
Subject: Choose a new password

Hello $username,

you, or another who knows your address, asked for a new password. To choose it:

$link

This works once, for 30 minutes. If you did not ask, there is nothing to do: your password is as it was.
"""
VERIFY = """\
Subject: Confirm your address

Hello $username,

to confirm that this is your address:

$link

This works once, for 24 hours. If you did not register, there is nothing to do.
"""


class Letters:
    def __init__(self, directory: str, pages: dict[str, str]) -> None:
        """`pages` are the app's for its users, by kind, which get `?token=`. Raises SettingsError."""
        self._pages = pages
        self._texts = {("reset", ""): _text(RESET), ("verify", ""): _text(VERIFY)}
        self._htmls: dict[tuple[str, str], Template] = {}
        for file in sorted(Path(directory).iterdir()) if directory else []:
            if found := FILE.fullmatch(file.name):
                self._take(file, found[1], found[2] or "", is_html=found[3] == "html")

    def _take(self, file: Path, kind: str, language: str, *, is_html: bool) -> None:
        try:
            text = file.read_text(encoding="utf-8")
            if is_html:
                self._htmls[kind, language] = _template(text)
            else:
                self._texts[kind, language] = _text(text)
        except (OSError, ValueError) as error:
            raise SettingsError(f"MAIL_TEMPLATES: {file.name}: {error}") from None

    def write(self, kind: str, username: str, email: str, language: str, token: str, sender: str) -> EmailMessage:
        """`language` is an Accept-Language header."""
        known = next((one for one in wanted_languages(language) if (kind, one) in self._texts), "")
        subject, text = self._texts[kind, known]
        values = {"username": username, "link": self._link(kind, token), "token": token}
        message = EmailMessage(policy=POLICY)  # refuses line ends in headers
        message["Subject"] = " ".join(subject.substitute(values).split())
        message["From"] = _address(sender)
        message["To"] = _address(email)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: no holiday notes
        message.set_content(text.substitute(values))
        message.add_alternative(self._html(kind, known, text, values), subtype="html")
        return message

    def _html(self, kind: str, language: str, text: Template, values: dict[str, str]) -> str:
        escaped = {name: html.escape(value) for name, value in values.items()}
        if own := self._htmls.get((kind, language)):
            return own.substitute(escaped)
        if self._pages[kind]:
            escaped["link"] = f'<a href="{escaped["link"]}">{escaped["link"]}</a>'
        paragraphs = Template(html.escape(text.template)).substitute(escaped).strip().split("\n\n")
        return "".join(f"<p>{paragraph}</p>\n" for paragraph in paragraphs)

    def _link(self, kind: str, token: str) -> str:
        """The page with the token, or the token itself where there is no page."""
        page = self._pages[kind]
        if not page:
            return token
        return f"{page}{'&' if '?' in page else '?'}{urlencode({'token': token})}"


def wanted_languages(header: str) -> list[str]:
    """The primary tags of an Accept-Language header, the best first."""
    ranked: list[tuple[float, int, str]] = []
    for part in header.split(","):
        tag, _, quality = part.strip().partition(";q=")
        if LANGUAGE.fullmatch(tag):
            weight = float(quality) if re.fullmatch(r"[01](\.[0-9]{1,3})?", quality) else 1.0
            ranked.append((-weight, len(ranked), tag.partition("-")[0].lower()))
    return [tag for _, _, tag in sorted(ranked)]


def _text(written: str) -> tuple[Template, Template]:
    found = SUBJECT.match(written)
    if found is None:
        raise ValueError("must begin with a line Subject: …")
    return _template(found[1]), _template(written[found.end() :])


def _template(text: str) -> Template:
    template = Template(text)
    if not template.is_valid() or not set(template.get_identifiers()) <= NAMES:
        raise ValueError("may have $username, $link and $token, and $$ for a dollar")
    return template


def _address(email: str) -> Address:
    local, _, domain = email.rpartition("@")
    return Address(username=local, domain=emails.host(domain))
