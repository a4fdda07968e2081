"""The POST-only service beside the limit."""

from tests.bench.lab import Lab, Measured
from tests.bench.load import post, wrk
from tests.bench.machine import rss_mb
from tests.bench.table import Row
from tests.processes import Service, eventually

TASK = '{"type":"echo","payload":{"n":1}}'
ROUND_TRIP = '{"type":"echo","wait":20}'
MANY = 1000  # tasks in one request
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


def _bare(lab: Lab) -> float:
    return lab.load(f"{lab.limit}/api/task", 32, post(TASK)).per_second


def drained(service: Service) -> None:
    def is_empty() -> bool:
        counts = service.post("/health").json()["queue"]
        return bool(counts and counts["queued"] + counts["running"] == 0)

    eventually(is_empty, 300, every=0.6)


def submit(lab: Lab) -> Measured:
    def submits() -> float:
        load = lab.load(f"{lab.tasks.url}/api/task", 32, post(TASK))
        drained(lab.tasks)
        return load.per_second

    return lab.beside(lambda: _bare(lab), submits)


def run(lab: Lab) -> Measured:
    def fetched() -> float:
        return lab.load(f"{lab.tasks.url}/api/task", 16, SUBMIT_AND_FETCH).per_second / 2

    return lab.beside(lambda: _bare(lab), fetched)


def result(lab: Lab) -> Measured:
    body = '{"task_id":"' + lab.tasks.run("echo", {"n": 1})["task_id"] + '"}'
    return lab.beside(lambda: _bare(lab), lambda: lab.load(f"{lab.tasks.url}/api/result", 32, post(body)).per_second)


def batch(lab: Lab) -> Measured:
    def submits() -> float:
        load = lab.load(f"{lab.tasks.url}/api/batch", 4, post(BATCH))
        drained(lab.tasks)
        return load.per_second * 100

    return lab.beside(lambda: _bare(lab), submits)


def round_trip(lab: Lab) -> Measured:
    return lab.latency(lambda: lab.load(f"{lab.tasks.url}/api/task", 1, post(ROUND_TRIP)))


def round_trip_apart(lab: Lab) -> Measured:
    web, _ = lab.apart
    return lab.latency(lambda: lab.load(f"{web.url}/api/task", 1, post(ROUND_TRIP)))


def health(lab: Lab) -> Measured:
    seconds = 2 * lab.options.rounds * lab.options.seconds + 60  # it is killed before
    with wrk(f"{lab.tasks.url}/api/task", 32, post(TASK), seconds):
        measured = lab.latency(lambda: lab.load(f"{lab.tasks.url}/health", 1, post("{}")))
    drained(lab.tasks)
    return measured


def growth(lab: Lab) -> Measured:
    """Of the memory of a web process and its child, once their caches are full."""
    pids = [lab.tasks.pid, lab.tasks.children()[0]]
    _run_many(lab.tasks, lab.options.tasks // 2)
    half = list(map(rss_mb, pids))
    _run_many(lab.tasks, lab.options.tasks // 2)
    return Measured(" / ".join(f"{rss_mb(pid) - then:+.1f}" for pid, then in zip(pids, half, strict=True)) + " MB")


def _run_many(service: Service, count: int) -> None:
    for _ in range(0, count, 10 * MANY):
        for _ in range(10):
            service.post("/api/batch", {"tasks": [{"type": "echo"}] * MANY}).raise_for_status()
        drained(service)


ROWS = [
    Row("submit", "`POST /api/task`, on disk when acknowledged, run meanwhile, 32 connections", "0.35", submit, "0.25"),
    Row("run", "tasks submitted, run and every result fetched, 16 connections", "0.13", run, "0.12"),
    Row("result", "`POST /api/result` of an ended task, 32 connections", "0.6", result, "0.45"),
    Row("batch", "tasks by `POST /api/batch` of 100, 4 connections", "1.1", batch, ""),
    Row("round-trip", "idle, submit to result, one process: p50 / p99", "p50 3 ms", round_trip, "p50 3.5 ms"),
    Row(
        "round-trip-apart",
        "idle, submit to result, worker apart: p50 / p99",
        "p50 8 ms",
        round_trip_apart,
        "p50 5 ms",
    ),
    Row("growth", "RSS of web / child: what the second half of `--tasks` adds", "0 MB", growth),
    Row("health-submits", "`POST /health` while 32 clients submit: p50 / p99", "p99 50 ms", health),
]
