"""A Python client of the POST-only service.

tasks = Tasks("http://localhost:9003", auth=ClientCredentials("http://localhost:9004", client_id, secret))
task = tasks.submit("text.stats", text="to be or not to be")
print(task.result(timeout=60))
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from requests.auth import AuthBase

from only_post_svc.pull_worker import PullWorker
from shared.client import (
    Bearer,
    ClientCredentials,
    ClientError,
    NotReached,
    Service,
    ServiceError,
    new_key,
    pause_after,
)

__all__ = [
    "Bearer",
    "ClientCredentials",
    "ClientError",
    "NotReached",
    "ServiceError",
    "Task",
    "TaskFailed",
    "TaskUnfinished",
    "Tasks",
]

MAX_WAIT_SECONDS = 25.0  # that the service holds one request
MAX_BATCH = 1000
Items = list[dict[str, Any]]
FINAL = frozenset({"succeeded", "failed", "cancelled"})


class TaskFailed(ClientError):
    """The task has failed or was cancelled; `task.error` says why."""

    def __init__(self, task: "Task") -> None:
        super().__init__(f"task {task.id} ({task.type}) {task.status}: {task.error}")
        self.task = task


class TaskUnfinished(ClientError, TimeoutError):
    """The task had not ended in time. It goes on."""

    def __init__(self, task: "Task") -> None:
        super().__init__(f"task {task.id} ({task.type}) is {task.status}")
        self.task = task


@dataclass(frozen=True)
class Task:
    """A task as it was when the service answered. `value` is what its code returned, once it has succeeded; `answer`
    has every member that the service sent, times as RFC 3339 texts."""

    id: str
    type: str
    status: str
    value: Any
    error: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    attempt: int
    answer: Mapping[str, Any] = field(repr=False)
    tasks: "Tasks" = field(repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def result(self, timeout: float = 60) -> Any:
        """What its code returned, waiting up to `timeout` seconds. Raises TaskFailed and TaskUnfinished."""
        ended = self.tasks.wait(self, timeout)
        if not ended.is_final:
            raise TaskUnfinished(ended)
        if ended.status != "succeeded":
            raise TaskFailed(ended)
        return ended.value


class Tasks:
    """The service at `url`; options are those of shared.client.Service. Every method raises ServiceError and
    NotReached."""

    def __init__(self, url: str, auth: AuthBase | None = None, **options: Any) -> None:
        self._service = Service(url, auth, **options)

    def submit(
        self,
        type: str,
        /,
        payload: Mapping[str, Any] | None = None,
        *,
        wait: float = 0,
        delay: float | None = None,
        run_at: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        key: str | None = None,
        unique: str | None = None,
        replace: bool | None = None,
        notify: str | None = None,
        **arguments: Any,
    ) -> Task:
        """A new task of `type`. Its payload is `payload` and the other arguments; one that is called like an option
        (a `key`, say) has to stand in `payload`. `wait` is how long to wait for its end, in seconds."""
        options = {
            "delay": delay,
            "run_at": run_at,
            "priority": priority,
            "timeout": timeout,
            "max_attempts": max_attempts,
            "key": key,
            "unique": unique,
            "replace": replace,
            "notify": notify,
        }
        given = {name: value for name, value in options.items() if value is not None}
        held = min(wait, MAX_WAIT_SECONDS)
        body = {"type": type, "payload": {**(payload or {}), **arguments}, **given, "wait": held}
        deadline = time.monotonic() + wait
        task = self._task(self._post("/api/task", body, wait=held, headers=new_key()))
        return self.wait(task, deadline - time.monotonic())

    def submit_many(self, tasks: Iterable[Mapping[str, Any]]) -> list[Task]:
        """New tasks, each as the API has it: {"type", "payload", …}. Sent by the thousand; each thousand is stored
        whole or not at all."""
        wanted = list(tasks)
        made: list[Task] = []
        for start in range(0, len(wanted), MAX_BATCH):
            answer = self._post("/api/batch", {"tasks": wanted[start : start + MAX_BATCH]}, headers=new_key())
            made += map(self._task, answer["items"])
        return made

    def get(self, task: Task | str, wait: float = 0) -> Task:
        """The task as it is now; with `wait`, once it has ended, or as it is after so many seconds (25 at most)."""
        held = max(0.0, min(wait, MAX_WAIT_SECONDS))
        return self._task(self._post("/api/result", {"task_id": _id(task), "wait": held}, wait=held))

    def wait(self, task: Task | str, timeout: float) -> Task:
        """The task once it has ended, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        found = task if isinstance(task, Task) else self.get(task)
        while not found.is_final and (left := deadline - time.monotonic()) > 0:
            found = self._get_paced(found, left)
        return found

    def _get_paced(self, task: Task, wait: float) -> Task:
        """`get`, and a pause where the service has not held the request."""
        asked_at = time.monotonic()
        found = self.get(task, wait)
        if not found.is_final:
            time.sleep(pause_after(asked_at, min(wait, MAX_WAIT_SECONDS)))
        return found

    def follow(self, task: Task | str, every: float = 1.0) -> Iterator[Task]:
        """The task, again each time that its status or progress has changed, until it has ended. Asks `every` so many
        seconds."""
        shown: tuple[Any, ...] = ()
        found = self.get(task)
        while True:
            if (found.status, found.progress, found.attempt) != shown:
                shown = (found.status, found.progress, found.attempt)
                yield found
            if found.is_final:
                return
            found = self._get_paced(found, every)

    def cancel(self, task: Task | str) -> Task:
        return self._task(self._post("/api/cancel", {"task_id": _id(task)}))

    def retry(self, task: Task | str) -> Task:
        return self._task(self._post("/api/retry", {"task_id": _id(task)}))

    def cancel_all(self, **filter: str) -> int:
        """Cancels all of the caller's tasks that fit `type`, `status`, `key` and `submitted_before`. How many."""
        return self._all("/api/cancel", filter)

    def retry_all(self, **filter: str) -> int:
        return self._all("/api/retry", filter)

    def _all(self, path: str, filter: Mapping[str, str]) -> int:
        count, has_more = 0, True
        while has_more:
            answer = self._post(path, {"filter": filter})
            count, has_more = count + answer["count"], answer["has_more"]
        return count

    def list(self, **filter: str) -> Iterator[Task]:
        """The caller's tasks that fit `status`, `type` and `key`, newest first, without results. Pages are fetched one
        by one."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._post("/api/tasks", {**filter, "limit": 200, **({"cursor": cursor} if cursor else {})})
            yield from map(self._task, page["items"])
            cursor = page["next_cursor"]

    def types(self) -> Items:
        """What can be submitted: type, description, payload_schema, timeout, max_attempts."""
        items: Items = self._post("/api/types", {})["items"]
        return items

    def pause(self, type: str) -> None:
        self._post("/api/pause", {"type": type})

    def resume(self, type: str) -> None:
        self._post("/api/resume", {"type": type})

    def schedule(self, name: str, type: str, **options: Any) -> dict[str, Any]:
        """Makes or replaces the schedule of that name: `cron` or `every`, `timezone`, `payload` and so on."""
        return self._post("/api/schedule", {"name": name, "type": type, **options})

    def schedules(self) -> Items:
        items: Items = self._post("/api/schedules", {})["items"]
        return items

    def unschedule(self, name: str) -> None:
        self._post("/api/unschedule", {"name": name})

    def health(self) -> dict[str, Any]:
        return self._post("/health", {})

    def work(
        self, functions: Mapping[str, Callable[..., Any]], *, concurrency: int = 4, stop: Event | None = None
    ) -> None:
        """Runs the tasks of these types, declared with `elsewhere=True`, until SIGTERM, SIGINT or `stop`."""
        PullWorker(self._post, functions, concurrency, stop or Event()).run()

    def _post(
        self, path: str, body: Mapping[str, Any], *, wait: float = 0, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return self._service.fetch("POST", path, body, wait=wait, headers=headers)

    def _task(self, answer: Mapping[str, Any]) -> Task:
        members = {name: answer.get(name) for name in ("type", "status", "error", "progress", "attempt")}
        return Task(id=answer["task_id"], value=answer.get("result"), answer=answer, tasks=self, **members)  # type: ignore[arg-type]


def _id(task: Task | str) -> str:
    return task.id if isinstance(task, Task) else task
