"""/data: each user's own JSON."""

import http.client
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import requests

from tests.databases import shared_by_tests
from tests.processes import TokenService
from tests.token_svc.answers import faults, problem
from tests.token_svc.users import User

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ABSENT = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def owner(tokens: TokenService) -> User:
    """Somebody for the tests that look at one item of their own and at no list."""
    return User(tokens)


def path(item: Any) -> str:
    return f"/data/{item['id']}"


def send_text(user: User, method: str, path: str, text: str) -> requests.Response:
    """Sends JSON as it is written here, which no encoder changes."""
    return user.request(method, path, data=text.encode(), headers={"Content-Type": "application/json"})


def test_an_item_is_created_with_201_its_location_and_its_etag(owner: User) -> None:
    answer = owner.post("/data", json={"data": {"colour": "red"}})
    item = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == path(item)
    assert answer.headers["ETag"] == '"1"'
    assert ID.fullmatch(item["id"])
    assert TIME.fullmatch(item["created_at"])
    assert item == {
        "id": item["id"],
        "data": {"colour": "red"},
        "version": 1,
        "created_at": item["created_at"],
        "updated_at": item["created_at"],
    }
    assert owner.get(answer.headers["Location"]).json() == item


@pytest.mark.parametrize("data", [None, True, 0, "", "text", [], {}, [[{}]], {"": {"a/b~c": "🙂\u2028"}}])
def test_any_json_is_kept(owner: User, data: Any) -> None:
    item = owner.add(data)
    assert owner.get(path(item)).json()["data"] == data
    assert owner.put(path(item), json={"data": [data]}).json()["data"] == [data]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/data"), ({"data": 1, "id": "mine"}, "/id"), ({"data": 1, "more": 2}, "/more"), ([], "")],
)
def test_a_creation_of_the_wrong_shape_is_refused_where_it_is_wrong(owner: User, body: Any, pointer: str) -> None:
    assert faults(owner.post("/data", json=body)).keys() == {pointer}


def test_reading_shows_the_etag_and_answers_304_to_who_has_it(owner: User) -> None:
    item = owner.add("x")
    answer = owner.get(path(item))
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    for tags in ('"1"', 'W/"1"', '"7", "1"', "*"):
        cached = owner.get(path(item), headers={"If-None-Match": tags})
        assert (cached.status_code, cached.content, cached.headers["ETag"]) == (304, b"", '"1"')
    for tags in ('"2"', '"11"', '"a,b"'):
        assert owner.get(path(item), headers={"If-None-Match": tags}).status_code == 200
    for tags in ("1", '"1', '"1" "2"'):
        problem(owner.get(path(item), headers={"If-None-Match": tags}), 400, "invalid_if_none_match")


def test_replacing_moves_version_and_updated_at_on(owner: User) -> None:
    item = owner.add({"a": 1})
    answer = owner.put(path(item), json={"data": ["b"]})
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    replaced = answer.json()
    assert replaced == {**item, "data": ["b"], "version": 2, "updated_at": replaced["updated_at"]}
    assert replaced["updated_at"] >= item["updated_at"]
    assert owner.get(path(item)).json() == replaced


def test_put_takes_what_get_returned(owner: User) -> None:
    item = owner.get(path(owner.add({"a": 1}))).json()
    answer = owner.put(path(item), json={**item, "data": {"a": 2}})
    assert answer.json()["data"] == {"a": 2}
    stale = owner.put(path(item), json={**item, "id": ABSENT, "version": 99, "created_at": None, "updated_at": []})
    assert (stale.json()["id"], stale.json()["version"]) == (item["id"], 3)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_write_of_the_wrong_shape_is_refused_where_it_is_wrong(owner: User, method: str) -> None:
    item = owner.add(1)
    if method == "PUT":
        assert faults(owner.request(method, path(item), json={"version": 1})).keys() == {"/data"}
    assert faults(owner.request(method, path(item), json={"data": 1, "owner": "x"})).keys() == {"/owner"}
    assert owner.get(path(item)).json() == item


