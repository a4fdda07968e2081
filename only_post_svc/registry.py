"""Tasks: functions marked with @task, and the payload's schema that their signatures make.

User code is loaded in child processes only, so the functions live there; the processes that
answer HTTP get TaskTypes, which are plain data.
"""

import dataclasses
import importlib
import inspect
import json
import re
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from only_post_svc import recurrence
from only_post_svc.recurrence import MAX_EVERY_SECONDS, MIN_EVERY_SECONDS, Recurrence
from shared.schemas import NOTHING, Build, Schema, as_it_is, builder, default_schema, object_schema, schema_of
from shared.strict_json import encode

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = "context"
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]*")  # RFC 6749 §3.3
BUILTIN = "only_post_svc.builtin"
MAX_TIMEOUT_SECONDS = 24 * 3600
MAX_ATTEMPTS = 25


class Retry(Exception):
    """Raised by a handler: try again `after` seconds from now (the usual backoff when left out)."""

    after: float | None = None

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else float(after)


class Fail(Exception):
    """Raised by a handler: end the task as failed, without another try."""


@dataclass
class Context:
    """What a handler is told about its run.

    `deadline` is when it is stopped, in UTC; `caller` who submitted the task ('' without a token), `key` what it is
    about, `traceparent` the W3C header that it came with; `saved` is what the last checkpoint said, None before the
    first.
    """

    task_id: str
    attempt: int
    deadline: datetime
    report: Callable[[float, str], None] = dataclasses.field(default=lambda fraction, message: None, repr=False)
    keep: Callable[[str], None] = dataclasses.field(default=lambda text: None, repr=False)
    caller: str = ""
    key: str | None = None
    traceparent: str | None = None
    saved: Any = None

    @classmethod
    def for_tests(cls, **fields: Any) -> "Context":
        """One for the test of a task: a first attempt with a minute left, unless `fields` says otherwise."""
        minute = datetime.now(UTC) + timedelta(minutes=1)
        return cls(**{"task_id": str(uuid.uuid4()), "attempt": 1, "deadline": minute, **fields})

    def progress(self, fraction: float, message: str = "") -> None:
        """Shows how far the run is, 0.0 to 1.0, in the answers of /api/result."""
        if not 0 <= fraction <= 1:
            raise ValueError("fraction must be from 0 to 1")
        self.report(float(fraction), str(message))

    def checkpoint(self, value: Any) -> None:
        """Stores a JSON value that the next attempt finds in `saved`. Raises TypeError or ValueError for a value that
        is not JSON, or is larger than a result may be."""
        text = encode(value)
        self.keep(text)
        self.saved = json.loads(text)


@dataclass(frozen=True)
class TaskType:
    """What a client can know of a task. Times in seconds."""

    type: str
    description: str
    payload_schema: Schema
    timeout: float
    max_attempts: int
    is_async: bool
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    elsewhere: bool = False
    scope: str = ""  # that a caller needs, beside the service's own
    max_running: int | None = None  # over all workers
    max_running_per_key: int | None = None

    @property
    def recurrence(self) -> Recurrence | None:
        """When it runs by itself, None where it does not."""
        is_scheduled = self.cron is not None or self.every is not None
        return Recurrence.of(self.cron, self.every, self.timezone) if is_scheduled else None


@dataclass(frozen=True)
class Handler:
    """A function and how to call it."""

    function: Callable[..., Any]
    task_type: TaskType
    builders: Mapping[str, Build]  # by parameter
    takes_context: bool
    others: Build = as_it_is  # for what its `**` takes

    def call(self, payload: Mapping[str, Any], context: Context) -> Any:
        """The function's result, or its coroutine. `payload` was checked against the schema."""
        arguments = {name: self.builders.get(name, self.others)(value) for name, value in payload.items()}
        if self.takes_context:
            arguments[CONTEXT] = context
        return self.function(**arguments)


class DefinitionError(Exception):
    """A task that can't be offered: its name is taken, or its signature has no JSON shape."""


handlers: dict[str, Handler] = {}


def task(
    name: str,
    *,
    timeout: float = 30,
    max_attempts: int = 3,
    cron: str | None = None,
    every: float | None = None,
    timezone: str = "UTC",
    elsewhere: bool = False,
    scope: str = "",
    max_running: int | None = None,
    max_running_per_key: int | None = None,
) -> Callable[[F], F]:
    """Offers a `def` or `async def` function as the task `name`.

    `timeout` is both its default and its limit, in seconds. With `cron`, five fields in the local time of `timezone`,
    or `every` so many seconds, it runs by itself for as long as the code says so. `elsewhere`: its code runs in
    workers that claim it over HTTP; what is here is the signature alone. `scope` is what a token needs beside `tasks`.
    Over all workers, at most `max_running` run at once, and `max_running_per_key` of those with the same key. Raises
    DefinitionError.
    """

    if callable(name):
        raise DefinitionError(f'@task above {_name_of(name)} needs a name: @task("…")')

    def register(function: F) -> F:
        if name in handlers:
            raise DefinitionError(f"task {name!r} is defined twice")
        type = TaskType(
            type=name,
            description=inspect.getdoc(function) or "",
            payload_schema={},
            timeout=timeout,
            max_attempts=max_attempts,
            # What runs elsewhere needs no child of this service to itself.
            is_async=inspect.iscoroutinefunction(function) or elsewhere,
            cron=cron,
            every=every,
            timezone=timezone,
            elsewhere=elsewhere,
            scope=scope,
            max_running=max_running,
            max_running_per_key=max_running_per_key,
        )
        _check_bounds(type)
        handler = _handler(function, type)
        _check_schedule(handler.task_type)
        handlers[name] = handler
        return function

    return register


