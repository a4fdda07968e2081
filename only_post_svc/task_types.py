"""The task types of a service: what may be submitted, and the tasks and schedules that requests ask for."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from only_post_svc import recurrence
from only_post_svc.models.schedules import ScheduleRequest
from only_post_svc.models.tasks import TaskRequest
from only_post_svc.queue import NewTask
from only_post_svc.recurrence import Recurrence
from only_post_svc.registry import TaskType
from only_post_svc.schedules import MAX_PAYLOAD_BYTES, NewSchedule
from only_post_svc.webhooks import ANYWHERE, Receivers
from shared import times
from shared.bodies import text_faults
from shared.schemas import Check, Fault, validator
from shared.strict_json import encode

UNKNOWN = "unknown task type; POST /api/types lists them"


class Types:
    """The task types of this service, each with the check of its payload made ready."""

    def __init__(self, types: dict[str, TaskType], receivers: Receivers = ANYWHERE) -> None:
        self._receivers = receivers
        self._types = types
        self._checks: dict[str, Check] = {name: validator(type.payload_schema) for name, type in types.items()}

    def faults(self, sent: Mapping[str, Any], has_scope: Callable[[str], bool] = lambda scope: True) -> list[Fault]:
        """What is wrong with a task that a request asks for, beside its shape. Nothing of its payload and timeout where
        the caller may not see the type."""
        faults = self.type_faults(sent)
        type, payload = sent.get("type"), sent.get("payload", {})
        timeout, notify = sent.get("timeout"), sent.get("notify")
        task_type = self._types.get(type) if isinstance(type, str) else None
        if task_type and has_scope(task_type.scope):
            if isinstance(payload, dict):
                self._checks[task_type.type](payload, "/payload", faults)
            if isinstance(timeout, (int, float)) and timeout > task_type.timeout:
                faults.append(Fault("/timeout", f"must be at most {task_type.timeout:g}"))
        if sent.get("replace") and sent.get("unique") is None:
            faults.append(Fault("/replace", "only beside unique"))
        if sent.get("delay") and sent.get("run_at") is not None:
            faults.append(Fault("/run_at", "not together with delay"))
        if isinstance(notify, str) and (wrong := self._receivers.fault(notify)):
            faults.append(Fault("/notify", wrong))
        return faults

    def type_faults(self, sent: Mapping[str, Any]) -> list[Fault]:
        return text_faults(sent, {"type": lambda type: "" if type in self._types else UNKNOWN})

    def new_task(self, request: TaskRequest) -> NewTask:
        """The task that a request asks for, which has no faults."""
        task_type = self._types[request.type]
        timeout = task_type.timeout if request.timeout is None else request.timeout
        return NewTask(
            type=request.type,
            payload=encode(request.payload),
            timeout_ms=max(1, int(timeout * 1000)),
            max_attempts=request.max_attempts or task_type.max_attempts,
            priority=request.priority,
            delay_ms=int(request.delay * 1000),
            run_at=None if request.run_at is None else times.from_text(request.run_at),
            is_alone=not task_type.is_async,
            notify=request.notify,
            key=request.key,
            unique=request.unique,
            replace=request.replace,
            lane=request.type if task_type.elsewhere else "",
        )

    def elsewhere_faults(self, sent: Mapping[str, Any]) -> list[Fault]:
        """What is wrong with the `types` of a claim: the code of all of them has to run elsewhere."""
        types = sent.get("types")
        return [
            Fault(f"/types/{number}", "not a type whose code runs elsewhere")
            for number, name in enumerate(types if isinstance(types, list) else ())
            if isinstance(name, str) and (name not in self._types or not self._types[name].elsewhere)
        ]

    def scope(self, type: str) -> str:
        """The scope that a caller needs for a type; '' for a type that is unknown."""
        return self._types[type].scope if type in self._types else ""

    def scopes(self, has_scope: Callable[[str], bool]) -> frozenset[str]:
        """The scopes of types that the caller has; '' is always among them."""
        return frozenset(filter(has_scope, {type.scope for type in self._types.values()}))

    def schedule_faults(
        self, sent: Mapping[str, Any], has_scope: Callable[[str], bool] = lambda scope: True
    ) -> list[Fault]:
        """What is wrong with a schedule that a request asks for, beside its shape."""
        faults = self.faults(sent, has_scope) + recurrence.faults(*map(sent.get, ("cron", "every", "timezone")))
        if len(encode(sent.get("payload")).encode()) > MAX_PAYLOAD_BYTES:
            faults.append(Fault("/payload", f"must be at most {MAX_PAYLOAD_BYTES} bytes of JSON in a schedule"))
        return faults

    def new_schedule(self, request: ScheduleRequest, *, is_person: bool = False) -> NewSchedule:
        """The schedule that a request asks for, which has no faults."""
        when = Recurrence.of(request.cron, request.every, request.timezone)
        new = self.new_task(request.of_task())._replace(is_person=is_person)
        return NewSchedule(request.name, when, new, overlap=request.overlap)

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
