"""The tasks that ship, called as functions."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from only_post_svc.builtin import csv_summary, echo, sleep, text_stats
from only_post_svc.registry import Context, Fail


def column(text: str, index: int = 0, **options: Any) -> Any:
    return csv_summary(text, **options)["columns"][index]


def test_echo_gives_everything_back() -> None:
    payload = {"a": [1, None, {"b": "ü"}], "return": 0, "payload": 1, "context": 2}
    assert asyncio.run(echo(**payload)) == payload


@pytest.mark.parametrize(("seconds", "steps"), [(0, 1), (0.01, 1)])
def test_sleep_reports_progress_up_to_the_end(seconds: float, steps: int) -> None:
    reported: list[float] = []
    context = Context("id", 1, datetime.now(UTC), lambda fraction, message: reported.append(fraction))
    assert asyncio.run(sleep(seconds, context=context)) == {"slept_seconds": seconds}
    assert reported == [(step + 1) / steps for step in range(steps)]


def test_a_text_is_counted() -> None:
    assert text_stats("The cat\nand the hat.\n", top=2) == {
        "characters": 21,
        "lines": 2,
        "words": 5,
        "unique_words": 4,
        "top": [{"word": "the", "count": 2}, {"word": "cat", "count": 1}],
    }


def test_an_empty_text_has_nothing() -> None:
    assert text_stats("") == {"characters": 0, "lines": 0, "words": 0, "unique_words": 0, "top": []}


def test_words_are_of_any_script_and_compared_by_folded_case() -> None:
    stats = text_stats("Straße STRASSE don't don't Ελλάδα well-known")
    assert stats["words"] == 6
    assert stats["top"][:2] == [{"word": "strasse", "count": 2}, {"word": "don't", "count": 2}]


def test_top_may_be_zero() -> None:
    assert text_stats("a b", top=0)["top"] == []


def test_each_column_is_summarised() -> None:
    assert csv_summary("name,age\nann,30\nbob,\nann,50.5\n") == {
        "rows": 3,
        "columns": [
            {"name": "name", "type": "text", "nulls": 0, "distinct": 2, "min": "ann", "max": "bob", "mean": None},
            {"name": "age", "type": "number", "nulls": 1, "distinct": 2, "min": 30, "max": 50.5, "mean": 40.25},
        ],
    }


@pytest.mark.parametrize("text", ["", "\n", "\n\n"])
def test_nothing_has_no_columns(text: str) -> None:
    assert csv_summary(text) == {"rows": 0, "columns": []}


def test_names_alone_have_no_rows() -> None:
    empty = {"name": "a", "type": "text", "nulls": 0, "distinct": 0, "min": None, "max": None, "mean": None}
    assert csv_summary("a") == {"rows": 0, "columns": [empty]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_lines_may_end_in_any_way(end: str) -> None:
    assert csv_summary(end.join(["n", "1", "2", ""]))["rows"] == 2
    assert column(end.join(["n", "1", "2", ""]))["mean"] == 1.5


def test_quoted_cells_may_hold_anything() -> None:
    summary = column('text\n"a,b"\n"two\nlines"\n"say ""hi"""\n')
    assert (summary["distinct"], summary["min"], summary["max"]) == (3, "a,b", "two\nlines")


def test_another_delimiter_may_be_named() -> None:
    assert column("a;b\n1;2,5\n", 1, delimiter=";")["max"] == "2,5"
    assert column("a\tb\n1\t2\n", 1, delimiter="\t")["max"] == 2


def test_short_rows_are_filled_with_nulls_and_long_ones_cut() -> None:
    summary = csv_summary("a,b\n1\n1,2,3\n")
    assert summary["rows"] == 2
    assert [one["nulls"] for one in summary["columns"]] == [0, 1]


def test_empty_lines_are_no_rows() -> None:
    assert csv_summary("a,b\n\n1,2\n\n")["rows"] == 1


def test_blank_cells_are_nulls() -> None:
    assert column("a,b\n 1, \n 2,\t\n", 1)["nulls"] == 2


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1e999", "x", "0x10"])
def test_what_is_no_finite_number_makes_a_column_text(cell: str) -> None:
    assert column(f"a\n1\n{cell}\n2\n")["type"] == "text"


def test_numbers_may_be_written_in_any_usual_way() -> None:
    summary = column("a\n 1\n-2.5\n1e3\n+4\n")
    assert (summary["type"], summary["min"], summary["max"]) == ("number", -2.5, 1000)


def test_a_csv_that_can_not_be_read_fails_for_good_and_says_where() -> None:
    with pytest.raises(Fail, match="row 2: "):
        csv_summary("a\n" + "x" * 200_000)


def test_columns_may_share_a_name() -> None:
    assert [one["max"] for one in csv_summary("a,a\n1,2\n")["columns"]] == [1, 2]
