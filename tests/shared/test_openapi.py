"""OpenAPI documents from routes and shapes."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from shared import errors, openapi, schemas
from shared.bodies import Shape
from shared.openapi import IDEMPOTENCY_KEY, JSON, Id, Operation, Parameter, ProblemDetails, Reply, left_out
from shared.routing import Path, operations_of
from shared.schemas import Limits


@dataclass(frozen=True)
class Wheel:
    """One of four."""

    inches: float


@dataclass(frozen=True)
class Car:
    id: Id
    wheels: list[Wheel]
    trailer: Wheel | None
    plate: str = left_out()


@dataclass(frozen=True)
class CarRequest:
    doors: int = 4


async def handle(request: Request[Any]) -> Response:
    return Response()


def described(has_tokens: bool = True, **changes: Any) -> Any:
    """The one operation of a document."""
    operation = Operation(**{"name": "one", "summary": "One", "answers": {200: Reply("fine", Car)}, **changes})
    document = openapi.document(
        "cars", "Cars.", operations_of([Path("/cars/{id}", POST=(handle, operation))]), has_tokens=has_tokens
    )
    return document["paths"]["/cars/{id}"]["post"] | {"components": document["components"]}


def codes(operation: Any, status: int, media_type: str = openapi.PROBLEM_JSON) -> set[str]:
    return set(operation["responses"][str(status)]["content"][media_type]["schema"]["properties"]["code"]["enum"])


def test_a_route_that_says_nothing_of_itself_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Path("/cars", POST=handle)  # type: ignore[arg-type]


def test_the_shapes_of_answers_stand_once_under_their_names_and_are_open() -> None:
    written = described()["components"]["schemas"]
    assert written["Wheel"] == {
        "description": "One of four.",
        "type": "object",
        "properties": {"inches": {"type": "number"}},
        "required": ["inches"],
    }
    wheel = {"$ref": "#/components/schemas/Wheel"}
    assert written["Car"] == {
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "wheels": {"type": "array", "items": wheel},
            "trailer": {"anyOf": [wheel, {"type": "null"}]},
            "plate": {"type": "string"},
        },
        "required": ["id", "wheels", "trailer"],
    }


def test_the_shape_of_a_body_is_the_one_that_it_is_checked_with() -> None:
    shape = Shape(CarRequest)
    operation = described(body={JSON: shape})
    assert operation["requestBody"] == {
        "required": True,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/CarRequest"}}},
    }
    assert operation["components"]["schemas"]["CarRequest"] == shape.schema


def test_no_two_shapes_share_a_name() -> None:
    @dataclass(frozen=True)
    class Other:
        doors: int

    Other.__name__ = "Wheel"
    with pytest.raises(ValueError, match="Wheel"):
        described(answers={200: Reply("a car", Car), 202: Reply("another", Other)})


def test_every_operation_answers_what_all_do() -> None:
    operation = described(overload={})
    assert operation["responses"].keys() == {"200", "400", "403", "408", "413", "429", "431", "500", "503"}
    assert codes(operation, 400) == {"duplicate_header", "invalid_host", "invalid_http"}
    assert codes(operation, 503) == {"busy", "shutting_down"}


def test_what_an_operation_takes_brings_its_errors_along() -> None:
    page = Parameter("limit", "query", "how many", Annotated[int, Limits(minimum=1)], {422: "invalid_limit"})
    operation = described(
        body={JSON: Shape(CarRequest)}, parameters=(IDEMPOTENCY_KEY, page), scope="cars", codes={409: "taken sold"}
    )
    assert codes(operation, 400) >= {"invalid_json", "invalid_idempotency_key"}
    assert codes(operation, 401) == {"invalid_token", "unauthorized"}
    assert codes(operation, 403) == {"cross_site", "https_required", "insufficient_scope"}
    assert codes(operation, 409) == {"sold", "taken"}
    assert codes(operation, 415) == {"unsupported_media_type"}
    assert codes(operation, 422) == {"idempotency_key_reused", "invalid_limit", "invalid_request"}
    assert codes(operation, 429) == {"rate_limited"}
    assert codes(operation, 503) == {"busy", "database_unavailable", "shutting_down"}
    assert operation["parameters"][1]["schema"] == {"type": "integer", "minimum": 1}
    assert operation["security"] == [{"bearer": ["cars"]}]


def test_any_token_will_do_where_no_scope_is_named() -> None:
    operation = described(scope="")
    assert operation["security"] == [{"bearer": []}]
    assert "401" in operation["responses"]
    assert codes(operation, 403) == {"cross_site", "https_required"}


def test_where_nobody_is_asked_for_a_token_none_is_spoken_of() -> None:
    operation = described(has_tokens=False, scope="cars")
    assert "security" not in operation
    assert "401" not in operation["responses"]
    assert codes(operation, 403) == {"cross_site", "https_required"}
    assert "securitySchemes" not in operation["components"]


def test_errors_of_a_shape_of_their_own_stand_beside_those_of_the_server() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OddProblem(ProblemDetails):
        error: str

    operation = described(problem=OddProblem)
    assert codes(operation, 400, JSON) == {"duplicate_header", "invalid_host"}
    assert codes(operation, 400) == {"invalid_http"}


def test_an_answer_of_any_status_can_stand_beside_errors() -> None:
    operation = described(overload={}, answers={503: Reply("not well", Wheel, ("Retry-After",))})
    response = operation["responses"]["503"]
    assert response["description"] == "not well"
    assert response["content"].keys() == {JSON, openapi.PROBLEM_JSON}
    assert response["headers"].keys() == {"X-Request-ID", "Retry-After"}


def test_a_problem_is_described_as_errors_are_written() -> None:
    written = errors.members(errors.Invalid([schemas.Fault("/a", "required")]), "id")
    assert written.keys() == ProblemDetails.__dataclass_fields__.keys()