WRITES = ["PUT", "PATCH", "DELETE"]


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("tags", ["*", '"1"', 'W/"1"', '"7", "1"'])
def test_if_none_match_that_names_the_item_lets_nothing_be_written(owner: User, method: str, tags: str) -> None:
    item = owner.add("x")
    answer = owner.request(method, path(item), json={"data": "y"}, headers={"If-None-Match": tags})
    problem(answer, 412, "version_conflict")
    assert owner.get(path(item)).json() == item


@pytest.mark.parametrize("method", WRITES)
def test_if_none_match_of_another_version_lets_it_be_written(owner: User, method: str) -> None:
    answer = owner.request(method, path(owner.add("x")), json={"data": "y"}, headers={"If-None-Match": '"2"'})
    assert answer.status_code in (200, 204)
    wrong = owner.request(method, path(owner.add("x")), json={"data": "y"}, headers={"If-None-Match": "2"})
    problem(wrong, 400, "invalid_if_none_match")


@pytest.mark.parametrize("method", WRITES)
def test_a_weak_tag_in_if_match_is_a_412_that_says_so(owner: User, method: str) -> None:
    item = owner.add("x")
    answer = owner.request(method, path(item), json={"data": "y"}, headers={"If-Match": 'W/"1"'})
    assert "weak" in problem(answer, 412, "version_conflict")["detail"]
    assert owner.get(path(item)).json() == item


def test_a_deleted_item_is_gone(user: User) -> None:
    item = user.add(1)
    answer = user.delete(path(item))
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        problem(user.request(method, path(item), json={"data": 1}), 404, "item_not_found")
    assert user.get("/data").json()["items"] == []


BAD_IDS = {
    "upper case": lambda id: id.upper(),
    "braces": lambda id: f"{{{id}}}",
    "urn": lambda id: f"urn:uuid:{id}",
    "no hyphens": lambda id: id.replace("-", ""),
    "NUL behind": lambda id: f"{id}%00",
    "line break behind": lambda id: f"{id}%0A",
    "space before": lambda id: f"%20{id}",
    "version 4": lambda id: id[:14] + "4" + id[15:],
    "5,000 digits": lambda id: "9" * 5000,
    "zero": lambda id: "0",
    "negative": lambda id: "-1",
    "SQL": lambda id: "'%20OR%20'1'='1",
    "wildcard": lambda id: "%25",
    "bad UTF-8": lambda id: "%ff%fe",
    "surrogate": lambda id: "%ed%a0%80",
    "full-width": lambda id: id.replace("7", "%EF%BC%97"),
    "absent": lambda id: ABSENT,
}


