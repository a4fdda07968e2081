"""The POST-only service beside the limit."""

import statistics
import time
from pathlib import Path

from tests.bench.load import ROUNDS, Load, idle_rows, post, row, storm
from tests.processes import Service, Worker, eventually

TASK = '{"type":"echo","payload":{"n":1}}'
BATCH = '{"tasks":[' + ",".join([TASK] * 100) + "]}"

# Submits, and asks for the result of every task that it was told the id of.
SUBMIT_AND_FETCH = (
    post(TASK)
    + """
local ids = {}
request = function()
  local id = table.remove(ids, 1)
  if id then return wrk.format(nil, "/api/result", nil, '{"wait":20,"task_id":"' .. id .. '"}') end
  return wrk.format()
end
response = function(status, headers, body)
  local id = string.match(body, '"task_id":"([^"]+)","type":"echo","status":"queued"')
  if id then table.insert(ids, id) end
end
"""
)


def drained(service: Service) -> None:
    def is_empty() -> bool:
        queue = service.post("/health").json()["queue"]
        return bool(queue and queue["queued"] + queue["running"] == 0)

    eventually(is_empty, 120, every=0.6)


def throughput(directory: Path, limit_url: str) -> None:
    service = Service(directory / "one")
    limits, submits, fetched, results, batches = [], [], [], [], []
    ended = '{"task_id":"' + service.run("echo", {"n": 1})["task_id"] + '"}'
    for _ in range(ROUNDS):
        limits.append(Load(f"{limit_url}/api/task", 32, post(TASK)).per_second)
        submits.append(Load(f"{service.url}/api/task", 32, post(TASK)).per_second)
        drained(service)
        fetched.append(Load(f"{service.url}/api/task", 16, SUBMIT_AND_FETCH).per_second / 2)
        results.append(Load(f"{service.url}/api/result", 32, post(ended)).per_second)
        batches.append(Load(f"{service.url}/api/batch", 4, post(BATCH)).per_second * 100)
        drained(service)
    limit = statistics.median(limits)
    row("limit: bare echo route, 32 connections, /s", f"{limit:,.0f}", 1)
    for what, rates in (
        ("POST /api/task, acknowledged on disk, run meanwhile, 32 conn., /s", submits),
        ("tasks submitted, run and fetched, 16 conn., tasks/s", fetched),
        ("POST /api/result of an ended task, 32 conn., /s", results),
        ("POST /api/batch of 100, 4 conn., tasks/s", batches),
    ):
        row(what, f"{statistics.median(rates):,.0f}", statistics.median(rates) / limit)
    with storm(f"{service.url}/api/task", 32, post(TASK)):
        health = Load(f"{service.url}/health", 1, post("{}"))
    row("32 clients submit without pause: POST /health p50 / p99 ms", f"{health.p50:.1f} / {health.p99:.1f}")
    drained(service)
    round_trip("one process", service)
    idle_rows({"web": service.pid, "child": service.children()[0]})
    service.kill()


def apart(directory: Path) -> None:
    service, worker = Service(directory / "two", {"WORKER_PROCESSES": "0"}), Worker(directory / "two")
    round_trip("separate worker", service)
    idle_rows({"web": service.pid, "worker": worker.pid, "child": worker.children()[0]})
    service.kill()
    worker.kill()


def round_trip(what: str, service: Service) -> None:
    time.sleep(1)
    loads = [Load(f"{service.url}/api/task", 1, post('{"type":"echo","wait":20}')) for _ in range(ROUNDS)]
    p50, p99 = (statistics.median(getattr(load, name) for load in loads) for name in ("p50", "p99"))
    row(f"idle round trip, submit to result, {what}, p50 / p99 ms", f"{p50:.1f} / {p99:.1f}")


def run(directory: Path, limit_url: str) -> None:
    throughput(directory, limit_url)
    apart(directory)
