"""Other people's software against the service: an OAuth 2 client, and a JWT library that verifies by JWKS."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from oauthlib.oauth2 import InvalidGrantError, LegacyApplicationClient
from requests_oauthlib import OAuth2Session

from only_post_svc.settings import Settings
from shared.auth import TokenDoor
from shared.keys import load_keys
from shared.settings import SettingsError
from tests.commands import EXIT_FAILURE, refused
from tests.databases import ON_A_FILE
from tests.processes import HTTPService, TokenService
from tests.token_svc.answers import is_bad_token
from tests.token_svc.users import User, refresh
from tests.tokens import sign
from token_svc import settings as token_settings

CLIENT = "an-app"


@pytest.fixture(autouse=True)
def http_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


def client_of(user: User, scope: str | None = None) -> OAuth2Session:
    session = OAuth2Session(client=LegacyApplicationClient(CLIENT, scope=scope), scope=scope)
    session.hooks["response"].append(user.service.check)
    return session


def logged_in(user: User) -> OAuth2Session:
    session = client_of(user)
    session.fetch_token(f"{user.service.url}/token", username=user.username, password=user.password, timeout=60)
    return session


@ON_A_FILE
def test_a_standard_client_logs_in_and_calls(user: User) -> None:
    with logged_in(user) as session:
        assert session.get(f"{user.service.url}/me", timeout=60).json() == user.profile


def test_a_standard_client_asks_for_a_scope(user: User) -> None:
    with client_of(user, "data") as session:
        url = f"{user.service.url}/token"
        found = session.fetch_token(url, username=user.username, password=user.password, timeout=60)
        assert found["scope"] == ["data"]


def test_a_standard_client_reads_why_a_login_failed(user: User) -> None:
    with client_of(user) as session, pytest.raises(InvalidGrantError) as caught:
        session.fetch_token(f"{user.service.url}/token", username=user.username, password="wrong", timeout=60)
    assert caught.value.description


def test_a_standard_client_refreshes(user: User) -> None:
    with logged_in(user) as session:
        before = dict(session.token)
        session.refresh_token(f"{user.service.url}/token", client_id=CLIENT, timeout=60)
        assert session.token["refresh_token"] != before["refresh_token"]
        assert session.get(f"{user.service.url}/me", timeout=60).json() == user.profile


def test_a_standard_client_revokes(user: User) -> None:
    with logged_in(user) as session:
        url, headers, body = LegacyApplicationClient(CLIENT).prepare_token_revocation_request(
            f"{user.service.url}/revoke", session.token["refresh_token"], "refresh_token"
        )
        assert user.service.request("POST", url.removeprefix(user.service.url), data=body, headers=headers).ok
        assert is_bad_token(session.get(f"{user.service.url}/me", timeout=60))


def pem(key: Any) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def ec_key() -> bytes:
    return pem(ec.generate_private_key(ec.SECP256R1()))


def rsa_key(bits: int = 2048) -> bytes:
    return pem(rsa.generate_private_key(public_exponent=65537, key_size=bits))


KEYS = {"ES256": ec_key, "RS256": rsa_key}
PUBLIC = {"ES256": {"kty", "crv", "x", "y"}, "RS256": {"kty", "n", "e"}}


def published(service: TokenService) -> list[dict[str, str]]:
    return list(service.get("/.well-known/jwks.json").json()["keys"])


def verified(service: TokenService, access_token: str) -> dict[str, Any]:
    """The claims of a token, checked with nothing but what the service tells everybody."""
    found = service.get("/.well-known/oauth-authorization-server").json()
    with_keys = jwt.PyJWKClient(found["jwks_uri"])
    key = with_keys.get_signing_key_from_jwt(access_token)
    claims = jwt.decode(access_token, key, algorithms=["ES256", "RS256"], audience="only_post", issuer=found["issuer"])
    return dict(claims)


@ON_A_FILE
@pytest.mark.parametrize("algorithm", KEYS)
def test_keys_may_be_given_as_text_in_one_line(start_tokens: Callable[..., TokenService], algorithm: str) -> None:
    in_one_line = KEYS[algorithm]().decode().replace("\n", "\\n")
    user = User(start_tokens(SIGNING_KEY=in_one_line))
    key_set = json.dumps({"keys": published(user.service)}, indent=1).replace("\n", "\\n")
    assert verified(user.service, user.pair["access_token"])["sub"] == user.profile["id"]
    settings = Settings.from_env({"JWKS": key_set})
    door = TokenDoor(load_keys(settings), settings.issuer, settings.audience)
    assert door.check(user.pair["access_token"]).sub == user.profile["id"]


@pytest.fixture(scope="module", params=KEYS)
def signer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, User]]:
    """The algorithm of a service's key, and a user there."""
    directory = tmp_path_factory.mktemp("signer")
    (directory / "key.pem").write_bytes(KEYS[request.param]())
    service = TokenService(directory, {"SIGNING_KEY_FILE": "key.pem"})
    yield request.param, User(service)
    service.kill()


