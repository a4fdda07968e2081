"""GET /metrics, and `python -m token_svc metrics`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import numbers
from tests.commands import command
from tests.databases import ON_A_FILE, rows
from tests.processes import TokenService, eventually
from tests.token_svc.answers import is_bad_token, problem
from tests.token_svc.users import PASSWORD, User
from tests.tokens import SECRET

TOKEN = "a-token-of-the-collector"


def shown(service: TokenService) -> dict[str, float]:
    answer = service.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return numbers.read(answer.text)


@pytest.fixture
def fresh(start_tokens: Callable[..., TokenService]) -> TokenService:
    return start_tokens()


def test_requests_are_counted_by_method_route_and_status(fresh: TokenService) -> None:
    user = User(fresh)
    item = user.add({"secret": True})
    user.get(f"/data/{item['id']}")
    user.request("DELETE", f"/data/{item['id']}")
    fresh.get("/data/x")
    seen = shown(fresh)
    for method, route, status in (
        ("POST", "/register", 201),
        ("GET", "/data/{item_id}", 200),
        ("DELETE", "/data/{item_id}", 204),
        ("GET", "/data/{item_id}", 401),
    ):
        assert seen[f'http_requests_total{{method="{method}",route="{route}",status="{status}"}}'] == 1
    assert seen['http_request_duration_seconds_count{route="/data/{item_id}"}'] == 3
    assert item["id"] not in str(seen)


def test_accounts_and_sessions_are_counted(fresh: TokenService) -> None:
    User(fresh).login()
    User(fresh)
    seen = shown(fresh)
    assert (seen["only_post_accounts"], seen["only_post_sessions"]) == (2, 3)
    printed = numbers.read(command(fresh.log.parent, "token_svc", "metrics", **fresh.env).stdout)
    assert printed == {"only_post_database_up": 1, "only_post_accounts": 2, "only_post_sessions": 3}


def test_hashes_that_wait_are_shown(fresh: TokenService) -> None:
    user = User(fresh)
    assert shown(fresh)["only_post_password_hashes_pending"] == 0
    wrong = {"username": user.username, "password": f"{PASSWORD} no"}
    with ThreadPoolExecutor(16) as pool:
        logins = [pool.submit(fresh.post, "/token", wrong) for _ in range(64)]
        most = eventually(lambda: (seen := shown(fresh))["only_post_password_hashes_pending"] > 1 and seen)
        assert most["only_post_password_hashes_pending"] <= most["only_post_password_hashes_limit"]
        assert {login.result().status_code for login in logins} <= {401, 503}
    assert shown(fresh)["only_post_password_hashes_pending"] == 0


def test_a_database_that_does_not_answer_is_shown_and_counted(fresh: TokenService) -> None:
    assert shown(fresh)["only_post_database_errors_total"] == 0
    rows(fresh, "DROP TABLE session")
    seen = shown(fresh)
    assert seen["only_post_database_errors_total"] >= 1
    assert seen["only_post_database_up"] == 0
    assert seen['http_requests_total{method="GET",route="/health",status="200"}'] >= 1


@ON_A_FILE
def test_production_asks_for_the_token(start_tokens: Callable[..., TokenService]) -> None:
    env = {"APP_ENV": "production", "HOST": "127.0.0.1", "SECRET_KEY": SECRET}
    service = start_tokens(**env, METRICS_TOKEN=TOKEN)
    assert service.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert is_bad_token(User(service).get("/metrics"))
    problem(service.get("/metrics"), 401, "unauthorized")


@ON_A_FILE
def test_production_shows_nothing_until_a_token_is_set(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(APP_ENV="production", HOST="127.0.0.1", SECRET_KEY=SECRET)
    problem(service.get("/metrics"), 403, "metrics_closed")
    problem(User(service).get("/metrics"), 403, "metrics_closed")
