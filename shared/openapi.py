"""OpenAPI 3.1, made of the operations that stand beside the handlers: request bodies are described by the shapes that
they are checked with.

What many routes answer alike (all of them, those with a body, a token, a database) is said here once.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from shared import VERSION, errors
from shared.bodies import Shape
from shared.schemas import Fault, Format, Limits, Schema, schema_of, schema_of_dataclass

Codes = Mapping[int, str]  # by status, with spaces between them

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

Id = Annotated[str, Format("uuid")]
Time = Annotated[str, Format("date-time")]

SERVER: Codes = {
    400: "invalid_http",
    408: "request_timeout",
    431: "headers_too_large",
    503: "busy",
}  # of shared/http/protocol.py
EVERY: Codes = {
    400: "duplicate_header invalid_host",
    403: "cross_site https_required",
    413: "body_too_large",
    429: "rate_limited",
    500: "internal_error",
    503: "shutting_down",
}
WITH_BODY: Codes = {
    400: "client_disconnected invalid_json",
    408: "request_timeout",
    415: "unsupported_media_type",
    422: "invalid_request",
}
WITH_TOKEN: Codes = {401: "invalid_token unauthorized"}
WITH_SCOPE: Codes = {403: "insufficient_scope"}
OVERLOAD: Codes = {429: "rate_limited", 503: "busy database_unavailable"}

ERROR_HEADERS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
HEADERS: dict[str, Schema] = {
    "X-Request-ID": {
        "description": "the caller's own, when it is 8 to 200 characters of `[A-Za-z0-9._+/=-]`; else a new one",
        "required": True,
        "schema": {"type": "string"},
    },
    "Location": {"description": "where it is", "required": True, "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}},
    "Idempotency-Replayed": {"description": "this answer was given before", "schema": {"enum": ["true"]}},
    "WWW-Authenticate": {"description": "RFC 6750 §3", "schema": {"type": "string"}},
}
BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "RFC 6750"}


def left_out() -> Any:
    """A member that some answers lack."""
    return field(default_factory=lambda: None)


@dataclass(frozen=True, kw_only=True)
class ProblemDetails:
    """Any error (RFC 9457). `code` is stable, and made for machines."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[Fault] = left_out()


@dataclass(frozen=True)
class DatabaseHealth:
    status: Literal["ok", "unavailable"]
    milliseconds: float = left_out()
    detail: str = left_out()


@dataclass(frozen=True)
class Reply:
    """An answer that is no error. `shape` is the annotation of its body, None where there is none."""

    meaning: str
    shape: Any = None
    headers: tuple[str, ...] = ()
    media_type: str = JSON


@dataclass(frozen=True)
class Parameter:
    """`place` is path, query or header; `codes` are the errors that come with it."""

    name: str
    place: str
    meaning: str
    shape: Any = str
    codes: Codes = field(default_factory=dict)


IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "the same key with the same body gets the first answer again, for 24 hours",
    Annotated[str, Limits(minLength=1)],
    {400: "invalid_idempotency_key", 422: "idempotency_key_reused"},
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What one method of a path takes and answers, beside what all do.

    `scope` is what the bearer token needs: '' for any, None where no token is asked for. `body` has a shape,
    or a schema, for each media type. `overload` has the codes of a service that has too much to do.
    """

    name: str
    summary: str
    answers: Mapping[int, Reply]
    codes: Codes = field(default_factory=dict)
    body: Mapping[str, Shape[Any] | Schema] = field(default_factory=dict)
    is_body_optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    scope: str | None = None
    overload: Codes = field(default_factory=lambda: OVERLOAD)
    problem: type[ProblemDetails] = ProblemDetails

    def codes_of(self, *, asks_for_token: bool) -> Iterator[Codes]:
        yield from (EVERY, self.overload, self.codes)
        yield from (parameter.codes for parameter in self.parameters)
        if self.body:
            yield WITH_BODY
        if asks_for_token:
            yield WITH_TOKEN
            yield WITH_SCOPE if self.scope else {}


Operations = Mapping[str, Mapping[str, Operation]]  # by path and method


def document(
    title: str,
    description: str,
    paths: Operations,
    *,
    has_tokens: bool = True,
    headers: Mapping[str, Schema] | None = None,
) -> Schema:
    """The document of `paths`. Without `has_tokens` no route asks for one; `headers` are this service's alone."""
    components = Components()
    described = {
        path: {method.lower(): _operation(operation, components, has_tokens) for method, operation in methods.items()}
        for path, methods in paths.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": description},
        "paths": described,
        "components": {
            "schemas": dict(sorted(components.schemas.items())),
            "headers": HEADERS | dict(headers or {}),
            **({"securitySchemes": {"bearer": BEARER}} if has_tokens else {}),
        },
    }


