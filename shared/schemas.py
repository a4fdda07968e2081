"""Shapes: annotations to JSON Schema (2020-12), and values checked against it.

The wire's own shapes (dataclasses) and the parameters of a task's handler go the same way:
`schema_of` turns an annotation into a schema, `validator` a schema into a check that collects
faults with JSON pointers, and `builder` makes the function that turns a checked value into what
the annotation names.
"""

import dataclasses
import inspect
import math
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from shared import times

Schema = dict[str, Any]
NOTHING: Schema = {"not": {}}  # of a member that may not be there


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a value: a JSON pointer (RFC 6901) and a sentence."""

    pointer: str
    detail: str


Check = Callable[[Any, str, list[Fault]], None]

SCALARS: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
MAX_FAULTS = 100  # a body can have a million; the others show once these are mended
UNIONS = (Union, types.UnionType)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds in an annotation: Annotated[int, Limits(minimum=0)]. Named as in JSON Schema."""

    minimum: float | None = None
    exclusiveMinimum: float | None = None
    maximum: float | None = None
    minLength: int | None = None
    maxLength: int | None = None
    minItems: int | None = None
    maxItems: int | None = None

    def schema(self) -> Schema:
        return {name: bound for name, bound in vars(self).items() if bound is not None}


@dataclasses.dataclass(frozen=True)
class Format:
    """What a text is: Annotated[str, Format("uuid")]. Of these `date-time` is checked, the others are for readers of
    the schema."""

    format: str

    def schema(self) -> Schema:
        return {"format": self.format}


class Unsupported(TypeError):
    """An annotation that JSON has no shape for."""


def schema_of(annotation: Any, of_dataclass: Callable[[type], Schema] | None = None) -> Schema:
    """The JSON Schema of an annotation: JSON's own types, list[…], dict[str, …], Literal,
    unions, dataclasses, and Annotated[…, Limits(…)]. `of_dataclass` gives the schema of dataclasses within;
    without it they are written out.

    Raises Unsupported for anything else.
    """

    def within(inner: Any) -> Schema:
        return schema_of(inner, of_dataclass)

    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, object, inspect.Parameter.empty):
        return {}
    if annotation in SCALARS:
        return {"type": SCALARS[annotation]}
    if origin in (list, dict) and not arguments:  # typing's List and Dict
        return {"type": SCALARS[origin]}
    if annotation is None:
        return {"type": "null"}
    if origin is Annotated:
        return within(arguments[0]) | _limits(arguments[1:])
    if origin is Literal and all(isinstance(argument, (str, int, type(None))) for argument in arguments):
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": within(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": within(arguments[1])}
    if origin in UNIONS:
        return {"anyOf": [within(argument) for argument in arguments]}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return of_dataclass(annotation) if of_dataclass else schema_of_dataclass(annotation)
    raise Unsupported(f"{annotation!r} is not one of JSON's types, list, dict[str, …], Literal, a union or a dataclass")


def _limits(metadata: tuple[Any, ...]) -> Schema:
    known = [one for one in metadata if isinstance(one, (Limits, Format))]
    return {name: bound for one in known for name, bound in one.schema().items()}


def schema_of_dataclass(cls: type, of_dataclass: Callable[[type], Schema] | None = None) -> Schema:
    hints = get_type_hints(cls, include_extras=True)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        properties[field.name] = schema_of(hints[field.name], of_dataclass)
        if field.default is not dataclasses.MISSING:
            properties[field.name] |= default_schema(field.default)
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    return object_schema(properties, required)


def default_schema(default: Any) -> Schema:
    """Shown where JSON can say it."""
    is_plain = isinstance(default, (str, int, type(None))) or (isinstance(default, float) and math.isfinite(default))
    return {"default": default} if is_plain else {}


def object_schema(properties: dict[str, Schema], required: list[str], additional: bool | Schema = False) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": additional}
    return schema | {"required": required} if required else schema


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


TYPE_TESTS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: type(value) is str,
    "boolean": lambda value: type(value) is bool,
    "integer": _is_integer,
    "number": lambda value: type(value) is int or type(value) is float,
    "array": lambda value: type(value) is list,
    "object": lambda value: type(value) is dict,
    "null": lambda value: value is None,
}
ARTICLES = {"integer": "an", "array": "an", "object": "an"}

BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "must be at least {}"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "must be more than {}"),
    "maximum": (lambda value, bound: value <= bound, "must be at most {}"),
    "minLength": (lambda value, bound: len(value) >= bound, "must have at least {} characters"),
    "maxLength": (lambda value, bound: len(value) <= bound, "must have at most {} characters"),
    "minItems": (lambda value, bound: len(value) >= bound, "must have at least {} items"),
    "maxItems": (lambda value, bound: len(value) <= bound, "must have at most {} items"),
}


def validator(schema: Schema) -> Check:
    """A function (value, pointer, faults) that appends a Fault for each thing that is wrong."""
    if schema == NOTHING:
        return lambda value, pointer, faults: faults.append(Fault(pointer, "unknown"))
    if "anyOf" in schema:
        return _any_of([validator(option) for option in schema["anyOf"]], schema)
    if "enum" in schema:
        return _one_of(schema["enum"])
    if "type" not in schema:
        return lambda value, pointer, faults: None
    return _typed(schema["type"], _inner(schema))


