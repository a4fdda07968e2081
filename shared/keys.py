"""The keys that sign tokens, those that verify them, and those that are published (JWKS)."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jwk
from jose.backends.cryptography_backend import CryptographyECKey
from jose.exceptions import JOSEError

from shared.settings import Secret, Settings, SettingsError

MIN_RSA_BITS = 2048
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "k"}
ASYMMETRIC = {"EC": "ES256", "RSA": "RS256"}


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class P256Key(CryptographyECKey):
    """Signs a text in one way only, and accepts one signature of it. ECDSA's nonce is made of the key and the text
    (RFC 6979), and of s and n - s, which are both valid, the lower one is taken."""

    def sign(self, msg: bytes) -> bytes:
        r, s = decode_dss_signature(self.prepared_key.sign(msg, _ecdsa()))
        return r.to_bytes(32, "big") + min(s, P256_ORDER - s).to_bytes(32, "big")

    def verify(self, msg: bytes, sig: bytes) -> bool:
        is_lower = int.from_bytes(sig[32:], "big") <= P256_ORDER // 2
        return is_lower and bool(super().verify(msg, sig))  # type: ignore[no-untyped-call]


def _ecdsa() -> ec.ECDSA:
    try:
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:  # cryptography was built with an OpenSSL below 3.2; its wheels are not
        return ec.ECDSA(hashes.SHA256())


def _constructed(material: str | dict[str, Any], algorithm: str) -> Any:
    return P256Key(material, algorithm) if algorithm == "ES256" else jwk.construct(material, algorithm)


@dataclass(frozen=True)
class Key:
    algorithm: str
    jose_key: Any


@dataclass(frozen=True)
class SigningKey:
    """What tokens are made with; `public` is its JSON Web Key, None for a shared secret."""

    key_id: str
    algorithm: str
    jose_key: Any
    public: Mapping[str, str] | None


def key_id(secret: bytes) -> str:
    """The `kid` of a shared secret: a hash, which reveals nothing of it."""
    return hashlib.sha256(b"kid:" + secret).hexdigest()[:16]


class Given(NamedTuple):
    """Key material, and the variable that it comes from."""

    variable: str
    secret: Secret


def given_signing_key(settings: Settings) -> Given | None:
    return _given(("SIGNING_KEY", settings.signing_key), ("SIGNING_KEY_FILE", settings.signing_key_file))


def given_jwks(settings: Settings) -> Given | None:
    return _given(("JWKS", settings.jwks), ("JWKS_FILE", settings.jwks_file))


def _given(*sources: tuple[str, Secret | None]) -> Given | None:
    return next((Given(variable, secret) for variable, secret in sources if secret), None)


def load_keys(settings: Settings) -> dict[str, Key]:
    """Key id to key: the public keys of JWKS and of the signing key, else the shared secrets."""
    jwks, private = given_jwks(settings), given_signing_key(settings)
    keys = _jwks_keys(jwks) if jwks else {}
    if private:
        signing = signing_key(private)
        keys[signing.key_id] = Key(signing.algorithm, _constructed(dict(signing.public or {}), signing.algorithm))
    if jwks or private:
        return keys  # without shared secrets beside them (RFC 8725 §3.1)
    return {key_id(secret.value): Key("HS256", jwk.construct(secret.value, "HS256")) for secret in settings.secret_key}


def load_signing_key(settings: Settings) -> SigningKey:
    """SIGNING_KEY's key, else the first shared secret. Raises SettingsError."""
    if private := given_signing_key(settings):
        return signing_key(private)
    secret = settings.secret_key[0].value
    return SigningKey(key_id(secret), "HS256", jwk.construct(secret, "HS256"), None)


def signing_key(given: Given) -> SigningKey:
    """The signing key of a private key in PEM. Raises SettingsError."""
    try:
        key = serialization.load_pem_private_key(given.secret.value, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(f"{given.variable}: must be an unencrypted private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm, names = "ES256", ["crv", "kty", "x", "y"]
    elif isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        algorithm, names = "RS256", ["e", "kty", "n"]
    else:
        raise SettingsError(f"{given.variable}: must be an EC P-256 key or an RSA key of {MIN_RSA_BITS} bits or more")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the key alone, without comments
    jose_key = _constructed(pem.decode(), algorithm)
    described = jose_key.public_key().to_dict()
    public = {name: _as_text(described[name]) for name in names}
    return SigningKey(_thumbprint(public), algorithm, jose_key, public | {"kid": _thumbprint(public)})


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _thumbprint(public: Mapping[str, str]) -> str:
    """RFC 7638."""
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).decode().rstrip("=")


def published_keys(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """The public JSON Web Key Set; a shared secret has no place in it."""
    jwks, private = given_jwks(settings), given_signing_key(settings)
    entries = json.loads(jwks.secret.value)["keys"] if jwks else []
    if private:
        signing = signing_key(private)
        entries = [signing.public, *(entry for entry in entries if entry["kid"] != signing.key_id)]
    allowed = ("kty", "crv", "x", "y", "n", "e", "kid")
    return {
        "keys": [
            {name: entry[name] for name in allowed if name in entry} | {"use": "sig", "alg": ASYMMETRIC[entry["kty"]]}
            for entry in entries
        ]
    }


def _jwks_keys(given: Given) -> dict[str, Key]:
    try:
        entries = json.loads(given.secret.value)["keys"]
        keys = {entry["kid"]: _public_key(entry) for entry in entries}
        if not keys or len(keys) != len(entries) or not all(isinstance(key_id, str) for key_id in keys):
            raise ValueError("no key, a kid twice, or a kid that is no text")
        return keys
    except (JOSEError, ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(
            f"{given.variable}: must be a JSON Web Key Set of public EC P-256 or RSA keys with a kid"
        ) from None


def _public_key(entry: Mapping[str, Any]) -> Key:
    algorithm = ASYMMETRIC[entry["kty"]]
    if PRIVATE_MEMBERS & set(entry) or entry.get("crv", "P-256") != "P-256":
        raise ValueError("private, or of another curve")
    if algorithm == "RS256" and len(base64.urlsafe_b64decode(entry["n"] + "==")) * 8 < MIN_RSA_BITS:
        raise ValueError("too short")
    return Key(algorithm, _constructed(dict(entry), algorithm))