class Components:
    """The schemas that have a name, each written once."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._answers: set[type] = set()  # that are among them

    def of(self, annotation: Any) -> Schema:
        return schema_of(annotation, self._of_answer)

    def of_body(self, body: Shape[Any] | Schema) -> Schema:
        return self._named(body.cls, body.schema) if isinstance(body, Shape) else body

    def _of_answer(self, cls: type) -> Schema:
        if cls in self._answers:
            return reference(cls)
        self._answers.add(cls)
        schema = schema_of_dataclass(cls, self._of_answer)
        schema.pop("additionalProperties")  # clients have to accept members of later versions
        return self._named(cls, schema)

    def _named(self, cls: type, schema: Schema) -> Schema:
        described = about(cls) | schema
        if self.schemas.setdefault(cls.__name__, described) != described:
            raise ValueError(f"two shapes are called {cls.__name__}")
        return reference(cls)


def about(cls: type) -> Schema:
    """Its docstring, unless it is the one that dataclass makes."""
    documented = inspect.getdoc(cls) or ""
    return {} if documented.startswith(f"{cls.__name__}(") else {"description": " ".join(documented.split())}


def reference(cls: type) -> Schema:
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


def _operation(operation: Operation, components: Components, has_tokens: bool) -> Schema:
    asks_for_token = operation.scope is not None and has_tokens
    described: Schema = {"operationId": operation.name, "summary": operation.summary}
    if asks_for_token:
        described["security"] = [{"bearer": (operation.scope or "").split()}]
    if operation.parameters:
        described["parameters"] = [_parameter(one, components) for one in operation.parameters]
    if operation.body:
        described["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": {name: {"schema": components.of_body(body)} for name, body in operation.body.items()},
        }
    responses = {status: _reply(reply, components) for status, reply in operation.answers.items()}
    ours = operation.codes_of(asks_for_token=asks_for_token)
    for (status, problem), codes in _kinds(operation.problem, ours).items():
        _add_error(responses.setdefault(status, _empty(errors.title(status))), status, problem, codes, components)
    return described | {"responses": {str(status): responses[status] for status in sorted(responses)}}


def _parameter(parameter: Parameter, components: Components) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.meaning,
        "required": parameter.place == "path",
        "schema": components.of(parameter.shape),
    }


def _reply(reply: Reply, components: Components) -> Schema:
    content = {reply.media_type: {"schema": components.of(reply.shape)}} if reply.shape is not None else {}
    return _empty(reply.meaning, reply.headers) | {"content": content}


def _empty(meaning: str, headers: Iterable[str] = ()) -> Schema:
    return {"description": meaning, "headers": _headers(headers), "content": {}}


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def _kinds(problem: type[ProblemDetails], ours: Iterable[Codes]) -> dict[tuple[int, type[ProblemDetails]], set[str]]:
    """The codes of each status and shape. The server's own errors have one shape everywhere."""
    found: dict[tuple[int, type[ProblemDetails]], set[str]] = {}
    pairs: list[tuple[type[ProblemDetails], Codes]] = [*((problem, one) for one in ours), (ProblemDetails, SERVER)]
    for shape, codes in pairs:
        for status, names in codes.items():
            found.setdefault((status, shape), set()).update(names.split())
    return found


def _add_error(
    response: Schema, status: int, problem: type[ProblemDetails], codes: set[str], components: Components
) -> None:
    narrowed = {"status": {"const": status}, "code": {"enum": sorted(codes)}}
    schema = components.of(problem) | {"properties": narrowed}
    response["content"][PROBLEM_JSON if problem is ProblemDetails else JSON] = {"schema": schema}
    response["headers"] |= _headers(ERROR_HEADERS.get(status, ()))