def _inner(schema: Schema) -> list[Check]:
    checks = [_bound(*BOUNDS[keyword], schema[keyword]) for keyword in BOUNDS if keyword in schema]
    if schema.get("format") == "date-time":
        checks.append(_time)
    if "items" in schema:
        checks.append(_items(validator(schema["items"])))
    if "properties" in schema or "additionalProperties" in schema:
        checks.append(_members(schema))
    return checks


def _typed(name: str, inner: list[Check]) -> Check:
    test, detail = TYPE_TESTS[name], f"must be {ARTICLES.get(name, 'a')} {name}".replace("a null", "null")

    def check(value: Any, pointer: str, faults: list[Fault]) -> None:
        if not test(value):
            faults.append(Fault(pointer, detail))
            return
        found = len(faults)
        for one in inner:
            one(value, pointer, faults)
            if len(faults) > found:
                return  # a value out of bounds may be huge: not looked into

    return check


def _bound(holds: Callable[[Any, Any], bool], sentence: str, bound: Any) -> Check:
    def check(value: Any, pointer: str, faults: list[Fault]) -> None:
        if not holds(value, bound):
            faults.append(Fault(pointer, sentence.format(bound)))

    return check


def _time(value: str, pointer: str, faults: list[Fault]) -> None:
    try:
        times.from_text(value)
    except (ValueError, OverflowError):
        faults.append(Fault(pointer, "must be an RFC 3339 time such as 2026-11-22T08:30:00Z"))


def _one_of(options: list[Any]) -> Check:
    detail = f"must be one of {_listed(options)}"

    def check(value: Any, pointer: str, faults: list[Fault]) -> None:
        if not any(value == option and type(value) is type(option) for option in options):
            faults.append(Fault(pointer, detail))

    return check


def _listed(options: list[Any]) -> str:
    return ", ".join(repr(option).replace("'", '"') for option in options)


def _name(option: Schema) -> str:
    return _listed(option["enum"]) if "enum" in option else str(option.get("type", "another value"))


def _any_of(checks: list[Check], schema: Schema) -> Check:
    names = " or ".join(map(_name, schema["anyOf"]))

    def check(value: Any, pointer: str, faults: list[Fault]) -> None:
        meant: list[Fault] = []
        for one, option in zip(checks, schema["anyOf"], strict=True):
            found: list[Fault] = []
            one(value, pointer, found)
            if not found:
                return
            # The faults of the option that was meant say more than "none of these".
            is_of_type = "type" in option and TYPE_TESTS[option["type"]](value)
            if not meant and (is_of_type or any(fault.pointer != pointer for fault in found)):
                meant = found
        faults.extend(meant or [Fault(pointer, f"must be {names}")])

    return check


def _items(item: Check) -> Check:
    def check(value: list[Any], pointer: str, faults: list[Fault]) -> None:
        for index, element in enumerate(value):
            item(element, f"{pointer}/{index}", faults)
            if len(faults) >= MAX_FAULTS:
                return

    return check


def _members(schema: Schema) -> Check:
    properties = {name: (_below(name), validator(inner)) for name, inner in schema.get("properties", {}).items()}
    required = schema.get("required", ())
    additional = schema.get("additionalProperties", True)
    other = validator(additional) if isinstance(additional, dict) else None

    def check(value: dict[str, Any], pointer: str, faults: list[Fault]) -> None:
        for name in required:
            if name not in value:
                faults.append(Fault(pointer + _below(name), "required"))
        for name, member in value.items():
            if name in properties:
                below, inner = properties[name]
                inner(member, pointer + below, faults)
            elif other is not None:
                other(member, pointer + _below(name), faults)
            elif additional is False:
                faults.append(Fault(pointer + _below(name), "unknown"))

    return check


def _below(name: str) -> str:
    """What leads from an object's pointer to its member (RFC 6901 §3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


Build = Callable[[Any], Any]


def builder(annotation: Any) -> Build:
    """A function from a value that fits the annotation's schema to what the annotation names: a dataclass, or an int
    for 1.0, which is an integer in JSON Schema. `as_it_is` where nothing has to be converted."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is int:
        return _whole
    if origin is Annotated:
        return builder(arguments[0])
    if origin is list and arguments:
        return _of_list(builder(arguments[0]))
    if origin is dict and arguments:
        return _of_dict(builder(arguments[1]))
    if origin in UNIONS:
        return _of_union(arguments)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _of_dataclass(annotation)
    return as_it_is


def as_it_is(value: Any) -> Any:
    return value


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float else value


def _of_list(build: Build) -> Build:
    return as_it_is if build is as_it_is else lambda value: [build(element) for element in value]


def _of_dict(build: Build) -> Build:
    if build is as_it_is:
        return as_it_is
    return lambda value: {name: build(member) for name, member in value.items()}


def _of_union(arguments: tuple[Any, ...]) -> Build:
    options = [(validator(schema_of(one)), builder(one)) for one in arguments]
    if all(build is as_it_is for _, build in options):
        return as_it_is

    def build_first(value: Any) -> Any:
        for check, build in options:
            faults: list[Fault] = []
            check(value, "", faults)
            if not faults:
                return build(value)
        return value

    return build_first


def _of_dataclass(cls: type) -> Build:
    hints = get_type_hints(cls, include_extras=True)
    builders = {field.name: builder(hints[field.name]) for field in dataclasses.fields(cls)}
    needed = {name: build for name, build in builders.items() if build is not as_it_is}

    def build(value: dict[str, Any]) -> Any:
        return cls(**{**value, **{name: make(value[name]) for name, make in needed.items() if name in value}})

    return build
