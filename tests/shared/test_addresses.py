"""Addresses, paths and headers as proxies, tools and odd clients write them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.databases import ON_A_FILE, rows
from tests.only_post_svc.answers import problem
from tests.processes import HTTPService, Process, Service, TokenService, eventually, free_port
from tests.token_svc.users import User

PREFIX = "/auth"


class UnderUvicorn(TokenService):
    """By uvicorn's own command, which has its own option for the prefix."""

    def command(self) -> list[str]:
        return ["-m", "uvicorn", "token_svc.main:app", "--port", str(self.port), "--root-path", PREFIX]


@pytest.fixture(scope="module", params=["ROOT_PATH", "--root-path"])
def prefixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """What is behind a proxy that strips a prefix."""
    env = {"REQUIRE_HTTPS": "true"}
    directory = tmp_path_factory.mktemp("prefixed")
    if request.param == "ROOT_PATH":
        service = TokenService(directory, {**env, "ROOT_PATH": PREFIX})
    else:
        service = UnderUvicorn(directory, env)
    yield service
    service.kill()


HTTPS = {"X-Forwarded-Proto": "https"}
ANN = {"username": "ann", "password": "correct horse battery staple", "email": "ann@example.org"}


def test_behind_a_prefix_all_is_as_without(prefixed: TokenService) -> None:
    assert prefixed.get("/health").status_code == 200  # open without TLS, as it is without a prefix
    answer = prefixed.request("POST", "/token", json={"username": "x", "password": "y"}, headers=HTTPS)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_grant")
    assert answer.headers["Content-Type"] == "application/json"
    token = prefixed.post("/register", ANN, headers=HTTPS).json()["access_token"]
    headers = {**HTTPS, "Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
    made = prefixed.post("/data", {"data": 1}, headers=headers)
    assert made.headers["Location"] == f"{PREFIX}/data/{made.json()['id']}"
    assert prefixed.get(f"/data/{made.json()['id']}", headers=headers).json()["data"] == 1
    problem(prefixed.get("/nowhere", headers=HTTPS), 404, "not_found")
    base = prefixed.get("/.well-known/oauth-authorization-server", headers=HTTPS).json()["token_endpoint"]
    assert base == f"https://127.0.0.1:{prefixed.port}{PREFIX}/token"
    assert [row[0].rpartition(" ")[0] for row in rows(prefixed, "SELECT scope FROM idempotency_key")] == ["POST /data"]


def test_the_key_of_a_deleted_user_goes_whatever_the_prefix(prefixed: TokenService) -> None:
    bob = {**ANN, "username": "bob", "email": "bob@example.org"}
    registered = prefixed.post("/register", bob, headers=HTTPS).json()
    headers = {**HTTPS, "Authorization": f"Bearer {registered['access_token']}"}
    prefixed.post("/data", {"data": 1}, headers={**headers, "Idempotency-Key": "bobs"})
    kept = f"SELECT count(*) FROM idempotency_key WHERE scope LIKE '%{registered['user']['id']}'"
    assert rows(prefixed, kept) == [(1,)]
    body = {"current_password": ANN["password"]}
    assert prefixed.request("DELETE", "/me", json=body, headers=headers).status_code == 204
    eventually(lambda: rows(prefixed, kept) == [(0,)])


def test_the_public_address_is_what_clients_are_told(tmp_path: Path) -> None:
    service = TokenService(tmp_path, {"PUBLIC_URL": "https://example.com/auth/"})
    try:
        made = User(service).post("/data", json={"data": 1})
        assert made.headers["Location"] == f"https://example.com/auth/data/{made.json()['id']}"
    finally:
        service.kill()


def test_health_by_get_and_head_behind_a_prefix(tmp_path: Path) -> None:
    service = Service(tmp_path, {"ROOT_PATH": "/tasks", "HEALTH_GET": "true", "WORKER_PROCESSES": "1"})
    try:
        assert service.request("GET", "/health").status_code == 200
        head = service.request("HEAD", "/health")
        assert (head.status_code, head.content) == (200, b"")
        problem(service.request("GET", "/api/task"), 405, "method_not_allowed")
        assert service.run("echo")["status"] == "succeeded"
    finally:
        service.kill()


# IPv6


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_proxies_are_known_on_a_socket_of_both_families(tmp_path: Path) -> None:
    service = TokenService(tmp_path, {"HOST": "::", "REQUIRE_HTTPS": "true"})
    try:
        eventually(lambda: f"url=http://[::]:{service.port}" in service.log.read_text())
        assert service.post("/token", {"username": "x"}, headers=HTTPS).status_code != 403
        eventually(lambda: "client=127.0.0.1" in service.log.read_text())
        service.get("/health", headers={"X-Forwarded-For": "192.0.2.7"})
        eventually(lambda: "client=192.0.2.7" in service.log.read_text())
    finally:
        service.kill()


# What is open to the network


@pytest.mark.parametrize("arguments", [[], ["--host", "0.0.0.0"]], ids=["HOST", "--host"])
def test_without_a_login_another_address_is_refused_at_the_start(tmp_path: Path, arguments: list[str]) -> None:
    env = {} if arguments else {"HOST": "0.0.0.0"}
    port = str(free_port())
    process = Process(tmp_path, "-m", "only_post_svc", "--port", port, *arguments, env=env)
    assert process.wait(30) == 3
    said = process.log.read_text().splitlines()
    assert len(said) == 1 and said[0].startswith("HOST: ") and "TASK_AUTH" in said[0]


def test_with_the_setting_it_listens_where_it_is_told(tmp_path: Path) -> None:
    service = Service(tmp_path, {"HOST": "0.0.0.0", "TASK_AUTH": "off", "WORKER_PROCESSES": "1"})
    assert service.post("/api/types").status_code == 200
    service.kill()


def address_of_this_machine() -> str:
    """One that is no loopback address; '' where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return ""
        return str(probe.getsockname()[0])


class OpenUnderUvicorn(Service):
    def command(self) -> list[str]:
        return ["-m", "uvicorn", "only_post_svc.main:app", "--port", str(self.port), "--host", "0.0.0.0"]


@pytest.mark.skipif(not address_of_this_machine(), reason="this machine has a loopback address only")
def test_uvicorns_own_host_opens_nothing_by_accident(tmp_path: Path) -> None:
    service = OpenUnderUvicorn(tmp_path, {"WORKER_PROCESSES": "1"})
    try:
        assert service.post("/api/types").status_code == 200
        url = f"http://{address_of_this_machine()}:{service.port}/api/types"
        problem(requests.post(url, json={}, headers={"Host": "localhost"}, timeout=9), 403, "cross_site")
    finally:
        service.kill()


# Headers and paths


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    service = TokenService(tmp_path_factory.mktemp("tokens"))
    yield User(service)
    service.kill()


def raw(service: HTTPService, method: str, target: str, *lines: str, version: str = "1.1", body: str = "") -> bytes:
    """The answer to a request that no library would send."""
    head = [f"{method} {target} HTTP/{version}", "Connection: close", f"Content-Length: {len(body)}", *lines, "", body]
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("space", [" ", "\t", "  \t "])
def test_white_space_around_a_value_is_no_part_of_it(user: User, space: str) -> None:
    def around(name: str, value: str) -> str:
        return f"{name}:{space}{value}{space}"

    lines = [
        around("Host", "localhost"),
        around("Authorization", str(user.headers["Authorization"])),
        around("Idempotency-Key", f"key-{len(space)}-{space.count(' ')}"),
        around("X-Request-ID", "abcdefgh12"),
        around("Content-Type", "application/json"),
    ]
    answer = raw(user.service, "POST", "/data", *lines, body='{"data": 1}')
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nx-request-id: abcdefgh12\r\n" in answer


def test_more_than_one_space_may_stand_before_a_token(user: User) -> None:
    token = str(user.headers["Authorization"]).removeprefix("Bearer ")
    assert user.service.get("/me", headers={"Authorization": f"bearer   {token}"}).status_code == 200
    for other in (f"Bearer\t{token}", f"Bearer{token}", f"Bearer {token} x", f" Bearer x {token}"):
        answer = raw(user.service, "GET", "/me", "Host: localhost", f"Authorization: {other}")
        assert answer.startswith(b"HTTP/1.1 401 "), other


HOSTS = ["", "Host:", "Host: a b", "Host: a/c", "Host: a b/c", "Host: user@a", "Host: a:b", "Host: [::1"]


@pytest.mark.parametrize("line", HOSTS)
def test_http_1_1_without_a_well_formed_host_is_a_400(user: User, line: str) -> None:
    answer = raw(user.service, "GET", "/health", *filter(None, [line]))
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"invalid_host"' in answer


@pytest.mark.parametrize("host", ["localhost", "a.example:9004", "127.0.0.1:1", "[::1]:9004", "[::1]", "a_b", "xn--a."])
def test_any_well_formed_host_is_taken(user: User, host: str) -> None:
    assert raw(user.service, "GET", "/health", f"Host: {host}").startswith(b"HTTP/1.1 200 ")


def test_http_1_0_needs_no_host(user: User) -> None:
    assert raw(user.service, "GET", "/health", version="1.0").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/me%0a", "/me%0d", "/me%0A", "/health%0a", "/data%0a", "/me%00", "/me%20", "/me/"])
def test_a_path_is_compared_whole(user: User, path: str) -> None:
    answer = user.get(path)
    problem(answer, 404, "not_found")


# Limits


LIMITS = {"RATE_LIMITS": "other=3/hour", "FORWARDED_ALLOW_IPS": "127.0.0.1"}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    service = TokenService(tmp_path_factory.mktemp("limited"), LIMITS)
    yield service
    service.kill()


@pytest.mark.parametrize(
    ("address", "path", "status"),
    [
        ("192.0.2.1", "/health", 200),
        ("192.0.2.2", "/nowhere", 404),
        ("192.0.2.3", "/me", 401),
        ("192.0.2.4", "/openapi.json", 200),
        ("192.0.2.5", "/.well-known/jwks.json", 200),
    ],
)
def test_everything_counts_for_its_address(limited: TokenService, address: str, path: str, status: int) -> None:
    headers = {"X-Forwarded-For": address}
    answers = [limited.get(path, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [status] * 3 + [429]
    assert int(answers[-1].headers["Retry-After"]) >= 1


@pytest.fixture(scope="module")
def limited_tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {**LIMITS, "TASK_AUTH": "required", "WORKER_PROCESSES": "0"}
    service = Service(tmp_path_factory.mktemp("limited"), env)
    yield service
    service.kill()


@pytest.mark.parametrize(
    ("address", "path", "status"),
    [("192.0.2.1", "/api/types", 401), ("192.0.2.2", "/nowhere", 404), ("192.0.2.3", "/health", 200)],
)
def test_everything_counts_on_the_post_only_service_too(
    limited_tasks: Service, address: str, path: str, status: int
) -> None:
    headers = {"X-Forwarded-For": address}
    assert [limited_tasks.post(path, headers=headers).status_code for _ in range(4)] == [status] * 3 + [429]


# Answers


@ON_A_FILE
def test_types_takes_no_body_at_all(service: Service) -> None:
    for path in ("/api/types", "/health", "/openapi.json"):
        assert service.request("POST", path).status_code == 200
    assert service.request("POST", "/api/types", json={"x": 1}).status_code == 422
