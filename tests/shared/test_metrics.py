"""The text that Prometheus reads."""

import math

import pytest

from shared import metrics
from shared.metrics import Counter, Histogram, family, gauge


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "COUNTED", [])


def test_a_counter_without_labels_starts_at_zero() -> None:
    counter = Counter("faults_total", "Faults.")
    assert counter.text() == "# HELP faults_total Faults.\n# TYPE faults_total counter\nfaults_total 0\n"
    counter.add()
    assert counter.text().endswith("\nfaults_total 1\n")


def test_a_counter_counts_for_each_set_of_labels() -> None:
    counter = Counter("requests_total", "Requests.", "route", "status")
    for status in (200, 404, 200):
        counter.add("/x", status)
    assert counter.text().splitlines()[2:] == [
        'requests_total{route="/x",status="200"} 2',
        'requests_total{route="/x",status="404"} 1',
    ]


def test_a_label_says_what_it_was_given() -> None:
    counter = Counter("odd_total", "Odd.", "type")
    counter.add('a"b\\c\nd')
    assert counter.text().splitlines()[2:] == [r'odd_total{type="a\"b\\c\nd"} 1']


def test_a_counter_must_get_its_labels() -> None:
    counter = Counter("requests_total", "Requests.", "route")
    counter.add()
    with pytest.raises(ValueError, match="zip"):
        counter.text()


def test_a_histogram_counts_what_is_up_to_each_bound() -> None:
    histogram = Histogram("seconds", "Seconds.", "route")
    for seconds in (0.001, 0.005, 0.3, 31):
        histogram.add(seconds, "/x")
    lines = histogram.text().splitlines()
    assert lines[:2] == ["# HELP seconds Seconds.", "# TYPE seconds histogram"]
    buckets = {line.partition('le="')[2].partition('"')[0]: line.rpartition(" ")[2] for line in lines if "le=" in line}
    assert (buckets["0.005"], buckets["0.01"], buckets["0.25"], buckets["0.5"]) == ("2", "2", "2", "3")
    assert (buckets["30"], buckets["+Inf"]) == ("3", "4")
    assert 'seconds_count{route="/x"} 4' in lines
    (total,) = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("seconds_sum")]
    assert math.isclose(total, 31.306)


def test_a_gauge_and_a_family_are_lines_of_their_own() -> None:
    assert gauge("up", "Up.", 1).splitlines()[2:] == ["up 1"]
    assert family("gauge", "t", "T.", ("a", "b"), {("x", "y"): 0.5}).splitlines()[2:] == ['t{a="x",b="y"} 0.5']


def test_all_of_it_ends_with_a_line_feed() -> None:
    made = Counter("a_total", "A.")
    assert metrics.text([gauge("b", "B.", 2)]) == made.text() + gauge("b", "B.", 2)
