"""`def` and `async def` tasks that take turns in one child, as fast as they can."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from only_post_svc.registry import BUILTIN
from only_post_svc.worker.frames import Unpacker, pack
from only_post_svc.worker.runner import Options, command
from shared import ids
from tests.processes import ROOT, Service, eventually

ROUNDS = 600


def test_one_child_runs_both_kinds_of_task_in_turn(start_service: Callable[..., Service]) -> None:
    """A run may reach the child while its event loop is still ending, with the last task's end sent already."""
    service = start_service(WORKER_PROCESSES="1", TASK_CONCURRENCY="1")
    entries = [
        {"type": type, "payload": payload, "max_attempts": 1, "timeout": 5, "priority": priority % 100}
        for priority in range(ROUNDS // 3)
        for type, payload in (("echo", {}), ("echo", {"a": 1}), ("text.stats", {"text": "a"}))
    ]
    accepted = service.post("/api/batch", {"tasks": entries}).json()["items"]
    service.ended(accepted[0]["task_id"])  # of the lowest priority
    assert Counter((task["status"], str(task["error"])) for task in listed(service)) == {("succeeded", "None"): ROUNDS}


def are_none(service: Service, status: str) -> bool:
    return bool(service.post("/api/tasks", {"status": status}).json()["items"] == [])


def listed(service: Service) -> Iterator[Any]:
    """All tasks, once none waits or runs."""
    for status in ("queued", "running"):
        eventually(partial(are_none, service, status), 60, every=0.2)
    page = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = service.post("/api/tasks", {"limit": 200, **cursor}).json()
        yield from page["items"]


def test_a_def_run_that_comes_while_the_event_loop_ends_is_run_after_it() -> None:
    ours, theirs = socket.socketpair()
    options = Options(
        os.getpid(), sys.path, [BUILTIN], memory_bytes=2**30, socket=theirs.fileno(), max_result_bytes=1024
    )
    with ours, theirs, subprocess.Popen(command(options), cwd=ROOT, pass_fds=[theirs.fileno()]) as child:
        run = {"attempt": 1, "deadline": time.time() + 10, "task_id": ids.new()} | dict.fromkeys(
            ("caller", "key", "traceparent", "saved")
        )
        first = pack(run | {"run": "first", "type": "echo"}, b"{}")
        second = pack(run | {"run": "second", "type": "text.stats"}, b'{"text": "a"}')
        third = pack(run | {"run": "third", "type": "echo"}, b"{}")
        ours.sendall(first + second + third)
        ours.settimeout(10)
        unpacker = Unpacker(2**20)
        errors: dict[str, object] = {}
        while len(errors) < 3:
            errors |= {m["end"]: m.get("error") for m, _ in unpacker.feed(ours.recv(65536)) if "end" in m}
        child.kill()
    assert errors == {"first": None, "second": None, "third": None}
