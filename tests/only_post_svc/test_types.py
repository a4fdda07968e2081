"""POST /api/types."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.only_post_svc.answers import faults, problem
from tests.processes import Service

KINDS = {"array", "boolean", "integer", "null", "number", "object", "string"}


def types_of(service: Service) -> dict[str, Any]:
    answer = service.post("/api/types", {})
    assert answer.status_code == 200
    assert answer.json().keys() == {"items"}
    return {item["type"]: item for item in answer.json()["items"]}


def check_schema(schema: Any) -> None:
    """The meta-schema of JSON Schema 2020-12, as far as the keywords that are used here go."""
    assert isinstance(schema, dict)
    for keyword, value in schema.items():
        if keyword == "type":
            assert value in KINDS
        elif keyword == "properties":
            for inner in value.values():
                check_schema(inner)
        elif keyword == "additionalProperties":
            if not isinstance(value, bool):
                check_schema(value)
        elif keyword == "items":
            check_schema(value)
        elif keyword == "anyOf":
            assert value
            for inner in value:
                check_schema(inner)
        elif keyword == "enum":
            assert isinstance(value, list)
        elif keyword == "required":
            assert len(set(value)) == len(value) > 0
        elif keyword in ("minLength", "maxLength", "minItems", "maxItems"):
            assert isinstance(value, int) and value >= 0
        elif keyword in ("minimum", "maximum", "exclusiveMinimum"):
            assert type(value) in (int, float)
        else:
            assert keyword == "default", keyword


def test_every_type_says_the_same_five_things(service: Service) -> None:
    for item in types_of(service).values():
        assert item.keys() == {"type", "description", "payload_schema", "timeout", "max_attempts"}


def test_every_payload_schema_is_json_schema(service: Service) -> None:
    for item in types_of(service).values():
        assert item["payload_schema"]["type"] == "object"
        check_schema(item["payload_schema"])


def test_the_shipped_types_are_there(service: Service) -> None:
    assert types_of(service).keys() >= {"echo", "sleep", "text.stats", "csv.summary", "shapes"}


def test_a_type_shows_its_docstring_and_limits(service: Service) -> None:
    item = types_of(service)["shapes"]
    assert (item["description"], item["timeout"], item["max_attempts"]) == ("Every kind of parameter.", 10, 3)


def test_every_kind_of_parameter_has_its_schema(service: Service) -> None:
    point = {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 0.0}},
        "additionalProperties": False,
        "required": ["x"],
    }
    assert types_of(service)["shapes"]["payload_schema"] == {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "ratio": {"type": "number", "default": 1.0},
            "mode": {"enum": ["fast", "slow"], "default": "fast"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "weights": {"type": "object", "additionalProperties": {"type": "integer"}},
            "points": {"type": "array", "items": point},
        },
        "additionalProperties": False,
        "required": ["count"],
    }


def test_a_task_gets_what_its_parameters_ask_for(service: Service) -> None:
    payload = {"count": 2.0, "name": "n", "points": [{"x": 1}, {"x": 2, "y": 3}], "weights": {"a": 1}, "tags": ["t"]}
    task = service.run("shapes", payload)
    result = task["result"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", result.pop("deadline"))
    assert result == {
        "count": 2,
        "count_type": "int",
        "name": "n",
        "points": ["Point", "Point"],
        "attempt": 1,
        "task_id": task["task_id"],
    }


def test_a_default_that_json_has_no_word_for_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import math\nfrom only_post_svc import task\n"
        "@task('odd')\ndef odd(most: float = math.inf, least: float = -math.inf) -> bool:\n    return most > least\n"
    )
    service = Service(tmp_path, {"TASK_MODULES": "odd", "WORKER_PROCESSES": "1"})
    try:
        assert types_of(service)["odd"]["payload_schema"]["properties"] == {
            "most": {"type": "number"},
            "least": {"type": "number"},
        }
        assert service.run("odd")["result"] is True
    finally:
        service.kill()


def test_an_option_is_refused(service: Service) -> None:
    assert faults(service.post("/api/types", {"type": "echo"})).keys() == {"/type"}


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_body_is_optional(service: Service, body: bytes) -> None:
    assert service.request("POST", "/api/types", data=body).json() == service.post("/api/types").json()


@pytest.mark.parametrize(("body", "status", "code"), [(b"{", 400, "invalid_json"), (b"[]", 422, "invalid_request")])
def test_a_body_that_is_no_object_is_refused(service: Service, body: bytes, status: int, code: str) -> None:
    problem(service.request("POST", "/api/types", data=body), status, code)
