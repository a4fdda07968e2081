"""What this process has counted, in Prometheus' text format
(https://prometheus.io/docs/instrumenting/exposition_formats/).

A counter is made once, beside the code that adds to it, as loggers are.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping

Labels = tuple[str | int, ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # a long poll takes up to 25


class Counter:
    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self._values: dict[Labels, float] = {} if labels else {(): 0}
        self._lock = threading.Lock()  # threads of the database count too
        COUNTED.append(self)

    def add(self, *labels: str | int) -> None:
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + 1

    def text(self) -> str:
        return family("counter", self._name, self._meaning, self._labels, self._values.copy())


class Histogram:
    """Of seconds. Has no lock: the event loop alone may add to it."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        COUNTED.append(self)

    def add(self, seconds: float, *labels: str | int) -> None:
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = [0] * (len(SECONDS) + 1)
            self._sums[labels] = 0.0
        buckets[bisect_left(SECONDS, seconds)] += 1
        self._sums[labels] += seconds

    def text(self) -> str:
        lines = _head("histogram", self._name, self._meaning)
        for labels, buckets in self._buckets.items():
            count = 0
            for bound, number in zip((*SECONDS, "+Inf"), buckets, strict=True):
                count += number
                lines.append(_line(f"{self._name}_bucket", (*self._labels, "le"), (*labels, str(bound)), count))
            lines.append(_line(f"{self._name}_sum", self._labels, labels, self._sums[labels]))
            lines.append(_line(f"{self._name}_count", self._labels, labels, count))
        return "".join(lines)


COUNTED: list[Counter | Histogram] = []


def gauge(name: str, meaning: str, value: float) -> str:
    return family("gauge", name, meaning, (), {(): value})


def family(kind: str, name: str, meaning: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> str:
    """A metric with its head, a line for each set of labels."""
    lines = _head(kind, name, meaning)
    return "".join(lines + [_line(name, labels, own, value) for own, value in values.items()])


def text(families: Iterable[str]) -> str:
    """What this process has counted, and other families."""
    return "".join([*(one.text() for one in COUNTED), *families])


def _head(kind: str, name: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}\n", f"# TYPE {name} {kind}\n"]


def _line(name: str, labels: tuple[str, ...], own: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(str(one))}"' for label, one in zip(labels, own, strict=True))
    return f"{name}{{{pairs}}} {value}\n" if pairs else f"{name} {value}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