@pytest.mark.parametrize("spelled", BAD_IDS.values(), ids=BAD_IDS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_any_other_spelling_of_an_id_is_not_found(owner: User, method: str, spelled: Callable[[str], str]) -> None:
    item = owner.add(1)
    problem(owner.request(method, f"/data/{spelled(item['id'])}", json={"data": 2}), 404, "item_not_found")
    assert owner.get(path(item)).json() == item


def test_a_trailing_slash_is_another_path(owner: User) -> None:
    item = owner.add(1)
    for other in ("/data/", f"{path(item)}/", f"/{path(item)}"):
        problem(owner.get(other, allow_redirects=False), 404, "not_found")


def test_head_is_get_without_the_body(owner: User) -> None:
    item = owner.add(1)
    answer = owner.head(path(item))
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (200, b"", '"1"')


def write(user: User, method: str, item: Any, if_match: str) -> requests.Response:
    return user.request(method, path(item), json={"data": "written"}, headers={"If-Match": if_match})


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("tags", ['"1"', "*", '"7", "1"', '"7" ,"1"', 'W/"1", "1"', '"a,b", "1"', ', "1",'])
def test_a_write_goes_ahead_when_a_tag_matches(owner: User, method: str, tags: str) -> None:
    assert write(owner, method, owner.add(1), tags).status_code in (200, 204)


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("tags", ['"2"', '"01"', 'W/"1"', '"7", "8"', '""', '"*"', '"a,b"', '"a,1"', '"1,"'])
def test_a_write_is_refused_when_no_tag_matches(owner: User, method: str, tags: str) -> None:
    item = owner.add(1)
    problem(write(owner, method, item, tags), 412, "version_conflict")
    assert owner.get(path(item)).json() == item


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("tags", ["1", "'1'", '"1', '"1 "', '1"', "**", '"1" "2"', "w/'1'", '"1";"2"', '"1", *', ","])
def test_a_malformed_if_match_is_refused(owner: User, method: str, tags: str) -> None:
    item = owner.add(1)
    problem(write(owner, method, item, tags), 400, "invalid_if_match")
    assert owner.get(path(item)).json() == item


def with_lines(user: User, item: Any, *lines: str) -> http.client.HTTPResponse:
    """The answer to a PUT with an If-Match header for each of `lines`."""
    connection = http.client.HTTPConnection("127.0.0.1", user.service.port, timeout=60)
    with closing(connection):
        body = b'{"data": "written"}'
        connection.putrequest("PUT", path(item))
        for name, value in [("Authorization", str(user.headers["Authorization"])), ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        for line in lines:
            connection.putheader("If-Match", line)
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.read()
        return answer


def test_several_lines_of_if_match_are_one_list(owner: User) -> None:
    assert with_lines(owner, owner.add(1), '"7"', '"1"').status == 200
    assert with_lines(owner, owner.add(1), '"1"', '"7"').status == 200
    assert with_lines(owner, owner.add(1), '"7"', '"8"').status == 412
    assert with_lines(owner, owner.add(1), '"1"', "garbage").status == 400


@pytest.mark.parametrize("method", WRITES)
def test_an_item_that_is_not_there_matches_nothing(owner: User, method: str) -> None:
    problem(write(owner, method, {"id": ABSENT}, "*"), 404, "item_not_found")


@pytest.mark.parametrize("method", WRITES)
def test_of_twenty_writers_with_one_etag_exactly_one_wins(owner: User, method: str) -> None:
    item = owner.add({"writer": None})
    headers = {**owner.headers, "If-Match": '"1"'}

    def one(writer: int) -> int:
        body = {"data": {"writer": writer}}
        return owner.service.request(method, path(item), json=body, headers=headers).status_code

    with ThreadPoolExecutor(20) as pool:
        found = Counter(pool.map(one, range(20)))
    if method == "DELETE":
        assert found == {204: 1, 404: 19}
    else:
        assert found == {200: 1, 412: 19}
        assert owner.get(path(item)).json()["version"] == 2


RFC_7396_APPENDIX_A: list[tuple[str, str, str]] = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


@pytest.mark.parametrize(("original", "patch", "result"), RFC_7396_APPENDIX_A)
def test_patch_merges_as_the_table_of_rfc_7396_has_it(owner: User, original: str, patch: str, result: str) -> None:
    item = owner.add(json.loads(original))
    answer = send_text(owner, "PATCH", path(item), f'{{"data":{patch}}}')
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    assert answer.json()["data"] == json.loads(result)
    assert owner.get(path(item)).json() == answer.json()


@pytest.mark.parametrize("body", [{}, {"version": 7, "id": ABSENT}])
def test_a_patch_of_nothing_changes_no_data(owner: User, body: Any) -> None:
    item = owner.add({"a": 1})
    answer = owner.patch(path(item), json=body)
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["data"]) == (item["id"], {"a": 1})
    assert owner.get(path(item)).json() == answer.json()


def test_patch_takes_the_media_type_of_merge_patches(owner: User) -> None:
    item = owner.add({"a": 1, "b": 2})
    body, headers = b'{"data": {"a": null}}', {"Content-Type": "application/merge-patch+json"}
    assert owner.patch(path(item), data=body, headers=headers).json()["data"] == {"b": 2}
    problem(owner.put(path(item), data=body, headers=headers), 415, "unsupported_media_type")


def test_patch_finds_a_member_however_its_name_is_escaped(owner: User) -> None:
    item = owner.add({"é\n": 1, "b": 2})
    answer = send_text(owner, "PATCH", path(item), r'{"data":{"\u00e9\u000a":null}}')
    assert answer.json()["data"] == {"b": 2}


def test_many_patches_of_different_members_at_once_lose_nothing(owner: User) -> None:
    item = owner.add({})
    headers = dict(owner.headers)

    def one(n: int) -> int:
        body = {"data": {f"member {n}": n}}
        return owner.service.request("PATCH", path(item), json=body, headers=headers).status_code

    with ThreadPoolExecutor(20) as pool:
        assert Counter(pool.map(one, range(20))) == {200: 20}
    assert owner.get(path(item)).json()["data"] == {f"member {n}": n for n in range(20)}


def test_large_and_deep_items_are_merged_without_keeping_other_writers_waiting(owner: User, other: User) -> None:
    deep = '{"a":' * 60 + '{"n":[' + ",".join(["1"] * 400_000) + "]}" + "}" * 60
    created = send_text(owner, "POST", "/data", f'{{"data":{deep}}}')
    at, body, headers = created.headers["Location"], f'{{"data":{deep}}}'.encode(), dict(owner.headers)
    with ThreadPoolExecutor(4) as pool:
        patches = [
            pool.submit(owner.service.request, "PATCH", at, data=body, headers=headers, timeout=60) for _ in range(4)
        ]
        other.add("in between")
        assert [patch.result().status_code for patch in patches] == [200] * 4
    owner.delete(at)


@pytest.fixture(scope="module")
def small(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """Where little is allowed."""
    env = {"MAX_BODY_BYTES": "2000", "MAX_ITEMS_PER_USER": "3"}
    with shared_by_tests(TokenService, storage, tmp_path_factory.mktemp("small"), **env) as service:
        yield service


def test_a_merge_can_not_grow_an_item_beyond_the_limit_of_a_body(small: TokenService) -> None:
    user = User(small)
    item = user.add({"a": "x" * 1500})
    problem(user.patch(path(item), json={"data": {"b": "x" * 1500}}), 413, "body_too_large")
    assert user.get(path(item)).json() == item


def test_the_size_of_a_merged_item_is_counted_in_bytes(small: TokenService) -> None:
    user = User(small)
    item = send_text(user, "POST", "/data", f'{{"data":{{"a":"{"é" * 700}"}}}}').json()
    refused = send_text(user, "PATCH", path(item), f'{{"data":{{"b":"{"é" * 400}"}}}}')  # 1,100 characters
    problem(refused, 413, "body_too_large")
    assert send_text(user, "PATCH", path(item), f'{{"data":{{"b":"{"é" * 280}"}}}}').status_code == 200


NUMBERS = ["9007199254740993", "-0.0", "-0", "1e-400", "1.10", "123456789012345678901234567890", "1E+2", "0.1e1"]
NUMBERS += ["3.141592653589793238462643383279", "-1.0e-10", "1" * 4300]


@pytest.mark.parametrize("number", NUMBERS, ids=[number[:12] for number in NUMBERS])
def test_a_number_comes_back_as_it_was_sent(user: User, number: str) -> None:
    written = f'{{"n":{number},"in":[{number},{{"deep":{number}}}]}}'
    created = send_text(user, "POST", "/data", f'{{"data":{written}}}')
    assert created.status_code == 201
    at = created.headers["Location"]
    assert f'"data":{written},' in created.text
    for shown in (at, "/data", "/me/export"):
        assert f'"data":{written},' in user.get(shown).text
    patched = send_text(user, "PATCH", at, '{"data":{"other":true}}')
    assert f'"n":{number},"in":[{number},{{"deep":{number}}}],"other":true' in patched.text
    assert (
        f'"data":{{"n":{number}}}'
        in send_text(user, "PATCH", at, f'{{"data":{{"n":{number},"in":null,"other":null}}}}').text
    )
    assert f'"data":[{number}]' in send_text(user, "PUT", at, f'{{"data":[{number}]}}').text


def test_a_user_has_room_for_so_many_items_and_deleting_makes_room(small: TokenService) -> None:
    user, other = User(small), User(small)
    items = [user.add(n) for n in range(3)]
    keyed = {"Idempotency-Key": "refused-at-first"}
    problem(user.post("/data", json={"data": 3}, headers=keyed), 409, "quota_exceeded")
    other.add("room of one's own")
    user.delete(path(items[0]))
    created = user.post("/data", json={"data": 3}, headers=keyed)  # a refused request keeps no key
    assert (created.status_code, created.headers.get("Idempotency-Replayed")) == (201, None)
    problem(user.post("/data", json={"data": 4}), 409, "quota_exceeded")


def test_many_at_once_do_not_slip_past_the_quota(small: TokenService) -> None:
    user = User(small)
    headers = dict(user.headers)
    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(lambda n: user.service.post("/data", {"data": n}, headers=headers), range(20))
        assert Counter(answer.status_code for answer in answers) == {201: 3, 409: 17}


def keyed(user: User, key: str, data: Any) -> requests.Response:
    return user.service.post("/data", {"data": data}, headers={**user.headers, "Idempotency-Key": key})


def test_the_same_key_and_body_replays_the_first_answer(user: User) -> None:
    first, second = keyed(user, "k", {"n": 1.5}), keyed(user, "k", {"n": 1.5})
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    for name in ("Location", "ETag", "Content-Type"):
        assert second.headers[name] == first.headers[name]
    assert (second.status_code, second.text) == (201, first.text)
    assert len(user.get("/data").json()["items"]) == 1


def test_the_same_key_with_another_body_is_refused(user: User) -> None:
    keyed(user, "k", 1)
    problem(keyed(user, "k", 2), 422, "idempotency_key_reused")
    assert len(user.get("/data").json()["items"]) == 1


@pytest.mark.parametrize("other", ["0.10000000000000000001", "0.10", '"0.1"'])
def test_a_number_with_other_digits_is_another_body(user: User, other: str) -> None:
    headers = {**user.headers, "Idempotency-Key": "k", "Content-Type": "application/json"}

    def send(number: str) -> requests.Response:
        return user.service.request("POST", "/data", data=f'{{"data": [{number}]}}', headers=headers)

    send("0.1")
    assert send("0.1").headers["Idempotency-Replayed"] == "true"
    problem(send(other), 422, "idempotency_key_reused")


def test_a_key_outlives_what_it_made(user: User) -> None:
    first = keyed(user, "k", 1)
    user.delete(first.headers["Location"])
    assert keyed(user, "k", 1).text == first.text
    assert user.get("/data").json()["items"] == []


def test_twenty_that_race_with_one_key_make_one_item(user: User) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: keyed(user, "raced", "x"), range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 20}
    assert len({answer.text for answer in answers}) == 1
    assert Counter(answer.headers.get("Idempotency-Replayed") for answer in answers) == {"true": 19, None: 1}
    assert len(user.get("/data").json()["items"]) == 1


def test_another_users_key_is_another_key(user: User, other: User) -> None:
    assert keyed(user, "shared", 1).json()["id"] != keyed(other, "shared", 1).json()["id"]
    assert keyed(other, "shared", 1).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "é".encode("latin-1")])
