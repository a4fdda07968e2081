"""/data?where: which items contain what is asked for."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.token_svc.answers import faults
from tests.token_svc.users import User
from token_svc import accounts, items
from token_svc.filters import MAX_CHARACTERS, containing
from token_svc.items import ItemRow

TINY = f"1e-{'9' * 23}"  # an exponent that Decimal refuses

CONTAINED = [
    ('{"colour": "red", "n": 1}', '{"colour": "red"}', True),
    ('{"colour": "red"}', '{"colour": "blue"}', False),
    ('{"colour": "red"}', '{"size": null}', False),
    ('{"size": null}', '{"size": null}', True),
    ('{"a": {"b": {"c": 1, "d": 2}}}', '{"a": {"b": {"d": 2}}}', True),
    ('{"a": {"b": 1}}', '{"a": {}}', True),
    ('{"a": 1}', '{"a": {}}', False),
    ('{"a": [1, 2]}', '{"a": [1, 2]}', True),
    ('{"a": [1, 2]}', '{"a": [1]}', False),
    ('{"a": [{"b": 1, "c": 2}]}', '{"a": [{"b": 1}]}', False),
    ('{"a": 1}', '{"a": 1.0}', True),
    ('{"a": 10}', '{"a": 1e1}', True),
    ('{"a": 1}', '{"a": true}', False),
    ('{"a": [0]}', '{"a": [false]}', False),
    ('{"a": 9007199254740993}', '{"a": 9007199254740992}', False),
    ('{"a": 0.1}', '{"a": 0.10000000000000001}', False),
    ('{"a": "1"}', '{"a": 1}', False),
    (f'{{"a": {TINY}}}', f'{{"a": {TINY}}}', True),
    (f'{{"a": {TINY}}}', '{"a": 1}', False),
    ('{"a": 1}', f'{{"a": {TINY}}}', False),
    (f'{{"a": -{TINY}}}', '{"a": 0}', True),
    (f'{{"a": 0e{"9" * 20}}}', '{"a": 0}', True),
    (f'{{"b": 1, "a": {TINY}}}', '{"b": 1}', True),
    ("{}", "{}", True),
    ("[]", "{}", False),
    ('"red"', "{}", False),
]


@pytest.mark.parametrize(("data", "where", "is_contained"), CONTAINED)
def test_data_contains_what_has_all_its_members(data: str, where: str, is_contained: bool) -> None:
    assert containing(where)(ItemRow("id", data, 1, 0, 0)) is is_contained


BAD = ["", "{", "[]", '"x"', "1", "NaN", '{"a": 1, "a": 2}', '{"a": "\\ud800"}', "[" * 100, "x" * 9000]


@pytest.mark.parametrize("where", [*BAD, json.dumps({"a": "x" * MAX_CHARACTERS})], ids=lambda where: where[:12])
def test_what_is_no_json_object_is_refused(where: str) -> None:
    with pytest.raises(ValueError):
        containing(where)


TOLD = [
    ('{"a": 1, "a": 2}', "must be JSON: a key appears twice in one object"),
    ('{"a": NaN}', "must be JSON: NaN is not JSON"),
    ('{"a": "\\u0000"}', "must be JSON: a string contains NUL"),
    ("{", "must be JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
    ("[]", "must be a JSON object"),
    ("x" * (MAX_CHARACTERS + 1), "must have at most 8192 characters"),
]


@pytest.mark.parametrize(("where", "detail"), TOLD, ids=lambda text: text[:20])
def test_what_is_wrong_with_a_filter_is_told_as_for_a_body(user: User, where: str, detail: str) -> None:
    assert faults(user.get("/data", params={"where": where})) == {"/where": detail}


def test_a_filter_goes_over_all_pages_and_over_ones_own_items_alone(user: User, other: User) -> None:
    red = [user.add({"colour": "red", "n": n}) for n in range(3)]
    user.add({"colour": "blue"})
    other.add({"colour": "red"})
    found: list[Any] = []
    query: dict[str, Any] = {"where": json.dumps({"colour": "red"}), "limit": 2}
    page = user.get("/data", params=query).json()
    found += page["items"]
    while page["next_cursor"]:
        page = user.get("/data", params={**query, "cursor": page["next_cursor"]}).json()
        found += page["items"]
    assert found == red
    assert faults(user.get("/data", params={"where": "{"})).keys() == {"/where"}


class Nothing:
    """A filter that counts what it is asked."""

    asked = 0

    def __call__(self, item: ItemRow) -> bool:
        self.asked += 1
        return False


def test_one_page_looks_at_so_many_items_and_no_more(tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_LOOKED_AT", 60)
    room = items.Room(1000, 10**6)
    owner = accounts.create(tables, "ada", "ada@example.org", "hash", "data").id
    for _ in range(100):
        assert items.create(tables, owner, "{}", room)
    seen: list[int] = []
    after: str | None = ""
    fits: Callable[[ItemRow], bool]
    while after is not None:
        fits = Nothing()
        found, after = items.page(tables, owner, after, 10, fits)
        assert found == []
        seen.append(fits.asked)
    assert seen == [60, 40]
