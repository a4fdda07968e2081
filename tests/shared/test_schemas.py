"""Annotations to JSON Schema, values checked against it, checked values to Python."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Optional

import pytest

from shared.schemas import Fault, Format, Limits, Unsupported, builder, schema_of, validator


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Line:
    points: list[Point]
    name: str | None = None
    tags: dict[str, int] = field(default_factory=dict)


POINT: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 0.0}},
    "additionalProperties": False,
    "required": ["x"],
}

SCHEMAS: list[tuple[Any, dict[str, Any]]] = [
    (str, {"type": "string"}),
    (int, {"type": "integer"}),
    (float, {"type": "number"}),
    (bool, {"type": "boolean"}),
    (list, {"type": "array"}),
    (dict, {"type": "object"}),
    (None, {"type": "null"}),
    (Any, {}),
    (list[int], {"type": "array", "items": {"type": "integer"}}),
    (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
    (Literal["a", 1], {"enum": ["a", 1]}),
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
    (Annotated[int, Limits(minimum=0, maximum=9)], {"type": "integer", "minimum": 0, "maximum": 9}),
    (Annotated[str, Format("uuid")], {"type": "string", "format": "uuid"}),
    (Point, POINT),
    (list[Point], {"type": "array", "items": POINT}),
]


@pytest.mark.parametrize(("annotation", "schema"), SCHEMAS, ids=lambda value: str(value)[:40])
def test_an_annotation_has_its_schema(annotation: Any, schema: dict[str, Any]) -> None:
    assert schema_of(annotation) == schema


@pytest.mark.parametrize("annotation", [bytes, set[int], tuple[int, int], dict[int, str], complex, type, ...])
def test_an_annotation_that_json_has_no_shape_for_is_refused(annotation: Any) -> None:
    with pytest.raises(Unsupported):
        schema_of(annotation)


def faults_of(annotation: Any, value: Any) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    validator(schema_of(annotation))(value, "", faults)
    return [(fault.pointer, fault.detail) for fault in faults]


FITS: list[tuple[Any, Any]] = [
    (int, 1),
    (int, 1.0),
    (int, 10**30),
    (int, -0.0),
    (float, 1),
    (float, 1.5),
    (bool, True),
    (str, ""),
    (None, None),
    (Any, {"a": [1]}),
    (list, [1, "a"]),
    (dict, {"a": 1}),
    (list[int], []),
    (dict[str, int], {"any name": 1}),
    (Literal["a", "b"], "b"),
    (int | None, None),
    (int | str, "a"),
    (Annotated[str, Format("date-time")], "2026-11-22T08:30:00Z"),
    (Annotated[str, Format("uuid")], "any text"),
    (Point | None, {"x": 1}),
    (Point, {"x": 1, "y": 2}),
    (Line, {"points": [{"x": 1}], "name": None, "tags": {"a": 1}}),
]


@pytest.mark.parametrize(("annotation", "value"), FITS, ids=str)
def test_a_value_of_the_right_shape_has_no_fault(annotation: Any, value: Any) -> None:
    assert faults_of(annotation, value) == []


DOES_NOT_FIT: list[tuple[Any, Any, list[tuple[str, str]]]] = [
    (int, "1", [("", "must be an integer")]),
    (int, 1.5, [("", "must be an integer")]),
    (int, True, [("", "must be an integer")]),
    (float, True, [("", "must be a number")]),
    (float, "1", [("", "must be a number")]),
    (bool, 1, [("", "must be a boolean")]),
    (str, None, [("", "must be a string")]),
    (None, 0, [("", "must be null")]),
    (list, {}, [("", "must be an array")]),
    (dict, [], [("", "must be an object")]),
    (list[int], [1, "a", None], [("/1", "must be an integer"), ("/2", "must be an integer")]),
    (dict[str, int], {"a/b~c": "x"}, [("/a~1b~0c", "must be an integer")]),
    (Literal["a", "b"], "c", [("", 'must be one of "a", "b"')]),
    (Literal[1], True, [("", "must be one of 1")]),
    (int | None, "a", [("", "must be integer or null")]),
    (Annotated[int, Limits(maximum=3)] | None, 4, [("", "must be at most 3")]),
    (Literal["a", "b"] | None, "c", [("", 'must be "a", "b" or null')]),
    (Point, {}, [("/x", "required")]),
    (Point, {"x": 1, "z": 2}, [("/z", "unknown")]),
    (Point | None, {"x": "a"}, [("/x", "must be an integer")]),
    (None | Point, {"x": "a"}, [("/x", "must be an integer")]),
    (Line, {"points": [{"x": 1}, {"y": 1}]}, [("/points/1/x", "required")]),
    (
        Line,
        {"tags": {"a": "x"}, "z": 1},
        [("/points", "required"), ("/tags/a", "must be an integer"), ("/z", "unknown")],
    ),
    (Annotated[int, Limits(minimum=0)], -1, [("", "must be at least 0")]),
    (Annotated[float, Limits(exclusiveMinimum=0)], 0, [("", "must be more than 0")]),
    (Annotated[int, Limits(maximum=9)], 10**400, [("", "must be at most 9")]),
    (Annotated[str, Limits(minLength=1)], "", [("", "must have at least 1 characters")]),
    (Annotated[str, Limits(maxLength=1)], "ab", [("", "must have at most 1 characters")]),
    (Annotated[str, Format("date-time")], "soon", [("", "must be an RFC 3339 time such as 2026-11-22T08:30:00Z")]),
    (Annotated[list[int], Limits(minItems=1)], [], [("", "must have at least 1 items")]),
    (Annotated[list[int], Limits(maxItems=1)], [1, 2], [("", "must have at most 1 items")]),
]


@pytest.mark.parametrize(("annotation", "value", "faults"), DOES_NOT_FIT, ids=str)
def test_each_fault_is_pointed_at(annotation: Any, value: Any, faults: list[tuple[str, str]]) -> None:
    assert faults_of(annotation, value) == faults


def test_a_bound_itself_is_within_it() -> None:
    bounds = Limits(minimum=0, maximum=9)
    assert faults_of(Annotated[int, bounds], 0) == faults_of(Annotated[int, bounds], 9) == []


BUILT: list[tuple[Any, Any, Any]] = [
    (Point, {"x": 1.0}, Point(1)),
    (list[Point], [{"x": 1}], [Point(1)]),
    (dict[str, Point], {"a": {"x": 1}}, {"a": Point(1)}),
    (Point | None, None, None),
    (Point | None, {"x": 1}, Point(1)),
    (Line, {"points": [{"x": 2, "y": 3}]}, Line([Point(2, 3)])),
    (Annotated[int, Limits(minimum=0)], 2.0, 2),
    (Any, {"x": 1.0}, {"x": 1.0}),
]


@pytest.mark.parametrize(("annotation", "value", "built"), BUILT, ids=str)
def test_a_checked_value_is_built_as_the_annotation_asks(annotation: Any, value: Any, built: Any) -> None:
    assert builder(annotation)(value) == built


@pytest.mark.parametrize(("annotation", "value"), [(int, 1.0), (int | None, 1.0), (Annotated[int, Limits()], 1.0)])
def test_a_whole_float_becomes_an_int_where_an_int_is_meant(annotation: Any, value: Any) -> None:
    assert type(builder(annotation)(value)) is int


def test_a_float_stays_a_float_where_a_number_is_meant() -> None:
    assert type(builder(float)(1.0)) is float