def test_a_malformed_key_is_refused(owner: User, key: str | bytes) -> None:
    headers = {"Idempotency-Key": key}
    problem(owner.post("/data", json={"data": 1}, headers=headers), 400, "invalid_idempotency_key")


def pages(user: User, limit: int, between: Callable[[], Any] = lambda: None) -> list[list[Any]]:
    """The data of every page."""
    found, cursor = [], ""
    for _ in range(100):
        page = user.get(f"/data?limit={limit}{cursor}").json()
        found.append([item["data"] for item in page["items"]])
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
        between()
    raise AssertionError("the pages never end")


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (200, [6])])
def test_pages_come_oldest_first_and_end(user: User, limit: int, sizes: list[int]) -> None:
    for n in range(6):
        user.add(n)
    found = pages(user, limit)
    assert [len(page) for page in found] == sizes
    assert [data for page in found for data in page] == list(range(6))


def test_the_list_shows_items_whole(user: User) -> None:
    item = user.add({"a": 1})
    assert user.get("/data").json() | {"items": [item], "next_cursor": None} == user.get("/data").json()


def test_a_page_has_fifty_unless_told(user: User) -> None:
    for n in range(51):
        user.add(n)
    assert len(user.get("/data").json()["items"]) == 50


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1e1", "1.0", "+1", "٣", "", "1000000000", "9" * 5000, "%00", "x"])
def test_a_limit_out_of_bounds_is_refused(owner: User, limit: str) -> None:
    assert faults(owner.get(f"/data?limit={limit}")).keys() == {"/limit"}


