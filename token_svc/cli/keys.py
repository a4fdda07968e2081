"""Key files: a new private key, and a rotation of keys that ends no token.

A key set (RFC 7517) keeps the public keys that tokens may still be signed with. It is written before the private
key, so that a service that starts in between knows the new key before it signs.
"""

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared import files, times
from shared.cli.terminal import Failure, failing
from shared.keys import Given, SigningKey, given_signing_key, published_keys, signing_key
from shared.settings import Secret, SettingsError
from token_svc import events
from token_svc.settings import Settings

ALGORITHMS = ("ES256", "RS256")
RSA_BITS = 3072  # 128 bits of security, as P-256 has (NIST SP 800-57 part 1, table 2)
DEFAULT_FILE = Path(os.environ.get("STATE_DIR") or "var", "signing_key.pem")
RETIRED_MS = 7 * 86400 * 1000  # tokens live for a day at most; a process signs with the old key until its restart

SHARED_SECRET = """\
Tokens are signed with SECRET_KEY. A list rotates it, the first signs and all verify; in three steps, each for every
process of both services:

1. SECRET_KEY=old,new    and restart: the new one is known everywhere
2. SECRET_KEY=new,old    and restart: the new one signs
3. SECRET_KEY=new        and restart, {seconds} seconds later, when the last token signed with the old one is over

A new one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"""

NEXT_STEPS = """\
{key_id} signs from the next start on, and {jwks} has the public keys, those of before included. Now, in this order:
1. copy {jwks} to the services that verify (JWKS_FILE) and restart them
2. restart the token service{setting}"""

ANNOUNCED = """\
{key_id} is in {jwks} and signs nothing yet. Copy that file to the services that verify (JWKS_FILE), restart them,
then: python -m token_svc keys rotate"""


def new(options: argparse.Namespace) -> None:
    """Raises Failure, and writes nothing, where the file is there already."""
    pem = _generate(options.algorithm)
    file: Path = options.file
    with failing(f"{file} can't be made", OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.create(file, pem)
    key = _key_of(pem)
    events.announce_key("key_made", key.key_id)
    print(f"{file}: {key.algorithm}, {key.key_id}\nSIGNING_KEY_FILE={file} makes the token service sign with it")


def public(settings: Settings) -> None:
    """Prints the content of a JWKS_FILE for services that verify."""
    if not given_signing_key(settings):
        raise Failure("SIGNING_KEY_FILE: not set, and a shared secret has no public half")
    print(json.dumps(published_keys(settings), indent=1))


def rotate(settings: Settings, environ: Mapping[str, str], options: argparse.Namespace) -> None:
    if settings.signing_key:
        raise Failure("SIGNING_KEY: is a variable, and files are what can be rotated; see SIGNING_KEY_FILE")
    if not settings.signing_key_file:
        print(SHARED_SECRET.format(seconds=settings.access_token_seconds))
        return
    file = Path(environ["SIGNING_KEY_FILE"]).resolve()
    jwks = options.jwks or (Path(environ["JWKS_FILE"]) if environ.get("JWKS_FILE") else None)
    if jwks is None:
        raise Failure("JWKS_FILE: not set; say with --jwks FILE where the public keys are to be kept")
    with failing("the keys can't be rotated", OSError, ValueError, KeyError, TypeError, SettingsError), _alone(file):
        key = _rotate(file, jwks, options.algorithm, is_announced=options.announce)
    if options.announce:
        print(ANNOUNCED.format(key_id=key.key_id, jwks=jwks))
    else:
        setting = "" if environ.get("JWKS_FILE") else f", with JWKS_FILE={jwks}"
        print(NEXT_STEPS.format(key_id=key.key_id, jwks=jwks, setting=setting))


def _rotate(file: Path, jwks: Path, algorithm: str | None, *, is_announced: bool) -> SigningKey:
    """The next key, which was announced before or is made now."""
    old = _key_of(file.read_bytes())
    waiting = file.with_name(f"{file.name}.next")
    if not waiting.exists():
        files.create(waiting, _generate(algorithm or old.algorithm), like=file)
    key = _key_of(waiting.read_bytes())
    key_set = _key_set(jwks, old, key, is_announced=is_announced)
    files.replace(jwks, json.dumps(key_set, indent=1).encode(), mode=0o644, like=file)
    if not is_announced:
        waiting.replace(file)
        files.sync_directory(file.parent)
    events.announce_key("key_announced" if is_announced else "key_rotated", key.key_id)
    return key


def _key_of(pem: bytes) -> SigningKey:
    return signing_key(Given("SIGNING_KEY_FILE", Secret(pem)))


def _key_set(jwks: Path, old: SigningKey, new: SigningKey, *, is_announced: bool) -> dict[str, Any]:
    """The two keys, and those before them that a token may still be signed with."""
    now = int(time.time() * 1000)
    entries = [dict(key.public or {}) for key in (new, old)]
    if not is_announced:
        entries[1]["retired_at"] = times.to_text(now)
    known = {entry["kid"] for entry in entries}
    before = json.loads(jwks.read_bytes())["keys"] if jwks.exists() else []
    return {"keys": [*entries, *(one for one in before if one["kid"] not in known and not _is_over(one, now))]}


def _is_over(entry: Mapping[str, Any], now: int) -> bool:
    return "retired_at" in entry and times.from_text(entry["retired_at"]) < now - RETIRED_MS


def _generate(algorithm: str) -> bytes:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    )
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One at a time: two rotations at once would each drop the other's key."""
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