def test_another_library_verifies_a_token_by_the_published_key(signer: tuple[str, User]) -> None:
    algorithm, user = signer
    assert jwt.get_unverified_header(user.pair["access_token"]) == {
        "alg": algorithm,
        "typ": "at+jwt",
        "kid": published(user.service)[0]["kid"],
    }
    claims = verified(user.service, user.pair["access_token"])
    assert (claims["sub"], claims["scope"]) == (user.profile["id"], "data tasks")
    assert user.get("/me").status_code == 200


def test_a_refresh_that_is_repeated_at_once_gives_the_same_pair(signer: tuple[str, User]) -> None:
    _, user = signer
    pair = user.login().json()
    answers = {refresh(user.service, pair["refresh_token"]).text for _ in range(8)}
    assert len(answers) == 1


def test_of_a_key_only_its_public_members_are_published(signer: tuple[str, User]) -> None:
    algorithm, user = signer
    (entry,) = published(user.service)
    assert entry.keys() == PUBLIC[algorithm] | {"kid", "use", "alg"}
    assert (entry["alg"], entry["use"]) == (algorithm, "sig")


def test_a_token_signed_with_the_published_key_as_a_secret_is_refused(signer: tuple[str, User]) -> None:
    _, user = signer
    (entry,) = published(user.service)
    claims = jwt.decode(user.pair["access_token"], options={"verify_signature": False})
    public = jwt.PyJWK(entry).key
    text = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    for secret in (text, text.strip(), json.dumps(entry), entry.get("n") or entry["x"]):
        forged = sign({"alg": "HS256", "typ": "at+jwt", "kid": entry["kid"]}, claims, secret)
        assert is_bad_token(user.service.get("/me", headers={"Authorization": f"Bearer {forged}"}))


OLD, NEW = (f"{age} secret of this test that is as long as it has to be" for age in ("old", "new"))


def restarted(user: User, start_tokens: Callable[..., TokenService], **env: str) -> TokenService:
    """The service of `user` again, with other settings."""
    user.service.terminate()
    user.service = start_tokens(**env)
    return user.service


@ON_A_FILE
def test_the_first_secret_signs_all_verify_and_a_retired_one_is_refused(
    start_tokens: Callable[..., TokenService],
) -> None:
    user = User(start_tokens(SECRET_KEY=OLD))
    for n in range(2):
        user.add(n)
    cursor = user.get("/data?limit=1").json()["next_cursor"]
    restarted(user, start_tokens, SECRET_KEY=f"{NEW},{OLD}")
    assert user.get("/me").status_code == 200
    assert user.get(f"/data?cursor={cursor}").json()["items"][0]["data"] == 1
    renewed = user.login().json()["access_token"]
    restarted(user, start_tokens, SECRET_KEY=NEW)
    assert is_bad_token(user.get("/me"))
    user.headers["Authorization"] = f"Bearer {renewed}"
    assert user.get("/me").status_code == 200


@ON_A_FILE
def test_a_signing_key_is_rotated_by_keeping_the_old_ones_public_half(
    start_tokens: Callable[..., TokenService], tmp_path: Path
) -> None:
    (tmp_path / "old.pem").write_bytes(rsa_key())
    (tmp_path / "new.pem").write_bytes(ec_key())
    user = User(start_tokens(SIGNING_KEY_FILE="old.pem"))
    old = user.pair["access_token"]
    (tmp_path / "jwks.json").write_bytes(user.service.get("/.well-known/jwks.json").content)
    service = restarted(user, start_tokens, SIGNING_KEY_FILE="new.pem", JWKS_FILE="jwks.json")
    assert [entry["alg"] for entry in published(service)] == ["ES256", "RS256"]
    assert user.get("/me").status_code == 200
    user.take(user.login().json())
    for token in (old, user.pair["access_token"]):
        assert verified(service, token)["sub"] == user.profile["id"]
    restarted(user, start_tokens, SIGNING_KEY_FILE="new.pem")
    assert user.get("/me").status_code == 200
    user.headers["Authorization"] = f"Bearer {old}"
    assert is_bad_token(user.get("/me"))


