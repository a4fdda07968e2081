"""Whatever comes in as a body, on every route that takes one: refused as the contract's table has it."""

import gzip
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests

from tests.databases import ON_A_FILE
from tests.processes import TokenService
from tests.token_svc import routes
from tests.token_svc.users import User, operate
from token_svc.oauth_errors import PATHS as OAUTH_PATHS

pytestmark = ON_A_FILE  # nothing of it gets as far as the database

ROUTES = [route for route in routes.every() if route[0] in ("POST", "PUT", "PATCH")] + [("DELETE", "/me")]
LIMIT = 1024 * 1024
JSON = "application/json"


class Row(NamedTuple):
    status: int
    code: str
    body: Any
    headers: dict[str, str] = {"Content-Type": JSON}  # noqa: RUF012


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1024 + 1):
        yield b" " * 1024


def not_json(body: bytes) -> Row:
    return Row(400, "invalid_json", body)


def unsupported(content_type: str, **more: str) -> Row:
    return Row(415, "unsupported_media_type", b"{}", {"Content-Type": content_type, **more})


TABLE = {
    "too large": Row(413, "body_too_large", b" " * (LIMIT + 1)),
    "too large for JSON": Row(413, "body_too_large", json.dumps({"data": "x" * LIMIT}).encode()),
    "plain text": unsupported("text/plain"),
    "no type at all": unsupported(";"),
    "multipart": unsupported("multipart/form-data; boundary=x"),
    "another charset": unsupported("application/json; charset=iso-8859-1"),
    "UTF-16 by charset": unsupported("application/json; charset=utf-16"),
    "problem": unsupported("application/problem+json"),
    "gzip": Row(
        415, "unsupported_media_type", gzip.compress(b"{}"), {"Content-Type": JSON, "Content-Encoding": "gzip"}
    ),
    "empty": not_json(b""),
    "space": not_json(b"  \n"),
    "cut short": not_json(b'{"data": '),
    "two": not_json(b"{}{}"),
    "comment": not_json(b"{} // x"),
    "trailing comma": not_json(b'{"data": [1,]}'),
    "single quotes": not_json(b"{'data': 1}"),
    "bad UTF-8": not_json(b'{"data": "\xff"}'),
    "overlong": not_json(b'{"data": "\xc0\xaf"}'),
    "surrogate in UTF-8": not_json(b'{"data": "\xed\xa0\x80"}'),
    "BOM": not_json(b"\xef\xbb\xbf{}"),
    "UTF-16": not_json('{"data": 1}'.encode("utf-16")),
    "UTF-16 without BOM": not_json('{"data": 1}'.encode("utf-16-le")),
    "UTF-32": not_json('{"data": 1}'.encode("utf-32")),
    "NaN": not_json(b'{"data": NaN}'),
    "Infinity": not_json(b'{"data": Infinity}'),
    "minus Infinity": not_json(b'{"data": [-Infinity]}'),
    "1e999": not_json(b'{"data": 1e999}'),
    "4,301 digits": not_json(b'{"data": ' + b"1" * 4301 + b"}"),
    "duplicate key": not_json(b'{"data": 1, "data": 1}'),
    "duplicate by escape": not_json(rb'{"data": 1, "\u0064ata": 1}'),
    "duplicate inside": not_json(b'{"data": [{"a": 1, "a": 2}]}'),
    "65 deep": not_json(b'{"data": ' + b"[" * 64 + b"]" * 64 + b"}"),
    "200,000 deep": not_json(b"[" * 200_000),
    "200,000 deep objects": not_json(b'{"a":' * 200_000),
    "lone surrogate": not_json(rb'{"data": "\ud800"}'),
    "lone low surrogate": not_json(rb'{"data": ["\udc00\ud800"]}'),
    "lone surrogate in a key": not_json(rb'{"\udfff": 1}'),
    "NUL": not_json(rb'{"data": "a\u0000b"}'),
    "NUL in a key": not_json(rb'{"data": {"\u0000": 1}}'),
    "raw NUL": not_json(b'{"data": "\0"}'),
    "NUL after a backslash": not_json(rb'{"data": "\\\u0000"}'),
    "array": Row(422, "invalid_request", b"[]"),
    "text": Row(422, "invalid_request", b'"data"'),
    "number": Row(422, "invalid_request", b"1"),
    "null": Row(422, "invalid_request", b"null"),
    "nothing of it": Row(422, "invalid_request", b"{}"),
    "unknown": Row(422, "invalid_request", b'{"__proto__": {}, "constructor": null}'),
    "wrong types": Row(
        422, "invalid_request", b'{"username": {}, "password": [], "email": 1, "token": [], "current_password": 1}'
    ),
    "100,000 members": Row(422, "invalid_request", json.dumps({str(n): n for n in range(50_000)}).encode()),
}


