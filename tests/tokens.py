"""Access tokens made by hand, so that a test can make bad ones too."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.auth import TOKEN_TYPE, Claims
from shared.keys import key_id
from shared.settings import Settings

ISSUER, AUDIENCE = Settings.issuer, Settings.audience
SECRET = "a secret of the tests that is long enough to be taken"


KEYS = [SECRET.encode()]  # refresh tokens are derived with


def private_key() -> str:
    """A new one to sign with, in PEM."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(*form).decode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to None leaves one out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(uuid.uuid4()),
        "client_id": "first-party",
        "iat": now,
        "nbf": now,
        "exp": now + 1800,
        "jti": uuid.uuid4().hex,
        "sid": uuid.uuid4().hex,
        "scope": "data tasks",
        "ver": 1,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def claims_of(subject: str, version: int, session_id: str) -> Claims:
    """Those of a user's good token, as the door gives them."""
    return Claims(**claims(sub=subject, ver=version, sid=session_id))


def header(**changes: Any) -> dict[str, Any]:
    good = {"alg": "HS256", "typ": TOKEN_TYPE, "kid": key_id(SECRET.encode())}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sign(header: Any, claims: Any, secret: str = SECRET, digest: Any = hashlib.sha256) -> str:
    """A token with exactly this header and these claims, whatever they say, signed by HMAC."""
    signed = f"{segment(header)}.{segment(claims)}"
    return f"{signed}.{segment(hmac.digest(secret.encode(), signed.encode(), digest))}"


def token(**changes: Any) -> str:
    return sign(header(), claims(**changes))


def bearer(**changes: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**changes)}"}