def bad_files() -> dict[str, tuple[str, bytes]]:
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a passphrase"),
    )
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    public_pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    good = ECAlgorithm.to_jwk(public, as_dict=True) | {"kid": "x"}
    p384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)

    def jwks(*keys: Any) -> tuple[str, bytes]:
        return "JWKS_FILE", json.dumps({"keys": keys}).encode()

    return {
        "no PEM": ("SIGNING_KEY_FILE", b"not a key"),
        "empty": ("SIGNING_KEY_FILE", b""),
        "public key": ("SIGNING_KEY_FILE", public_pem),
        "encrypted": ("SIGNING_KEY_FILE", encrypted),
        "weak RSA": ("SIGNING_KEY_FILE", rsa_key(1024)),
        "another curve": ("SIGNING_KEY_FILE", pem(ec.generate_private_key(ec.SECP384R1()))),
        "cut short": ("SIGNING_KEY_FILE", ec_key()[:-60]),
        "JWKS of nothing": ("JWKS_FILE", b"{}"),
        "JWKS with a private key": jwks({**private, "kid": "x"}),
        "JWKS with a private key among good ones": jwks(good, {**private, "kid": "y"}),
        "JWKS of no key": jwks(),
        "JWKS with a kid twice": jwks(good, good),
        "JWKS without a kid": jwks({name: value for name, value in good.items() if name != "kid"}),
        "JWKS with a kid that is no text": jwks({**good, "kid": 5}),
        "JWKS with a kid that is a list": jwks({**good, "kid": []}),
        "JWKS of another curve": jwks({**p384, "kid": "x"}),
        "JWKS of weak RSA": jwks({**weak, "kid": "x"}),
        "JWKS of a secret": jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}),
        "JWKS of texts": jwks("key"),
        "JWKS that nests deeply": ("JWKS_FILE", b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "JWKS that is not UTF-8": ("JWKS_FILE", b"\xff" * 40),
        "short secret": ("SECRET_KEY_FILE", b"too short"),
        "secret that is no text": ("SECRET_KEY_FILE", b"\xff" * 40),
        "secret that is a private key": ("SECRET_KEY_FILE", ec_key()),
    }


BAD_FILES = bad_files()


def with_bad_file(directory: Path, name: str) -> tuple[str, dict[str, str]]:
    """The variable of a bad file, and the environment that has it."""
    variable, content = BAD_FILES[name]
    (directory / "file").write_bytes(content)
    (directory / "good.pem").write_bytes(ec_key())
    others = {"SIGNING_KEY_FILE": str(directory / "good.pem")} if variable == "JWKS_FILE" else {}
    return variable, {**others, "STATE_DIR": str(directory), variable: str(directory / "file")}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_weak_or_broken_key_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    variable, env = with_bad_file(tmp_path, name)
    with pytest.raises(SettingsError) as caught:
        load_keys(token_settings.Settings.from_env(env))
    assert re.fullmatch(f"{variable}: .+", str(caught.value))


@pytest.mark.parametrize("name", ["no PEM", "JWKS of nothing", "short secret"])
def test_that_line_is_all_that_a_start_says(tmp_path: Path, name: str) -> None:
    variable, env = with_bad_file(tmp_path, name)
    assert refusal(tmp_path, env).startswith(f"{variable}: ")


def refusal(directory: Path, env: dict[str, str], port: int = 0) -> str:
    """The one line that a start ends with."""
    process = TokenService(directory, env, port, wait=False)
    try:
        assert process.wait(20) == EXIT_FAILURE
    finally:
        process.kill()
    (line,) = process.log.read_text().splitlines()
    return line


@ON_A_FILE
def test_a_key_set_without_a_signing_key_ends_the_start(
    start_tokens: Callable[..., TokenService], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(ec_key())
    service = start_tokens(SIGNING_KEY_FILE="key.pem")
    (tmp_path / "jwks.json").write_bytes(service.get("/.well-known/jwks.json").content)
    # What it would sign with its secret it would refuse itself.
    env = {"JWKS_FILE": str(tmp_path / "jwks.json"), "SECRET_KEY": NEW}
    assert refusal(tmp_path / "b", env).startswith("SIGNING_KEY_FILE")


SETTINGS = {
    "SECRET_KEY": "short",
    "ACCESS_TOKEN_SECONDS": "half an hour",
    "PASSWORD_MIN_LENGTH": "007.5",
    "MAX_ITEMS_PER_USER": "many",
    "REGISTRATION": "perhaps",
    "RATE_LIMITS": "login=0/minute",
    "FORWARDED_ALLOW_IPS": "somewhere",
    "DATABASE_URL": "mysql://name:pass-word@host/db",
}


@pytest.mark.parametrize("variable", SETTINGS)
def test_a_bad_setting_ends_the_start_with_one_line_that_shows_no_value(tmp_path: Path, variable: str) -> None:
    line = refused(tmp_path, "token_svc", **{variable: SETTINGS[variable]})
    assert line.startswith(f"{variable}: ")
    assert SETTINGS[variable] not in line


PAIRS = {
    "PEM": ec_key().decode(),
    "ssh": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ada@example.org",
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_secret_that_is_half_of_a_key_pair_ends_the_start(tmp_path: Path, kind: str) -> None:
    line = refused(tmp_path, "token_svc", SECRET_KEY=PAIRS[kind])
    assert line.startswith("SECRET_KEY: ")
    assert not any(part in line for part in PAIRS[kind].split())


def test_production_needs_a_secret(tmp_path: Path) -> None:
    assert refused(tmp_path, "token_svc", APP_ENV="production").startswith("SECRET_KEY: ")


@ON_A_FILE
def test_a_port_in_use_is_one_line(tokens: HTTPService, tmp_path: Path) -> None:
    assert refusal(tmp_path, {}, tokens.port).startswith("PORT: ")
