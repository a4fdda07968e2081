"""@task: what a function's signature makes of a payload."""

import functools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pytest

from only_post_svc import registry
from only_post_svc.registry import Context, DefinitionError, Retry, task
from shared.schemas import Fault, Limits, validator

CONTEXT = Context("id", 1, datetime(2026, 11, 22, tzinfo=UTC), lambda fraction, message: None)


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Line:
    points: list[Point]
    name: str | None = None
    tags: dict[str, int] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """The tasks that a test defines are its own."""
    before = dict(registry.handlers)
    yield
    registry.handlers.clear()
    registry.handlers.update(before)


def schema() -> Any:
    return registry.handlers["t"].task_type.payload_schema


def call(payload: Mapping[str, Any]) -> Any:
    """As a run does it: the payload is checked, then passed."""
    found: list[Fault] = []
    validator(schema())(payload, "", found)
    assert not found
    return registry.handlers["t"].call(payload, CONTEXT)


def test_the_function_stays_a_function() -> None:
    @task("t")
    def double(number: int) -> int:
        return 2 * number

    assert double(2) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"every": 0.1}, "every"),
        ({"every": 60, "cron": "0 3 * * *"}, "every"),
        ({"cron": "0 3 * * *", "timezone": "Nowhere"}, "timezone"),
    ],
)
def test_a_schedule_that_never_ticks_is_told_at_the_import(options: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=f"'t': {said}"):
        task("t", **options)(lambda: None)


def test_a_schedule_needs_no_payload() -> None:
    with pytest.raises(DefinitionError, match="default"):

        @task("t", every=60)
        def needs(path: str) -> None: ...

    @task("t", every=60)
    def needs_none(path: str = "x", *, context: Context) -> None: ...

    assert registry.handlers["t"].task_type.every == 60


def test_what_clients_are_told_of_a_task() -> None:
    @task("t", timeout=2.5, max_attempts=7)
    async def documented() -> None:
        """Do it.

        With care.
        """

    task_type = registry.handlers["t"].task_type
    assert (task_type.type, task_type.timeout, task_type.max_attempts) == ("t", 2.5, 7)
    assert (task_type.description, task_type.is_async) == ("Do it.\n\nWith care.", True)


def test_a_name_is_taken_once() -> None:
    task("t")(lambda: None)
    with pytest.raises(DefinitionError, match="'t' is defined twice"):
        task("t")(lambda: None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        ("t", {"timeout": 0}),
        ("t", {"timeout": -1}),
        ("t", {"timeout": 86401}),
        ("t", {"timeout": math.inf}),
        ("t", {"timeout": math.nan}),
        ("t", {"max_attempts": 0}),
        ("t", {"max_attempts": 26}),
    ],
)
def test_a_definition_that_can_not_be_right_is_refused(name: str, options: Any) -> None:
    with pytest.raises(DefinitionError):
        task(name, **options)(lambda: None)
    assert "t" not in registry.handlers


def test_positional_parameters_are_refused() -> None:
    def positional(a: int, /) -> None: ...

    def variable(*numbers: int) -> None: ...

    for function in (positional, variable):
        with pytest.raises(DefinitionError, match=r"'t'.*a payload has names only"):
            task("t")(function)


@pytest.mark.parametrize("annotation", [set[str], tuple[int, int], bytes, datetime, dict[int, str], complex, "Missing"])
def test_an_annotation_without_a_json_shape_is_refused(annotation: Any) -> None:
    def strange(value: Any) -> None: ...

    strange.__annotations__["value"] = annotation
    with pytest.raises(DefinitionError, match="'t'"):
        task("t")(strange)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (list, {"type": "array"}),
        (dict, {"type": "object"}),
        (Any, {}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (
            dict[str, list[str]],
            {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        ),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Annotated[int, Limits(minimum=1, maximum=5)], {"type": "integer", "minimum": 1, "maximum": 5}),
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 0.0}},
                "additionalProperties": False,
                "required": ["x"],
            },
        ),
    ],
    ids=str,
)
def test_an_annotation_makes_a_schema(annotation: Any, expected: Any) -> None:
    def typed(value: Any) -> None: ...

    typed.__annotations__["value"] = annotation
    task("t")(typed)
    assert schema() == {
        "type": "object",
        "properties": {"value": expected},
        "additionalProperties": False,
        "required": ["value"],
    }


def test_defaults_are_shown_where_json_has_a_word_for_them() -> None:
    @task("t")
    def defaults(a: str = "x", b: int | None = None, c: float = math.inf, d: list[int] = [1]) -> None: ...  # noqa: B006

    shown = {name: member.get("default", "none") for name, member in schema()["properties"].items()}
    assert shown == {"a": "x", "b": None, "c": "none", "d": "none"}
    assert "required" not in schema()


def test_no_annotation_takes_anything() -> None:
    @task("t")
    def free(value, *, other=None):  # type: ignore[no-untyped-def]
        return value, other

    assert schema()["properties"] == {"value": {}, "other": {"default": None}}
    assert call({"value": [1, None]}) == ([1, None], None)


