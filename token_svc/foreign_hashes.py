"""Password hashes as other systems write them: bcrypt, and those of Django and Werkzeug.

Each is checked with the library that computes it. passlib, whose names for them differ, refuses every password where
bcrypt is 5.0 or newer (https://github.com/pyca/bcrypt/issues/1079).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

import bcrypt

MAX_MEMORY_KIB = 1024 * 1024  # a stored hash that asks for more is not computed
MAX_PASSES = 4  # over so much memory
MAX_OPENSSL_MEMORY = 2**31 - 1  # bytes; hashlib.scrypt takes no higher limit
MAX_ROUNDS = 10_000_000
BCRYPT_BYTES = 72  # bcrypt ignores the rest, and since 5.0 refuses it

Check = Callable[[bytes], bool]

RADIX64 = "[./A-Za-z0-9]"
COST = "0[4-9]|1[0-6]"  # bcrypt has none below 4; 16 takes some four seconds
BCRYPT_SALT = f"{RADIX64}{{21}}[.Oeu]"  # 128 bits: bcrypt refuses one with other bits set in its last character
BCRYPT = rf"(\$2[aby]\$(?:{COST})\${BCRYPT_SALT}{RADIX64}{{31}})"
DIGEST, ROUNDS, SALT = "(?P<digest>sha1|sha256|sha512)", r"(?P<rounds>\d{1,8})", "(?P<salt>[^$]{1,128})"
N, R, P = r"(?P<n>\d{1,8})", r"(?P<r>\d{1,4})", r"(?P<p>\d{1,4})"


class Scrypt(NamedTuple):
    """https://docs.python.org/3/library/hashlib.html#hashlib.scrypt"""

    cost: int
    block_size: int
    parallelism: int

    @property
    def is_bounded(self) -> bool:
        memory_kib = self.cost * self.block_size // 8
        is_power = self.cost > 1 and self.cost & (self.cost - 1) == 0
        return (
            is_power
            and self.block_size > 0 < self.parallelism
            and self.cost.bit_length() <= 16 * self.block_size  # n < 2**(16 * r) (RFC 7914 §2)
            and self.max_memory <= MAX_OPENSSL_MEMORY
            and memory_kib <= MAX_MEMORY_KIB
            and memory_kib * self.parallelism <= MAX_MEMORY_KIB * MAX_PASSES
        )

    @property
    def max_memory(self) -> int:
        """What OpenSSL asks for, in bytes."""
        return 128 * self.block_size * (self.cost + self.parallelism + 2)

    def hash(self, password: bytes, salt: bytes, length: int) -> bytes:
        n, r, p = self
        return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=self.max_memory, dklen=length)


def check_of(stored: str) -> Check | None:
    """The check of a password against a stored hash; None where the hash is of another kind, or too costly."""
    for form, make in FORMS:
        if found := form.fullmatch(stored):
            try:
                return make(found)
            except ValueError:  # bad base64 or hex
                return None
    return None


def own_form(stored: str) -> str:
    """Django's argon2 is argon2's own form behind a name."""
    return stored.removeprefix("argon2") if stored.startswith("argon2$argon2") else stored


def _bcrypt(found: re.Match[str]) -> Check:
    return lambda password: bcrypt.checkpw(password[:BCRYPT_BYTES], found[1].encode())


def _django_bcrypt(found: re.Match[str]) -> Check:
    return lambda password: bcrypt.checkpw(hashlib.sha256(password).hexdigest().encode(), found[1].encode())


def _passlib_bcrypt(found: re.Match[str]) -> Check:
    kind, cost, salt, digest = found.groups()

    def check(password: bytes) -> bool:
        keyed = base64.b64encode(hmac.digest(salt.encode(), password, "sha256"))
        return bcrypt.checkpw(keyed, f"${kind}${cost:0>2}${salt}{digest}".encode())

    return check


def _expected(found: re.Match[str]) -> bytes:
    """The digest, which Django writes in base64 and Werkzeug in hex. Raises ValueError."""
    written = found.groupdict()
    return base64.b64decode(written["base64"], validate=True) if "base64" in written else bytes.fromhex(written["hex"])


def _pbkdf2(found: re.Match[str]) -> Check | None:
    digest, rounds, salt, expected = found["digest"], int(found["rounds"]), found["salt"].encode(), _expected(found)
    if not 0 < rounds <= MAX_ROUNDS:
        return None
    return lambda password: hmac.compare_digest(hashlib.pbkdf2_hmac(digest, password, salt, rounds), expected)


def _scrypt(found: re.Match[str]) -> Check | None:
    scrypt = Scrypt(int(found["n"]), int(found["r"]), int(found["p"]))
    salt, expected = found["salt"].encode(), _expected(found)
    if not scrypt.is_bounded or len(expected) != 64:
        return None
    return lambda password: hmac.compare_digest(scrypt.hash(password, salt, len(expected)), expected)


FORMS = [
    (re.compile(form), make)
    for form, make in (
        (BCRYPT, _bcrypt),
        (rf"bcrypt\${BCRYPT}", _bcrypt),
        (rf"bcrypt_sha256\${BCRYPT}", _django_bcrypt),
        (
            rf"\$bcrypt-sha256\$v=2,t=(2[ab]),r=({COST}|[4-9])\$({BCRYPT_SALT})\$({RADIX64}{{31}})",
            _passlib_bcrypt,
        ),
        (rf"pbkdf2_{DIGEST}\${ROUNDS}\${SALT}\$(?P<base64>[A-Za-z0-9+/=]{{28,88}})", _pbkdf2),
        (rf"pbkdf2:{DIGEST}:{ROUNDS}\${SALT}\$(?P<hex>[0-9a-f]{{40,128}})", _pbkdf2),
        (rf"scrypt\${N}\${SALT}\${R}\${P}\$(?P<base64>[A-Za-z0-9+/=]{{88}})", _scrypt),
        (rf"scrypt:{N}:{R}:{P}\${SALT}\$(?P<hex>[0-9a-f]{{128}})", _scrypt),
    )
]
