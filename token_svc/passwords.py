"""Passwords: which are accepted, how they are stored, and how many are checked at once.

argon2id with 19 MiB, t=2, p=1 (OWASP's password storage cheat sheet, first choice). Hashing releases
the GIL, so it runs in a few threads of its own, behind a bounded queue.
"""

import os
import re
import unicodedata
from base64 import b64encode
from pathlib import Path

from passlib.context import CryptContext

from shared import cpus
from token_svc.foreign_hashes import MAX_MEMORY_KIB, MAX_PASSES, MAX_ROUNDS, Scrypt, check_of, own_form
from token_svc.turns import Asker, Turns

MAX_LENGTH = 1024  # in NFC
MAX_SENT_LENGTH = 3 * MAX_LENGTH  # NFC composes at most three code points into one
MEMORY_KIB = 19 * 1024
TIME_COST = 2
PARALLELISM = 1
TODAYS = f"$argon2id$v=19$m={MEMORY_KIB},t={TIME_COST},p={PARALLELISM}$"  # what a new hash begins with
WAITING_PER_THREAD = 16  # beyond it clients would give up before their turn
MAX_STORED_LENGTH = 512

# The 19,640 most frequent of Have I Been Pwned, by Royce Williams, as shipped with Django 5.2 (BSD):
# https://gist.github.com/roycewilliams/226886fd01572964e1431ac8afc999ce
COMMON = Path(__file__).parent / "common_passwords.txt"

ARGON2_COST = re.compile(r"\$argon2\w*\$(?:v=\d+\$)?m=(\d+),t=(\d+)")
SCRYPT_COST = re.compile(r"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)")
PBKDF2_COST = re.compile(r"\$pbkdf2(?:-\w+)?\$(\d+)\$")

CONTEXT = CryptContext(
    schemes=["argon2", "scrypt", "pbkdf2_sha256", "pbkdf2_sha512", "pbkdf2_sha1"],
    argon2__type="ID",
    argon2__memory_cost=MEMORY_KIB,
    argon2__time_cost=TIME_COST,
    argon2__parallelism=PARALLELISM,
)

OPERATOR = Asker()


class Passwords:
    def __init__(self, min_length: int, threads: int = cpus.usable()) -> None:
        self._min_length = min_length
        self._common = frozenset(COMMON.read_text(encoding="utf-8").split("\n"))
        self.turns = Turns(threads, threads * WAITING_PER_THREAD, "passwords")
        self._decoy = _decoy()  # passwords of unknown users are checked against it

    def fault(self, password: str, *names: str) -> str:
        """What is wrong with a new password, '' when nothing is. `names` are the user's own."""
        if len(password) <= MAX_SENT_LENGTH:
            password = normal(password)
        if len(password) < self._min_length:
            return f"must have at least {self._min_length} characters"
        if len(password) > MAX_LENGTH:
            return f"must have at most {MAX_LENGTH} characters"
        if not password.strip() or _plain(password) in self._common:
            return "is one of the most common passwords"
        if any(_is_made_of(password.casefold(), name.casefold()) for name in names):
            return "must not be made of the username or the email"
        return ""

    async def hash(self, password: str, asker: Asker = OPERATOR) -> str:
        """Raises Unavailable when too many wait already."""
        return str(await self.turns.run(asker, CONTEXT.hash, normal(password)))

    async def verify(self, password: str, stored: str | None, asker: Asker = OPERATOR) -> bool:
        """Whether it is the password of `stored`. With None the work is the same, and the answer False."""
        if len(password) > MAX_SENT_LENGTH or len(normal(password)) > MAX_LENGTH:
            return False
        return await self.turns.run(asker, _is_of, password, stored or self._decoy) and stored is not None

    def close(self) -> None:
        self.turns.close()


def _decoy() -> str:
    """A hash of no password, in the form of those that CONTEXT makes, without the time that one takes."""
    salt, digest = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
    return f"{TODAYS}{salt}${digest}"


def _plain(password: str) -> str:
    return unicodedata.normalize("NFKC", password).casefold()


def normal(password: str) -> str:
    """NFC: keyboards compose characters differently (NIST SP 800-63B-4 §3.1.1.2)."""
    return unicodedata.normalize("NFC", password)


def needs_renewal(stored: str) -> bool:
    """Whether a hash is not of today's kind. One that costs more tells by its time that the user exists."""
    return not stored.startswith(TODAYS)


def hash_fault(stored: str) -> str:
    """What is wrong with a hash of another system, '' when passwords can be checked with it."""
    own = own_form(stored)
    if len(own) > MAX_STORED_LENGTH or not own.isprintable():
        return "must be a password hash"
    if check_of(own) or (CONTEXT.identify(own) and not _costs_too_much(own)):
        return ""
    return "must be argon2, bcrypt, scrypt or PBKDF2 as passlib, Django or Werkzeug write it, and not too costly"


def _is_of(password: str, stored: str) -> bool:
    """Other systems hash a password as it is sent, so theirs is checked with both."""
    composed = normal(password)
    if _verify(composed, stored):
        return True
    return password != composed and needs_renewal(stored) and _verify(password, stored)


def _verify(password: str, stored: str) -> bool:
    if len(stored) > MAX_STORED_LENGTH:
        return False
    try:
        if check := check_of(stored):
            return check(password.encode())
        return not _costs_too_much(stored) and bool(CONTEXT.verify(password, stored))
    except (ValueError, TypeError):  # a corrupt hash, or one of a scheme that is not known
        return False


def _costs_too_much(stored: str) -> bool:
    if found := ARGON2_COST.match(stored):
        memory_kib, passes = map(int, found.groups())
        return memory_kib > MAX_MEMORY_KIB or memory_kib * passes > MAX_MEMORY_KIB * MAX_PASSES
    if found := SCRYPT_COST.match(stored):
        log2, block_size, parallelism = map(int, found.groups())
        return not Scrypt(2 ** min(log2, 64), block_size, parallelism).is_bounded
    rounds = PBKDF2_COST.match(stored)
    return rounds is None or int(rounds[1]) > MAX_ROUNDS


def _is_made_of(password: str, name: str) -> bool:
    rest = password.replace(name, "").replace(name.partition("@")[0] or name, "")
    return len(rest) < len(password) and len(rest) < 4