@pytest.mark.parametrize("query", ["limit=0&wait=1&where=[", "since=x&limit=0&wait=99&where={}"])
def test_all_that_is_wrong_with_a_query_is_told(owner: User, query: str) -> None:
    assert faults(owner.get(f"/data?{query}")).keys() == {"/limit", "/wait", "/where"}


def test_rows_that_come_and_go_between_pages_neither_double_nor_hide_another(user: User) -> None:
    items = [user.add(n) for n in range(9)]
    doomed = [items[1], items[6], items[0]]

    def between() -> None:
        user.add("late")
        if doomed:
            user.delete(path(doomed.pop()))

    found = [data for page in pages(user, 2, between) for data in page]
    assert [data for data in found if data != "late"] == [0, 1, 2, 3, 4, 5, 7, 8]


def cursor_of(user: User) -> str:
    for n in range(2):
        user.add(n)
    return str(user.get("/data?limit=1").json()["next_cursor"])


def test_a_cursor_is_its_users_alone(user: User, other: User) -> None:
    cursor = cursor_of(user)
    problem(other.get(f"/data?cursor={cursor}"), 400, "invalid_cursor")
    assert user.get(f"/data?cursor={cursor}").json()["items"][0]["data"] == 1


def test_every_changed_cursor_is_refused(user: User) -> None:
    cursor = cursor_of(user)
    changed = [cursor[:at] + ("B" if cursor[at] == "A" else "A") + cursor[at + 1 :] for at in range(0, len(cursor), 3)]
    changed += ["", "x", cursor[:-1], cursor + "A", cursor + "=", cursor + "%0A", "%20" + cursor, "%00", "%ff", "🙂"]
    for bad in changed:
        problem(user.get(f"/data?cursor={bad}"), 400, "invalid_cursor")


