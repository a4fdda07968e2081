"""/data?since: a copy of one's data that is kept up to date."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.histories import live_through
from tests.processes import TokenService
from tests.shared.engines import ENGINES
from tests.token_svc.answers import faults, problem
from tests.token_svc.users import User
from tests.transactions import START, Timeline, opened
from token_svc import accounts, items
from token_svc.items import DELETED_MS, Deleted, ItemRow, Room
from token_svc.main import SCHEMA

ROOM = Room(1000, 10**9)


def listed(user: User, **query: Any) -> dict[str, Any]:
    answer = user.get("/data", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def walked(user: User, **query: Any) -> tuple[list[Any], str]:
    """All pages, and the mark that they have in common."""
    page = listed(user, **query)
    found, marks = page["items"], {page["since"]}
    while page["next_cursor"]:
        page = listed(user, **query, cursor=page["next_cursor"])
        found += page["items"]
        marks.add(page["since"])
    (mark,) = marks
    return found, mark


def test_since_tells_what_was_made_changed_and_deleted_oldest_change_first(user: User) -> None:
    kept, changed, gone = (user.add(n) for n in range(3))
    everything, mark = walked(user, limit=1)
    assert everything == [kept, changed, gone]
    assert walked(user, since=mark) == ([], mark)
    made = user.add("new")
    user.delete(f"/data/{gone['id']}")
    changed = user.put(f"/data/{changed['id']}", json={"data": "b"}).json()
    short_lived = user.add("x")
    user.delete(f"/data/{short_lived['id']}")
    expected = [made, {"id": gone["id"], "deleted": True}, changed, {"id": short_lived["id"], "deleted": True}]
    assert walked(user, since=mark)[0] == expected
    news, later = walked(user, since=mark, limit=1)
    assert news == expected
    assert walked(user, since=later) == ([], later)


def test_what_changes_during_a_walk_is_in_what_since_tells(user: User) -> None:
    first, second = user.add(1), user.add(2)
    page = listed(user, limit=1)
    user.patch(f"/data/{first['id']}", json={"data": {"moved": "on"}})
    third = user.add(3)
    rest = listed(user, limit=5, cursor=page["next_cursor"])
    assert (page["items"], rest["items"], rest["since"]) == ([first], [second, third], page["since"])
    news, _ = walked(user, since=page["since"])
    assert [item["id"] for item in news] == [first["id"], third["id"]]


def test_since_waits_for_a_change(user: User) -> None:
    mark = listed(user)["since"]
    made: list[Any] = []
    later = threading.Timer(0.5, lambda: made.append(user.add("x")))
    later.start()
    started = time.monotonic()
    page = listed(user, since=mark, wait=25)
    later.join()
    assert page["items"] == made
    assert time.monotonic() - started < 20
    assert listed(user, since=page["since"], wait=1)["items"] == []


def test_one_that_waits_is_answered_when_the_process_is_told_to_stop(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens()
    user = User(service)
    mark = listed(user)["since"]
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as waiting:
        waiting.request("GET", f"/data?since={mark}&wait=25", headers={"Authorization": user.headers["Authorization"]})
        assert user.get("/me").status_code == 200  # the request before it is under way
        service.send(signal.SIGTERM)
        answer = waiting.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"items": [], "next_cursor": None, "since": mark})
    service.wait()


def test_a_mark_is_its_users_own_and_of_since_alone(user: User, other: User) -> None:
    user.add(1)
    user.add(2)
    page = listed(user, limit=1)
    for bad in (page["next_cursor"], "x", page["since"] + "A", ""):
        problem(user.get("/data", params={"since": bad}), 400, "invalid_cursor")
    problem(other.get("/data", params={"since": page["since"]}), 400, "invalid_cursor")
    problem(user.get("/data", params={"cursor": page["since"]}), 400, "invalid_cursor")
    other_filter = {"cursor": page["next_cursor"], "where": "{}"}
    problem(user.get("/data", params=other_filter), 400, "invalid_cursor")


@pytest.mark.parametrize("wait", ["-1", "26", "x", "1.5", "007", "²"])
def test_a_wait_that_is_none_is_pointed_at(user: User, wait: str) -> None:
    mark = listed(user)["since"]
    assert faults(user.get("/data", params={"since": mark, "wait": wait})).keys() == {"/wait"}


def test_a_filter_and_a_mark_do_not_go_together(user: User) -> None:
    mark = listed(user)["since"]
    assert faults(user.get("/data", params={"since": mark, "where": "{}"})).keys() == {"/where"}
    assert faults(user.get("/data", params={"wait": "1"})).keys() == {"/wait"}


@pytest.fixture(params=ENGINES)
def timeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timeline]:
    with opened(Timeline, request.param, tmp_path, {"token": SCHEMA}) as timeline:
        yield timeline


class Copy(RuleBasedStateMachine):
    """A copy that is made by a walk and kept by `since`, while the original changes between any two pages."""

    timeline: Timeline

    def __init__(self) -> None:
        super().__init__()
        do = self.timeline.do
        self.timeline.now = START
        do(lambda tx: [tx.run(f"DELETE FROM {table}") for table in ("account", "item", "deleted_item")])
        self.owner = do(lambda tx: accounts.create(tx, "ada", "ada@example.org", "hash")).id
        self.original: dict[str, ItemRow] = {}
        self.copy: dict[str, ItemRow] = {}
        self.mark: int | None = None  # of the last walk that is over
        self.walk: tuple[int, Any] | None = None  # one under way: its mark, and where it goes on
        self.is_quiet = False

    def _item(self, number: int) -> ItemRow:
        return list(self.original.values())[number % len(self.original)]

    @rule(data=st.integers(0, 9))
    def add(self, data: int) -> None:
        self._take_over(self.timeline.do(lambda tx: items.create(tx, self.owner, str(data), ROOM)))

    def _take_over(self, written: ItemRow) -> None:
        """With the number of its change."""
        item = self.timeline.do(lambda tx: items.find(tx, self.owner, written.id))
        assert item and item._replace(change=written.change) == written
        self.original[item.id] = item
        self.is_quiet = False

    @precondition(lambda self: self.original)
    @rule(number=st.integers(0, 100), data=st.integers(0, 9))
    def change(self, number: int, data: int) -> None:
        item = self._item(number)
        self._take_over(self.timeline.do(lambda tx: items.replace(tx, self.owner, item, str(data), ROOM)))

    @precondition(lambda self: self.original)
    @rule(number=st.integers(0, 100))
    def delete(self, number: int) -> None:
        item = self._item(number)
        self.timeline.do(lambda tx: items.delete(tx, self.owner, item))
        del self.original[item.id]
        self.is_quiet = False

    @rule(days=st.integers(1, 40))
    def let_time_go_by(self, days: int) -> None:
        self.timeline.now += days * 86_400_000
        self.timeline.do(items.prune)

    @rule(limit=st.integers(1, 3))
    def fetch_a_page(self, limit: int) -> None:
        if self.mark is None:
            self._list(limit)
        else:
            self._catch_up(limit, self.mark)

    def _list(self, limit: int) -> None:
        mark, after = self.walk or (self.timeline.do(lambda tx: items.latest_change(tx, self.owner)), "")
        page = self.timeline.do(lambda tx: items.page(tx, self.owner, after, limit))
        self.copy |= {item.id: item for item in page.items}
        self._go_on(mark, page.after)

    def _catch_up(self, limit: int, mark: int) -> None:
        upto, after = self.walk or (self.timeline.do(lambda tx: items.latest_change(tx, self.owner)), mark)
        found, more = self.timeline.do(lambda tx: items.changes(tx, self.owner, after, upto, limit))
        if mark < self.timeline.do(lambda tx: items.forgotten(tx, self.owner)):
            self.copy, self.mark, self.walk = {}, None, None  # as the client is told
            return
        for row in found:
            if isinstance(row, Deleted):
                self.copy.pop(row.id, None)
            else:
                self.copy[row.id] = row
        self._go_on(upto, more)

    def _go_on(self, mark: int, more: Any) -> None:
        self.walk = (mark, more) if more is not None else None
        if more is None:
            self.is_quiet = mark == self.timeline.do(lambda tx: items.latest_change(tx, self.owner))
            self.mark = mark

    @invariant()
    def a_copy_that_is_up_to_date_is_the_original(self) -> None:
        if self.is_quiet and self.walk is None:
            assert self.copy == self.original


def test_a_copy_kept_by_since_equals_the_original(timeline: Timeline) -> None:
    live_through(type("Copied", (Copy,), {"timeline": timeline}))


def test_a_deletion_is_told_of_for_thirty_days_and_then_the_mark_is_refused(timeline: Timeline) -> None:
    do = timeline.do
    owner = do(lambda tx: accounts.create(tx, "ada", "ada@example.org", "hash")).id
    item = do(lambda tx: items.create(tx, owner, "1", ROOM))
    assert item
    do(lambda tx: items.delete(tx, owner, item))
    timeline.now += DELETED_MS - 1
    assert do(items.prune) == 0
    assert do(lambda tx: items.changes(tx, owner, 1, 2, 10)) == ([Deleted(item.id, 2)], None)
    timeline.now += 1
    assert do(items.prune) == 1
    assert do(lambda tx: items.forgotten(tx, owner)) == 2
