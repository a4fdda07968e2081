"""The words that PostgreSQL is given."""

from typing import Any

import pytest
from psycopg import DataError

from shared.database import listed
from shared.database.postgres.dialect import adds_a_row, repeated, statement


def test_values_are_numbered_in_the_order_of_their_names() -> None:
    asked, values, _ = statement("SELECT :a + :b, :a, 'now'::text", a=1, b="2")
    assert (asked.text, values) == (b"SELECT $1 + $2, $1, 'now'::text", [b"1", b"2"])


@pytest.mark.parametrize("ids", [["a"], ["a", "b", 'quo"te\\, {x}']])
def test_a_list_of_any_length_is_one_statement(ids: list[str]) -> None:
    names, values = listed("id", ids)
    asked, texts, _ = statement(f"SELECT 1 WHERE x = :x AND id IN {names} OR id NOT IN {names}", x=1, **values)
    assert asked.text == b"SELECT 1 WHERE x = $1 AND id = ANY($2) OR id <> ALL($2)"
    assert texts[1:] == [{1: b'{"a"}', 3: b'{"a","b","quo\\"te\\\\, {x}"}'}[len(ids)]]


@pytest.mark.parametrize("value", ["a\0b", "\ud800", b"bytes"])
def test_what_there_is_no_word_for_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises((DataError, UnicodeEncodeError, KeyError)):
        statement("SELECT :value", value=value)


ROW = "INSERT INTO item (id, made_at, seen_at) VALUES (:id, :now, :now)"


def test_rows_of_one_kind_are_one_statement() -> None:
    assert adds_a_row(ROW)
    assert repeated(ROW, 2).text == b"INSERT INTO item (id, made_at, seen_at) VALUES ($1, $2, $2), ($3, $4, $4)"


@pytest.mark.parametrize("more", [" RETURNING id", " ON CONFLICT (id) DO UPDATE SET seen_at = :now", ", (:a, :b, :c)"])
def test_what_is_more_than_a_row_goes_out_as_it_is(more: str) -> None:
    assert not adds_a_row(ROW + more)
