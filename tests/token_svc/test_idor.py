"""Nobody reaches what is another's: every route that there is, with every kind of token."""

from typing import Any

import pytest
import requests

from tests.processes import TokenService
from tests.token_svc import routes
from tests.token_svc.answers import is_bad_token, oauth_error
from tests.token_svc.users import User
from tests.tokens import token

ABSENT = "01890000-0000-7000-8000-000000000000"
SCOPES = {
    "/introspect": "introspect",
    "/me": "",
    "/me/export": "",
    "/data": "data",
    "/data/{item_id}": "data",
}
GUARDED = routes.guarded()
WITH_ID = [route for route in GUARDED if "{" in route[1]]
BODY = {"data": {"written": "by another"}}


@pytest.fixture(scope="module")
def owner(tokens: TokenService) -> User:
    return User(tokens)


@pytest.fixture(scope="module")
def stranger(tokens: TokenService) -> User:
    return User(tokens)


@pytest.fixture(scope="module")
def narrow(tokens: TokenService) -> User:
    """A user whose token has but one scope, and not the one that is asked for here."""
    user = User(tokens)
    user.take(user.login(scope="tasks").json())
    return user


@pytest.fixture(scope="module")
def item(owner: User) -> Any:
    return owner.add({"secret": "the owner's alone"})


def call(service: TokenService, route: tuple[str, str], item_id: str, **headers: str) -> requests.Response:
    method, path = route
    body = None if method in ("GET", "HEAD") else BODY
    return service.request(method, path.format(item_id=item_id), json=body, headers=headers)


def anonymous(answer: requests.Response) -> tuple[int, bytes, dict[str, str]]:
    """An answer but what differs between any two."""
    request_id = answer.headers["X-Request-ID"]
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in ("x-request-id", "date")}
    return answer.status_code, answer.content.replace(request_id.encode(), b"-"), headers


def authorization(user: User) -> str:
    return str(user.headers["Authorization"])


def test_the_table_has_every_route_that_needs_a_token() -> None:
    assert {path for _, path in GUARDED} == SCOPES.keys()
    assert len(GUARDED) == 15


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_without_a_token_it_is_a_401_that_says_bearer_and_no_error(
    tokens: TokenService, item: Any, route: tuple[str, str]
) -> None:
    answer = call(tokens, route, item["id"])
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="only_post"'


BAD_TOKENS = {
    "junk": "Bearer x",
    "empty": "Bearer",
    "basic": "Basic YTpi",
    "of another secret": f"Bearer {token()}",
    "unsigned": f"Bearer {token().rpartition('.')[0]}.",
}


@pytest.mark.parametrize("credentials", BAD_TOKENS.values(), ids=BAD_TOKENS)
@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_with_a_bad_token_it_is_a_401_invalid_token(
    tokens: TokenService, item: Any, route: tuple[str, str], credentials: str
) -> None:
    answer = call(tokens, route, item["id"], Authorization=credentials)
    if route[1] == "/introspect" and credentials.startswith("Basic"):  # a client's, and a bad one
        oauth_error(answer, 401, "invalid_client")
    elif route[0] == "HEAD":
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    else:
        assert is_bad_token(answer)


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_token_in_the_query_is_none(owner: User, item: Any, route: tuple[str, str]) -> None:
    method, path = route
    url = f"{path.format(item_id=item['id'])}?access_token={owner.pair['access_token']}"
    assert owner.service.request(method, url, json=BODY).status_code == 401


@pytest.mark.parametrize("route", [route for route in GUARDED if SCOPES[route[1]]], ids=" ".join)
def test_without_the_scope_it_is_a_403_that_names_it(narrow: User, item: Any, route: tuple[str, str]) -> None:
    scope = SCOPES[route[1]]
    existing = call(narrow.service, route, item["id"], Authorization=authorization(narrow))
    absent = call(narrow.service, route, ABSENT, Authorization=authorization(narrow))
    assert existing.status_code == 403
    assert f'error="insufficient_scope", scope="{scope}"' in existing.headers["WWW-Authenticate"]
    assert anonymous(existing) == anonymous(absent)


@pytest.mark.parametrize("if_match", ["", '"1"', '"9"', "*", "malformed"])
@pytest.mark.parametrize("route", WITH_ID, ids=" ".join)
def test_anothers_item_answers_as_one_that_does_not_exist(
    owner: User, stranger: User, item: Any, route: tuple[str, str], if_match: str
) -> None:
    headers = {"Authorization": authorization(stranger)}
    if if_match:
        headers |= {"If-Match": if_match, "If-None-Match": if_match}
    existing = call(stranger.service, route, item["id"], **headers)
    assert existing.status_code == 404
    assert anonymous(existing) == anonymous(call(stranger.service, route, ABSENT, **headers))
    assert owner.get(f"/data/{item['id']}").json() == item


@pytest.mark.parametrize(
    "route", [route for route in GUARDED if route[0] == "GET" and route not in WITH_ID], ids=" ".join
)
def test_what_is_read_is_ones_own(owner: User, stranger: User, item: Any, route: tuple[str, str]) -> None:
    answer = call(stranger.service, route, ABSENT, Authorization=authorization(stranger))
    assert answer.status_code == 200
    for secret in (owner.profile["id"], owner.username, item["id"], item["data"]["secret"]):
        assert secret not in answer.text


def test_a_form_of_bearer_that_is_spelled_otherwise_is_the_same_scheme(owner: User) -> None:
    credentials = authorization(owner)
    for scheme in ("bearer", "BEARER", "Bearer", "Bearer "):  # one space or more (RFC 9110 §11.4)
        headers = {"Authorization": credentials.replace("Bearer", scheme)}
        assert owner.service.get("/me", headers=headers).status_code == 200
    for spelled in (credentials.replace(" ", "\t"), credentials + ".", credentials.replace("Bearer ", "Bearer,")):
        assert is_bad_token(owner.service.get("/me", headers={"Authorization": spelled}))
