"""The task types of a service: what may be submitted, and the tasks and schedules that requests ask for."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from only_post_svc.models.schedules import ScheduleRequest
from only_post_svc.models.tasks import TaskRequest, moment
from only_post_svc.queue import NewTask
from only_post_svc.recurrence import Recurrence
from only_post_svc.registry import TaskType
from only_post_svc.schedules import MAX_PAYLOAD_BYTES, NewSchedule
from only_post_svc.webhooks import ANYWHERE, Receivers
from shared.errors import Invalid
from shared.schemas import Check, Fault, validator
from shared.strict_json import encode


class Types:
    """The task types of this service, each with the check of its payload made ready."""

    def __init__(self, types: dict[str, TaskType], receivers: Receivers = ANYWHERE) -> None:
        self._receivers = receivers
        self._types = types
        self._checks: dict[str, Check] = {name: validator(type.payload_schema) for name, type in types.items()}

    def new_task(self, request: TaskRequest) -> NewTask:
        """The task that a request asks for. Raises Invalid."""
        task_type = self._types.get(request.type)
        if task_type is None:
            raise Invalid([Fault("/type", "unknown task type; POST /api/types lists them")])
        faults: list[Fault] = []
        self._checks[request.type](request.payload, "/payload", faults)
        timeout = task_type.timeout if request.timeout is None else request.timeout
        if timeout > task_type.timeout:
            faults.append(Fault("/timeout", f"must be at most {task_type.timeout:g}"))
        if request.replace and request.unique is None:
            faults.append(Fault("/replace", "only beside unique"))
        run_at = _run_at(request, faults)
        if request.notify is not None and (wrong := self._receivers.fault(request.notify)):
            faults.append(Fault("/notify", wrong))
        if faults:
            raise Invalid(faults)
        return NewTask(
            type=request.type,
            payload=encode(request.payload),
            timeout_ms=max(1, int(timeout * 1000)),
            max_attempts=request.max_attempts or task_type.max_attempts,
            priority=request.priority,
            delay_ms=int(request.delay * 1000),
            run_at=run_at,
            is_alone=not task_type.is_async,
            notify=request.notify,
            key=request.key,
            unique=request.unique,
            replace=request.replace,
            lane=request.type if task_type.elsewhere else "",
        )

    def payload_faults(self, entry: Mapping[str, Any], has_scope: Callable[[str], bool]) -> list[Fault]:
        """Those of a request's payload, for one that has other faults too. None for a type that the caller may not
        see."""
        type, payload = entry.get("type"), entry.get("payload", {})
        faults: list[Fault] = []
        if isinstance(type, str) and isinstance(payload, dict) and type in self._types and has_scope(self.scope(type)):
            self._checks[type](payload, "/payload", faults)
        return faults

    def check_elsewhere(self, types: list[str]) -> None:
        """Raises Invalid unless the code of all of them runs elsewhere."""
        faults = [
            Fault(f"/types/{number}", "not a type whose code runs elsewhere")
            for number, name in enumerate(types)
            if name not in self._types or not self._types[name].elsewhere
        ]
        if faults:
            raise Invalid(faults)

    def scope(self, type: str) -> str:
        """The scope that a caller needs for a type; '' for a type that is unknown."""
        return self._types[type].scope if type in self._types else ""

    def scopes(self, has_scope: Callable[[str], bool]) -> frozenset[str]:
        """The scopes of types that the caller has; '' is always among them."""
        return frozenset(filter(has_scope, {type.scope for type in self._types.values()}))

    def new_schedule(self, request: ScheduleRequest, now: int, *, is_person: bool = False) -> NewSchedule:
        """The schedule that a request asks for at `now`. Raises Invalid."""
        recurrence = Recurrence.of(request.cron, request.every, request.timezone)
        faults = recurrence.faults(now)
        try:
            new = self.new_task(request.of_task())
        except Invalid as invalid:
            raise Invalid(invalid.errors + faults) from None
        if len(new.payload.encode()) > MAX_PAYLOAD_BYTES:
            faults.append(Fault("/payload", f"must be at most {MAX_PAYLOAD_BYTES} bytes of JSON in a schedule"))
        if faults:
            raise Invalid(faults)
        return NewSchedule(request.name, recurrence, new._replace(is_person=is_person), overlap=request.overlap)

    def __contains__(self, type: str) -> bool:
        return type in self._types

    def listing(
        self, paused: Collection[str] = (), may_see: Callable[[str], bool] = lambda scope: True
    ) -> list[dict[str, Any]]:
        """The types whose scope the caller has, as JSON."""
        return [
            {
                "type": type.type,
                "description": type.description,
                "payload_schema": type.payload_schema,
                "timeout": type.timeout,
                "max_attempts": type.max_attempts,
                **({"paused": True} if type.type in paused else {}),
            }
            for type in self._types.values()
            if may_see(type.scope)
        ]


def _run_at(request: TaskRequest, faults: list[Fault]) -> int | None:
    if request.run_at is None:
        return None
    if request.delay:
        faults.append(Fault("/run_at", "not together with delay"))
    try:
        return moment(request.run_at, "/run_at")
    except Invalid as invalid:
        faults += invalid.errors
        return None
