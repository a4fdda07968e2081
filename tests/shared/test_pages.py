"""Cursors are opaque, bound and signed."""

import base64

import pytest

from shared.errors import BadRequest
from shared.pages import Cursors

OLD, NEW = b"an old secret " * 3, b"a new secret " * 3
CURSORS = Cursors([NEW])
BOUND = ("tasks", "caller", "queued", None)
CURSOR = CURSORS.write("position", *BOUND)


def assert_refused(signed: Cursors, cursor: str, *bound: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        signed.read(cursor, *bound)
    assert (caught.value.status, caught.value.code) == (400, "invalid_cursor")


@pytest.mark.parametrize("position", ["", "0192-a", "é😀", "x" * 1000])
def test_a_cursor_gives_its_position_back(position: str) -> None:
    assert CURSORS.read(CURSORS.write(position, *BOUND), *BOUND) == position


OTHER_BOUNDS: list[tuple[str | None, ...]] = [
    (),
    ("tasks", "another", "queued", None),
    ("tasks", "caller", None, None),
    ("tasks", "caller", "queued", "None"),
    ("tasks", "caller", "queued"),
    ("items", "caller", "queued", None),
    ("tasks", "callerqueued", "", None),
]


@pytest.mark.parametrize("bound", OTHER_BOUNDS, ids=str)
def test_a_cursor_of_another_caller_or_filter_is_refused(bound: tuple[str | None, ...]) -> None:
    assert_refused(CURSORS, CURSOR, *bound)


def test_every_changed_bit_is_refused() -> None:
    raw = base64.urlsafe_b64decode(CURSOR)
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert_refused(CURSORS, base64.urlsafe_b64encode(changed).decode(), *BOUND)


CHANGED = [
    "",
    "x",
    "=",
    CURSOR[:-1],
    CURSOR + "=",
    CURSOR + "\n",
    " " + CURSOR,
    CURSOR + "A",
    CURSOR * 2,
    "é",
    "\x00",
    "A" * 24,
]


@pytest.mark.parametrize("cursor", CHANGED, ids=repr)
def test_another_spelling_is_refused(cursor: str) -> None:
    assert_refused(CURSORS, cursor, *BOUND)


def test_unused_bits_of_the_last_character_count() -> None:
    cursor = CURSORS.write("ab", *BOUND).rstrip("=")  # 18 bytes: nothing to fill up
    longer = CURSORS.write("abc", *BOUND)  # 19 bytes: four unused bits and two equal signs
    assert len(cursor) == 24
    assert_refused(CURSORS, longer[:-3] + chr(ord(longer[-3]) + 1) + "==", *BOUND)


def test_after_a_rotation_old_cursors_are_read_and_new_ones_signed_by_the_first_secret() -> None:
    both = Cursors([NEW, OLD])
    assert both.read(Cursors([OLD]).write("position", *BOUND), *BOUND) == "position"
    assert Cursors([NEW]).read(both.write("position", *BOUND), *BOUND) == "position"


def test_a_cursor_of_a_retired_secret_is_refused() -> None:
    assert_refused(CURSORS, Cursors([OLD]).write("position", *BOUND), *BOUND)


def test_a_cursor_does_not_show_its_secret() -> None:
    assert NEW[:8] not in base64.urlsafe_b64decode(CURSOR)
