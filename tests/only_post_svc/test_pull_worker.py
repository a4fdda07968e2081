"""A worker elsewhere, against a service that the test plays."""

import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import pytest

from only_post_svc.pull_worker import PullWorker
from tests.processes import eventually

NEVER_SECONDS = 3600.0


class Playing:
    """Gives each of the tasks to a claim that has room for it, and keeps what it was told."""

    def __init__(self, *payloads: dict[str, Any]) -> None:
        self._left = [
            {"task_id": str(number), "lease": f"lease {number}", "type": "call", "payload": payload}
            for number, payload in enumerate(payloads)
        ]
        self.claimed_at: list[float] = []
        self.renewed = Event()
        self.ended: list[dict[str, Any]] = []

    def post(self, path: str, body: dict[str, Any], wait: float = 0) -> dict[str, Any]:
        if path == "/api/claim":
            self.claimed_at.append(time.monotonic())
            claimed = [self._left.pop(0) for _ in self._left[: body["limit"]]]
            return {"items": claimed}
        if path == "/api/renew":
            self.renewed.set()
        else:
            self.ended += body["runs"]
        return {"items": []}


Start = Callable[..., Thread]


@pytest.fixture
def stop() -> Event:
    return Event()


@pytest.fixture
def start(stop: Event) -> Iterator[Start]:
    started: list[Thread] = []

    def start(service: Playing, call: Callable[..., Any], **options: Any) -> Thread:
        worker = PullWorker(service.post, {"call": call}, concurrency=1, stop=stop, **options)
        started.append(Thread(target=worker.run))
        started[-1].start()
        return started[-1]

    yield start
    stop.set()
    for worker in started:
        worker.join(30)
        assert not worker.is_alive()


def test_a_lease_is_renewed_in_its_time_though_the_worker_has_been_stopped(start: Start, stop: Event) -> None:
    service = Playing({})

    def call() -> bool:
        stop.set()
        return service.renewed.wait(0.2)  # in vain: it is not time yet

    start(service, call, renew_seconds=NEVER_SECONDS).join(30)
    assert [run["result"] for run in service.ended] == [False]


def test_a_task_that_runs_when_the_worker_is_stopped_keeps_its_lease(start: Start, stop: Event) -> None:
    service = Playing({})

    def call() -> bool:
        stop.set()
        service.renewed.clear()
        return service.renewed.wait(10)

    start(service, call, renew_seconds=0.01).join(30)
    assert [run["result"] for run in service.ended] == [True]


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no")], ids=repr)
def test_whatever_a_task_raises_fails_it_and_frees_its_place(start: Start, raised: BaseException) -> None:
    service = Playing({"fails": True}, {"fails": False})

    def call(fails: bool) -> str:
        if fails:
            raise raised
        return "done"

    start(service, call)
    failed, succeeded = eventually(lambda: service.ended if len(service.ended) == 2 else None)
    assert failed["error"] == {"message": "no", "type": type(raised).__name__}
    assert succeeded["result"] == "done"


def test_a_service_that_holds_no_claim_is_asked_again_after_a_pause(start: Start) -> None:
    service = Playing()
    start(service, print)
    first, second = eventually(lambda: service.claimed_at[:2] if len(service.claimed_at) > 1 else None)
    assert second - first > 0.5