def test_the_context_is_no_part_of_the_payload() -> None:
    @task("t")
    def aware(n: int, *, context: Context) -> str:
        return f"{context.task_id} {n}"

    assert schema()["properties"].keys() == {"n"}
    assert call({"n": 1}) == "id 1"


def test_dataclasses_are_made_however_deep() -> None:
    @task("t")
    def draw(lines: list[Line], named: dict[str, Point], one: Point | None = None) -> Any:
        return lines, named, one

    payload = {"lines": [{"points": [{"x": 1}, {"x": 2, "y": 3}]}], "named": {"a": {"x": 4}}, "one": {"x": 5}}
    assert call(payload) == ([Line([Point(1), Point(2, 3)])], {"a": Point(4)}, Point(5))


def test_a_whole_number_written_as_a_float_is_an_int() -> None:
    @task("t")
    def count(n: int, many: list[int], maybe: int | None, point: Point, real: float) -> Any:
        return n, many[0], maybe, point.x, real

    values = call({"n": 1.0, "many": [2.0], "maybe": 3.0, "point": {"x": 4.0}, "real": 5.0})
    assert values == (1, 2, 3, 4, 5.0)
    assert [type(value) for value in values] == [int, int, int, int, float]


def test_a_keyword_collector_takes_any_name() -> None:
    @task("t")
    def collect(**rest: Any) -> dict[str, Any]:
        return rest

    payload = {"return": 5, "rest": {"x": 1}, "class": None, "": [], "a b": 1}
    assert call(payload) == payload


def test_a_keyword_collector_beside_context_takes_no_member_of_that_name() -> None:
    @task("t")
    def collect(*, context: Context, **rest: Any) -> Any:
        return rest

    found: list[Fault] = []
    validator(schema())({"context": 1, "other": 2}, "", found)
    assert found == [Fault("/context", "unknown")]
    assert call({"other": 2}) == {"other": 2}


def test_what_a_keyword_collector_takes_is_checked_and_made() -> None:
    @task("t")
    def collect(first: str = "", **points: Point) -> Any:
        return first, points

    assert call({"first": "f", "points": {"x": 1}, "b": {"x": 2.0}}) == ("f", {"points": Point(1), "b": Point(2)})
    found: list[Fault] = []
    validator(schema())({"c": 5}, "", found)
    assert [fault.pointer for fault in found] == ["/c"]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf])
def test_progress_is_from_zero_to_one(fraction: float) -> None:
    with pytest.raises(ValueError):
        CONTEXT.progress(fraction)


def test_progress_reports_what_it_is_told() -> None:
    reported: list[Any] = []
    context = Context("id", 1, CONTEXT.deadline, lambda *report: reported.append(report))
    context.progress(1)
    context.progress(0.5, "half")
    assert reported == [(1.0, ""), (0.5, "half")]


def test_retry_takes_seconds_and_nothing_else() -> None:
    assert (Retry("m", after=2).after, Retry("m").after, str(Retry("m"))) == (2.0, None, "m")
    with pytest.raises(ValueError):
        Retry(after="soon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise SystemExit(5)", "SystemExit"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_module_that_can_not_be_loaded_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    name = f"broken_{reason.lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match=f"{name} .*{reason}"):
        registry.load([name])


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


async def _work() -> None: ...


def _numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [(_wrapped(_work), "'t': _work is an async def inside of a def"), (_numbers, "'t': _numbers is a generator")],
)
def test_a_function_whose_result_could_not_be_stored_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        task("t")(function)


def test_a_decorator_without_a_name_is_told_by_the_function_s() -> None:
    with pytest.raises(DefinitionError, match="above _work needs a name"):
        task(_work)  # type: ignore[arg-type]


def test_a_module_without_a_task_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle_module.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match="idle_module has no task"):
        registry.load(["idle_module"])


def test_lists_and_objects_of_typing_need_no_arguments() -> None:
    def loose(many, named): ...  # type: ignore[no-untyped-def]

    loose.__annotations__ = {"many": typing.List, "named": typing.Dict}  # noqa: UP006
    task("t")(loose)
    assert schema()["properties"] == {"many": {"type": "array"}, "named": {"type": "object"}}
    call({"many": [1], "named": {"a": 1}})


@dataclass
class Total:
    parts: list[int]
    sum: int = field(init=False, default=0)


def test_a_field_that_is_not_given_is_no_part_of_the_payload() -> None:
    @task("t")
    def add(total: Total) -> Any:
        return total

    assert schema()["properties"]["total"]["properties"].keys() == {"parts"}
    assert call({"total": {"parts": [1]}}) == Total([1])


def test_annotations_that_no_payload_needs_need_not_be_known() -> None:
    def vague(n, *, context): ...  # type: ignore[no-untyped-def]

    vague.__annotations__ = {"n": "int", "context": "Unknown", "return": "Unknown"}
    task("t")(vague)
    assert schema()["properties"] == {"n": {"type": "integer"}}
