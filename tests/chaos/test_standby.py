"""The primary is killed under load and its synchronous standby promoted: DATABASE_URL names both."""

import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.postgres import Cluster, new_cluster
from tests.processes import TASKS, Service, eventually

CLIENTS = 4
BEFORE, AFTER = 200, 50  # acknowledged tasks


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    primary = new_cluster()
    try:
        standby = primary.standby()
        yield primary, standby
        standby.remove()
    finally:
        primary.remove()


@pytest.fixture
def service(pair: tuple[Cluster, Cluster], tmp_path: Path) -> Iterator[Service]:
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in pair)
    url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
    service = Service(tmp_path, {"DATABASE_URL": url, "TASK_MODULES": TASKS, "LEASE_SECONDS": "2"})
    yield service
    service.kill()


class Submitting(threading.Thread):
    """A client that keeps what was acknowledged, and sends again what was not."""

    def __init__(self, service: Service, acknowledged: list[str], is_over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._service, self._acknowledged, self._is_over = service, acknowledged, is_over
        self._session = requests.Session()
        self.start()

    def run(self) -> None:
        while not self._is_over.is_set():
            key = {"Idempotency-Key": uuid.uuid4().hex}
            while (answer := self._send(key)) is None or answer.status_code != 202:
                if self._is_over.wait(0.1):
                    return
            self._acknowledged.append(answer.json()["task_id"])

    def _send(self, key: dict[str, str]) -> requests.Response | None:
        try:
            body = {"type": "echo", "max_attempts": 25}
            return self._session.post(f"{self._service.url}/api/task", json=body, headers=key, timeout=30)
        except requests.ConnectionError:
            return None


def test_nothing_acknowledged_is_lost_and_submits_go_on_after_the_promotion(
    pair: tuple[Cluster, Cluster], service: Service
) -> None:
    primary, standby = pair
    acknowledged: list[str] = []
    is_over = threading.Event()
    clients = [Submitting(service, acknowledged, is_over) for _ in range(CLIENTS)]
    eventually(lambda: len(acknowledged) >= BEFORE, 60)
    primary.send(signal.SIGKILL)
    standby.promote()
    before = len(acknowledged)
    eventually(lambda: len(acknowledged) >= before + AFTER, 60)
    is_over.set()
    for client in clients:
        client.join(30)
    assert [task_id for task_id in acknowledged if service.ended(task_id)["status"] != "succeeded"] == []