def _check_bounds(type: TaskType) -> None:
    name, bounds = type.type, (type.max_running, type.max_running_per_key)
    if not name or not 0 < type.timeout <= MAX_TIMEOUT_SECONDS or not 1 <= type.max_attempts <= MAX_ATTEMPTS:
        raise DefinitionError(
            f"task {name!r}: needs a name, a timeout up to {MAX_TIMEOUT_SECONDS} s and 1 to {MAX_ATTEMPTS} attempts"
        )
    if any(bound is not None and bound < 1 for bound in bounds):
        raise DefinitionError(
            f"task {name!r}: max_running and max_running_per_key must be 1 or more; to run none, pause the type "
            "(POST /api/pause)"
        )
    if not SCOPE.fullmatch(type.scope):
        raise DefinitionError(f"task {name!r}: a scope is one word of visible ASCII")


def _check_schedule(type: TaskType) -> None:
    if type.every is not None and not MIN_EVERY_SECONDS <= type.every <= MAX_EVERY_SECONDS:
        raise DefinitionError(f"task {type.type!r}: every must be from {MIN_EVERY_SECONDS} to {MAX_EVERY_SECONDS} s")
    if type.recurrence is None:
        return
    for fault in recurrence.faults(type.cron, type.every, type.timezone):
        raise DefinitionError(f"task {type.type!r}: {fault.pointer.removeprefix('/')}: {fault.detail}")
    if type.payload_schema.get("required"):
        raise DefinitionError(f"task {type.type!r}: a schedule sends no payload, so every parameter needs a default")


def _handler(function: Callable[..., Any], type: TaskType) -> Handler:
    """The function with its type, whose payload's schema its signature makes."""
    try:
        _check_kind(function)
        parameters = inspect.signature(function).parameters
        annotations = _hints(function, parameters)
        schema = _payload_schema(parameters.values(), annotations)
    except (TypeError, NameError, ValueError) as error:
        raise DefinitionError(f"task {type.type!r}: {error}") from None
    builders = {name: builder(hint) for name, hint in annotations.items() if name in schema["properties"]}
    collector = next((name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD), "")
    others = builder(annotations.get(collector, Any))
    return Handler(function, dataclasses.replace(type, payload_schema=schema), builders, CONTEXT in parameters, others)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _check_kind(function: Callable[..., Any]) -> None:
    """Raises TypeError for a function whose result could not be stored."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{_name_of(function)} is a generator; return a list")
    wrapped = inspect.unwrap(function)
    is_hidden = inspect.iscoroutinefunction(wrapped) and not inspect.iscoroutinefunction(function)
    if inspect.isfunction(function) and is_hidden:
        raise TypeError(
            f"{_name_of(function)} is an async def inside of a def, by a decorator; make that one async too"
        )


def _hints(function: Callable[..., Any], parameters: Iterable[str]) -> dict[str, Any]:
    """The annotations of the payload's parameters. Others are not evaluated: they may have names of TYPE_CHECKING."""
    wrapped = inspect.unwrap(function)
    annotations = getattr(wrapped, "__annotations__", {})
    of_payload = {name: hint for name, hint in annotations.items() if name in parameters and name != CONTEXT}
    holder = SimpleNamespace(__annotations__=of_payload)
    return get_type_hints(holder, getattr(wrapped, "__globals__", {}), include_extras=True)


def _payload_schema(parameters: Collection[inspect.Parameter], annotations: Mapping[str, Any]) -> Schema:
    properties, required = {}, []
    additional: bool | Schema = False
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(f"{parameter}: a payload has names only")
        schema = schema_of(annotations.get(parameter.name, Any)) if parameter.name != CONTEXT else {}
        if parameter.kind is parameter.VAR_KEYWORD:
            additional = schema or True
        elif parameter.name != CONTEXT:
            properties[parameter.name] = schema | default_schema(parameter.default)
            if parameter.default is parameter.empty:
                required.append(parameter.name)
    if additional and CONTEXT in (parameter.name for parameter in parameters):
        properties[CONTEXT] = NOTHING  # it is the parameter's, and no member for `**`
    return object_schema(properties, required, additional)


def load(modules: Iterable[str]) -> None:
    """Imports the modules. Raises DefinitionError, which names the module."""
    for module in modules:
        before, is_new = len(handlers), module not in sys.modules
        try:
            importlib.import_module(module)
        except DefinitionError:
            raise
        except BaseException as error:
            raise DefinitionError(f"{module} can't be imported ({type(error).__name__}: {error})") from error
        if is_new and len(handlers) == before:
            raise DefinitionError(f'{module} has no task: nothing in it is marked with @task("…")')