@pytest.fixture(scope="module")
def user(tokens: TokenService) -> User:
    user = User(tokens)
    assert operate(tokens, "grant", user.username, "data", "tasks", "introspect").returncode == 0
    user.take(user.login().json())
    return user


@pytest.fixture(scope="module")
def item_id(user: User) -> str:
    return str(user.add("untouched")["id"])


def assert_refused(answer: requests.Response, status: int, code: str, path: str) -> Any:
    """One shape and the same headers, whoever refused it."""
    assert answer.status_code == status, answer.text[:500]
    is_oauth = path in OAUTH_PATHS
    assert answer.headers["Content-Type"] == ("application/json" if is_oauth else "application/problem+json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    body = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, "about:blank")
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert body["title"]
    assert body["detail"]
    assert is_oauth == ("error" in body) == ("error_description" in body)
    assert ("errors" in body) == (status == 422)
    return body


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=map(" ".join, ROUTES))
def test_a_bad_body_is_refused_by_the_table(user: User, item_id: str, method: str, path: str) -> None:
    for name, row in TABLE.items():
        print(name)  # shown where it fails
        answer = user.request(method, path.format(item_id=item_id), data=row.body, headers=row.headers)
        if (method, path, name) == ("PATCH", "/data/{item_id}", "nothing of it"):
            assert (answer.status_code, answer.json()["data"]) == (200, "untouched")  # RFC 7396: a patch of nothing
        else:
            assert_refused(answer, row.status, row.code, path)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=map(" ".join, ROUTES))
def test_a_body_without_a_declared_length_is_counted_as_it_comes(
    user: User, item_id: str, method: str, path: str
) -> None:
    answer = user.request(method, path.format(item_id=item_id), data=chunks(LIMIT), headers={"Content-Type": JSON})
    assert_refused(answer, 413, "body_too_large", path)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=map(" ".join, ROUTES))
def test_a_body_without_a_type_is_read_as_json(user: User, item_id: str, method: str, path: str) -> None:
    assert_refused(user.request(method, path.format(item_id=item_id), data=b"[]"), 422, "invalid_request", path)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=map(" ".join, ROUTES))
def test_a_form_is_for_the_oauth_routes_alone(user: User, item_id: str, method: str, path: str) -> None:
    answer = user.request(method, path.format(item_id=item_id), data={"data": "1"})
    if path in OAUTH_PATHS:
        assert answer.json()["error"] == "invalid_request"
        assert answer.status_code == 400
    else:
        body = assert_refused(answer, 415, "unsupported_media_type", path)
        assert "curl --json" in body["detail"]


@pytest.mark.parametrize("path", sorted({path for _, path in routes.every()}))
def test_another_method_is_a_405_that_names_those_there_are(user: User, item_id: str, path: str) -> None:
    allowed = sorted(method for method, other in routes.every() if other == path)
    for method in ("TRACE", "OPTIONS", "PROPFIND", *({"GET", "POST", "PUT", "PATCH", "DELETE"} - set(allowed))):
        answer = user.request(method, path.format(item_id=item_id))
        assert_refused(answer, 405, "method_not_allowed", path)
        assert answer.headers["Allow"] == ", ".join(allowed)


def test_a_path_that_is_not_there_is_a_404_of_the_same_shape(user: User) -> None:
    for path in ("/", "/tokens", "/token/", "/data/a/b", "/%00", "/%ff", "/..%2fme", "/" + "x" * 10_000):
        assert_refused(user.get(path), 404, "not_found", path)


def test_the_service_is_well_after_all_that(user: User, item_id: str) -> None:
    assert user.get("/health").json()["status"] == "ok"
    assert user.get(f"/data/{item_id}").json()["data"] == "untouched"
    assert "Traceback" not in user.service.log.read_text()
