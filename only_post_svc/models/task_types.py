"""Task types on the wire."""

from dataclasses import dataclass
from typing import Any

from shared.bodies import Shape
from shared.openapi import left_out


@dataclass(frozen=True)
class EmptyRequest:
    pass


@dataclass(frozen=True)
class TypeRequest:
    type: str


EMPTY_REQUEST = Shape(EmptyRequest)
TYPE_REQUEST = Shape(TypeRequest)


@dataclass(frozen=True)
class ListedType:
    """What can be submitted. `payload_schema` is JSON Schema 2020-12; `timeout` in seconds. `paused` is there while the
    type is paused."""

    type: str
    description: str
    payload_schema: dict[str, Any]
    timeout: float
    max_attempts: int
    paused: bool = left_out()


@dataclass(frozen=True)
class TaskTypes:
    items: list[ListedType]


@dataclass(frozen=True)
class PausedType:
    type: str
    paused: bool
