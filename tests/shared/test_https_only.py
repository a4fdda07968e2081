"""REQUIRE_HTTPS, behind a proxy that says how a request came to it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.databases import ON_A_FILE
from tests.only_post_svc.answers import problem
from tests.processes import Service, TokenService

SECURE = {"X-Forwarded-Proto": "https"}
ALSO_SECURE = ["HTTPS", "https,http", "https , http", "https, https"]  # a list names the way, from the client on
NOT_SECURE: list[dict[str, str]] = [
    {},
    {"X-Forwarded-Proto": "http"},
    {"X-Forwarded-Proto": "http, https"},
    {"X-Forwarded-Proto": "https;x"},
    {"X-Forwarded-Ssl": "on"},
    {"Forwarded": "proto=https"},
]
STRICT = "Strict-Transport-Security"
USER = {"username": "ann", "password": "correct horse battery staple", "email": "ann@example.org"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("tasks"), {"REQUIRE_HTTPS": "true", "WORKER_PROCESSES": "1"})
    yield service
    service.kill()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    service = TokenService(tmp_path_factory.mktemp("tokens"), {"REQUIRE_HTTPS": "true"})
    yield service
    service.kill()


def submit(url: str, headers: dict[str, str]) -> requests.Response:
    body: dict[str, Any] = {"type": "echo", "wait": 20}
    return requests.post(f"{url}/api/task", json=body, headers=headers, allow_redirects=False, timeout=30)


@pytest.mark.parametrize("headers", NOT_SECURE)
def test_a_request_without_tls_is_refused_and_not_redirected(tasks: Service, headers: dict[str, str]) -> None:
    answer = submit(tasks.url, headers)
    problem(answer, 403, "https_required")
    assert "Location" not in answer.headers
    assert STRICT not in answer.headers  # RFC 6797 §7.2
    assert submit(tasks.url, SECURE).status_code == 200
    assert len(tasks.post("/api/tasks", {}, headers=SECURE).json()["items"]) >= 1


def test_a_request_over_tls_is_answered_and_told_to_stay_with_it(tasks: Service) -> None:
    answer = submit(tasks.url, SECURE)
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers[STRICT] == "max-age=31536000"


@pytest.mark.parametrize("value", ALSO_SECURE)
def test_proxies_may_say_https_in_their_own_way(tasks: Service, value: str) -> None:
    assert submit(tasks.url, {"X-Forwarded-Proto": value}).status_code == 200


@pytest.mark.parametrize("path", ["/api/task", "/nowhere"])
def test_errors_are_told_so_too(tasks: Service, path: str) -> None:
    answer = requests.post(f"{tasks.url}{path}", data=b"{", headers=SECURE, timeout=9)
    assert answer.status_code in (400, 404)
    assert STRICT in answer.headers


def test_what_was_refused_was_not_stored(tasks: Service) -> None:
    before = tasks.post("/api/tasks", {}, headers=SECURE).json()["items"]
    submit(tasks.url, {})
    assert tasks.post("/api/tasks", {}, headers=SECURE).json()["items"] == before


def test_a_method_is_refused_before_that(tasks: Service) -> None:
    problem(requests.get(f"{tasks.url}/api/task", timeout=9), 405, "method_not_allowed")


def test_probes_of_the_host_itself_reach_health_without_tls(tasks: Service, tokens: TokenService) -> None:
    assert tasks.post("/health").status_code == 200
    assert tokens.get("/health").status_code == 200
    assert STRICT not in tokens.get("/health").headers
    assert STRICT in tokens.get("/health", headers=SECURE).headers
    problem(tokens.get("/health/"), 403, "https_required")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/register"), ("POST", "/token"), ("GET", "/me"), ("GET", "/nowhere")]
)
def test_the_token_service_refuses_before_it_looks_at_anything(tokens: TokenService, method: str, path: str) -> None:
    answer = tokens.request(method, path, json=USER)
    assert (answer.status_code, answer.json()["code"]) == (403, "https_required")


def test_users_come_in_over_tls(tokens: TokenService) -> None:
    assert tokens.post("/register", USER, headers=SECURE).status_code == 201
    about = tokens.get("/.well-known/oauth-authorization-server", headers=SECURE).json()
    assert about["token_endpoint"].startswith("https://")


@ON_A_FILE
def test_a_peer_that_is_no_trusted_proxy_is_not_believed(start_service: Callable[..., Service]) -> None:
    service = start_service(REQUIRE_HTTPS="true", FORWARDED_ALLOW_IPS="192.0.2.1", WORKER_PROCESSES="0")
    problem(submit(service.url, SECURE), 403, "https_required")


@ON_A_FILE
def test_without_the_setting_nothing_is_asked_for_or_said(service: Service) -> None:
    answer = submit(service.url, SECURE)
    assert answer.status_code == 200
    assert STRICT not in answer.headers
    assert submit(service.url, {}).status_code == 200