def test_a_cursor_goes_on_where_its_row_was_deleted(user: User) -> None:
    items = [user.add(n) for n in range(3)]
    cursor = user.get("/data?limit=1").json()["next_cursor"]
    user.delete(path(items[0]))
    assert [item["data"] for item in user.get(f"/data?cursor={cursor}").json()["items"]] == [1, 2]


def test_a_page_ends_early_at_a_megabyte_and_the_cursor_goes_on(user: User) -> None:
    for n, size in enumerate([400_000, 400_000, 1, 400_000, 15_000, 17_000, 1_040_000, 1]):
        user.add([n, "x" * size])
    found = pages(user, 200)
    assert [[n for n, _ in page] for page in found] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_page_is_counted_in_bytes_and_shows_one_item_at_least(user: User) -> None:
    for n in range(3):
        body = json.dumps(
            {"data": [n, "ü" * 520_000]}, ensure_ascii=False
        ).encode()  # a MiB, but half as many characters
        assert user.post("/data", data=body).status_code == 201
    assert [[n for n, _ in page] for page in pages(user, 200)] == [[0], [1], [2]]


def test_a_page_that_is_full_to_the_byte_has_no_cursor_to_nothing(user: User) -> None:
    for n in range(5):
        user.add([n, "x" * 100_000])
    assert len(pages(user, 200)) == len(pages(user, 5)) == 1
    assert [len(page) for page in pages(user, 3)] == [3, 2]
