"""Clients and verifiers as they come from PyPI and npm, each for every grant, introspection and revocation."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2 import ResourceProtector
from authlib.oauth2.rfc6750 import InsufficientScopeError, InvalidTokenError
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from joserfc.jwk import KeySet
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

from tests.processes import ROOT, TokenService, free_port
from tests.token_svc.machines import Machine
from tests.token_svc.test_oauth_clients import ec_key
from tests.token_svc.users import PASSWORD, User

AUDIENCE = "only_post"
PACKAGES = ("jose@6", "openid-client@6", "simple-oauth2@5")
SCRIPT = ROOT / "tests" / "token_svc" / "standard_clients.mjs"
NPM_SECONDS = 120


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """One whose issuer is its address, and which signs with a key that it publishes."""
    directory, port = tmp_path_factory.mktemp("standard"), free_port()
    (directory / "key.pem").write_bytes(ec_key())
    env = {"SIGNING_KEY_FILE": "key.pem", "ISSUER": f"http://127.0.0.1:{port}"}
    service = TokenService(directory, env, port)
    yield service
    service.kill()


@pytest.fixture(scope="module")
def machine(service: TokenService) -> Machine:
    return Machine(service, "data tasks introspect")


@pytest.fixture(scope="module")
def user(service: TokenService) -> User:
    return User(service)


@pytest.fixture(scope="module")
def metadata(service: TokenService) -> dict[str, Any]:
    return dict(service.get("/.well-known/oauth-authorization-server").json())


@pytest.fixture(autouse=True)
def http_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


def test_pyjwt_verifies_a_machines_token_by_the_published_key(machine: Machine, metadata: dict[str, Any]) -> None:
    token = machine.access_token()
    key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=metadata["issuer"])
    assert claims["sub"] == claims["client_id"] == machine.id


def test_requests_oauthlib_gets_a_machines_token(machine: Machine) -> None:
    with OAuth2Session(client=BackendApplicationClient(machine.id, scope="data")) as session:
        found = session.fetch_token(
            f"{machine.service.url}/token", client_id=machine.id, client_secret=machine.secret, timeout=60
        )
        assert found["scope"] == ["data"]
        assert session.get(f"{machine.service.url}/data", timeout=60).json()["items"] == []


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_does_every_grant(machine: Machine, user: User, metadata: dict[str, Any], method: str) -> None:
    token_url, introspection_url = metadata["token_endpoint"], metadata["introspection_endpoint"]
    with AuthlibSession(machine.id, machine.secret, token_endpoint_auth_method=method) as session:
        own = session.fetch_token(token_url, grant_type="client_credentials", scope="data")
        assert "refresh_token" not in own and own["scope"] == "data"
        first = session.fetch_token(token_url, username=user.username, password=PASSWORD)
        second = session.refresh_token(token_url, refresh_token=first["refresh_token"])
        assert second["refresh_token"] != first["refresh_token"]
        assert session.get(f"{machine.service.url}/me").json() == user.profile
        session.token_endpoint_auth_method = "client_secret_basic"
        with AuthlibSession(machine.id, machine.secret) as asking:
            described = asking.introspect_token(introspection_url, token=second["access_token"]).json()
            assert (described["active"], described["username"]) == (True, user.username)
            assert session.revoke_token(metadata["revocation_endpoint"], token=second["refresh_token"]).json() == {}
            described = asking.introspect_token(introspection_url, token=second["access_token"]).json()
            assert described == {"active": False}


class Validator(JWTBearerTokenValidator):  # type: ignore[misc]
    def __init__(self, metadata: dict[str, Any]) -> None:
        super().__init__(issuer=metadata["issuer"], resource_server=AUDIENCE)
        self.jwks_uri = metadata["jwks_uri"]

    def get_jwks(self) -> Any:
        return KeySet.import_key_set(requests.get(self.jwks_uri, timeout=60).json())


class Call:
    """A request as a resource server sees it."""

    uri, method, body = "https://api.example.com/", "GET", ""

    def __init__(self, token: str) -> None:
        self.headers = {"Authorization": f"Bearer {token}"}


def test_authlibs_resource_protector_takes_tokens_as_rfc_9068_has_them(
    machine: Machine, user: User, metadata: dict[str, Any]
) -> None:
    protector = ResourceProtector()
    protector.register_token_validator(Validator(metadata))
    answer = user.login().json()
    for token, subject in ((answer["access_token"], user.profile["id"]), (machine.access_token(), machine.id)):
        claims = protector.validate_request(["data"], Call(token))
        assert claims["sub"] == subject
        with pytest.raises(InsufficientScopeError):
            protector.validate_request(["pictures"], Call(token))
        with pytest.raises(InvalidTokenError):
            protector.validate_request(["data"], Call(token[:-4] + "AAAA"))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    directory = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(directory), *PACKAGES]
    if subprocess.run(command, capture_output=True, timeout=NPM_SECONDS).returncode:
        pytest.skip("npm reaches no registry")
    shutil.copy(SCRIPT, directory)
    return directory


def test_the_clients_of_npm_do_every_grant(modules: Path, machine: Machine, user: User) -> None:
    given = {
        "issuer": machine.service.url,
        "id": machine.id,
        "secret": machine.secret,
        "username": user.username,
        "password": PASSWORD,
    }
    done = subprocess.run(
        ["node", SCRIPT.name, json.dumps(given)], cwd=modules, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["openid"] == {
        "scope": "data",
        "username": user.username,
        "active": [True, False, False],
        "verified": user.profile["id"],
    }
    assert found["simple"] == {"scope": "data", "hasExpired": False, "refused": "invalid_grant"}
