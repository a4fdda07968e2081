"""Several hosts on one PostgreSQL: each is a process with a directory, an environment, a clock and a network of its
own, which can be cut off alone. CHAOS_SEED sets what the clients do."""

import contextlib
import itertools
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.chaos.ledger import SEED, Client, Ledger, check_endings, check_runs, check_tables, drain, ended
from tests.chaos.traces import Line, lines, runners_in
from tests.postgres import Cluster, execute, new_cluster, new_database
from tests.processes import ROOT, TASKS, Process, Service, Worker, eventually, free_port
from tests.proxy import Proxy

RECOVERY_SECONDS = 45  # CONTRACT: within it a killed worker's tasks run again
LEASE_SECONDS = 2
CLIENTS = 2
HOUR_SECONDS = 3600

# Read by the interpreter before anything else. To move a machine's clock takes root, and moves it for all.
CLOCK = """
import time
clock, clock_ns = time.time, time.time_ns
time.time = lambda: clock() + {seconds}
time.time_ns = lambda: clock_ns() + {seconds} * 10**9
"""

END_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Host:
    """`port` is for a web process; without it is a worker."""

    def __init__(self, directory: Path, url: str, *, port: int = 0, clock_seconds: int = 0) -> None:
        self.network = Proxy(url)
        self.port = port
        self.directory = directory
        self.clock_seconds = clock_seconds
        self._numbers = itertools.count()
        (directory / "clock").mkdir(parents=True)
        (directory / "clock" / "sitecustomize.py").write_text(CLOCK.format(seconds=clock_seconds))
        self._env = {
            "DATABASE_URL": self.network.url,
            "TASK_MODULES": TASKS,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_PROCESSES": "0" if port else "2",
            "PYTHONPATH": f"{directory / 'clock'}{os.pathsep}{ROOT}",
        }
        self.process = self._start()

    def _start(self) -> Process:
        if self.port:
            return Service(self.directory, self._env, self.port, wait=False)
        return Worker(self.directory, self._env, name=f"worker-{next(self._numbers)}")

    def kill(self) -> None:
        """kill -9, and started again, as every manager does."""
        self.process.kill()
        self.process = self._start()

    @property
    def web(self) -> Service:
        assert isinstance(self.process, Service)
        return self.process

    def lacks_its_database(self) -> bool:
        return bool(self.web.post("/api/tasks", {"limit": 1}).json().get("code") == "database_unavailable")

    def health(self) -> Any:
        """Once all is well."""
        answer = self.web.post("/health")
        return answer.json() if answer.status_code == 200 and answer.json()["status"] == "ok" else None

    def is_gone(self) -> bool:
        return not runners_in(self.directory)

    def close(self) -> None:
        self.process.send(signal.SIGCONT)
        self.process.kill()
        self.network.close()


@dataclass
class Site:
    cluster: Cluster
    url: str
    webs: list[Host]
    workers: list[Host]
    directory: Path

    def submit(self, web: Host, type: str, payload: Any = None) -> str:
        """The id of a task that was accepted in the end."""
        body = {"type": type, "payload": payload or {}, "max_attempts": 25, "priority": 1}
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def accepted() -> Any:
            with contextlib.suppress(requests.ConnectionError):
                answer = web.web.post("/api/task", body, headers=headers)
                return answer.json().get("task_id")

        return str(eventually(accepted, RECOVERY_SECONDS, every=0.2))

    def goes_on(self) -> None:
        """Every web process accepts tasks again, and they are run."""
        for web in self.webs:
            task_id = self.submit(web, "echo")
            assert ended(web.web, task_id, RECOVERY_SECONDS)["status"] == "succeeded"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as undo:
        cluster = new_cluster()
        undo.callback(cluster.remove)
        url = undo.enter_context(new_database(cluster.url))

        def host(name: str, **options: int) -> Host:
            host = Host(tmp_path / name, url, **options)
            undo.callback(host.close)
            return host

        webs = [host("web1", port=free_port(), clock_seconds=HOUR_SECONDS), host("web2", port=free_port())]
        workers = [host("worker1", clock_seconds=-HOUR_SECONDS), host("worker2")]
        for web in webs:
            web.web.wait_until_up()
        yield Site(cluster, url, webs, workers, tmp_path)


def the_clocks_differ(site: Site) -> None:
    """Which makes no run that lives look dead, whoever looks."""
    gates = [site.directory / f"clock-{number}" for number in range(3)]  # so that both workers hold one at least
    task_ids = [site.submit(site.webs[0], "gate", {"path": str(gate)}) for gate in gates]
    for gate in gates:
        eventually(partial(starts, gate), RECOVERY_SECONDS)
    time.sleep(2 * LEASE_SECONDS)  # without a renewal they were over
    for gate in gates:
        Path(f"{gate}.1").write_text("return")
    assert [ended(site.webs[1].web, task_id, RECOVERY_SECONDS)["result"] for task_id in task_ids] == [1, 1, 1]
    assert [len(starts(gate)) for gate in gates] == [1, 1, 1]


def a_web_and_a_worker_are_killed(site: Site) -> None:
    site.webs[0].kill()
    site.workers[0].kill()
    site.webs[0].web.wait_until_up()


def the_server_crashes(site: Site) -> None:
    site.cluster.stop("immediate")
    for web in site.webs:
        eventually(web.lacks_its_database, RECOVERY_SECONDS)
    site.cluster.start()


def all_connections_are_ended(site: Site) -> None:
    assert len(execute(site.url, END_ALL)) >= len(site.webs) + len(site.workers)


def a_web_is_cut_off(site: Site) -> None:
    cut_off, other = site.webs
    cut_off.network.swallow()
    eventually(cut_off.lacks_its_database, RECOVERY_SECONDS)
    task_id = site.submit(other, "echo")
    assert ended(other.web, task_id, RECOVERY_SECONDS)["status"] == "succeeded"
    cut_off.network.heal()


def a_worker_is_stopped(site: Site) -> None:
    """For longer than its leases, and goes on."""
    lose_a_run(
        site,
        lambda holder: holder.process.send(signal.SIGSTOP),
        lambda holder: holder.process.send(signal.SIGCONT),
    )


def a_worker_is_cut_off(site: Site) -> None:
    lose_a_run(site, lambda holder: holder.network.swallow(), lambda holder: holder.network.heal())


def lose_a_run(site: Site, lose: Callable[[Host], None], find: Callable[[Host], None]) -> None:
    """Who holds a task is lost. Another ends it, and what the first has to say of it later is refused."""
    gate, web = site.directory / f"gate-{uuid.uuid4().hex}", site.webs[1]
    task_id = site.submit(web, "gate", {"path": str(gate)})
    first = eventually(lambda: starts(gate), RECOVERY_SECONDS)[-1]
    holder = next(worker for worker in site.workers if int(first.mark) in worker.process.children())
    lose(holder)
    second = eventually(lambda: next((line for line in starts(gate) if line.attempt > first.attempt), None), 60)
    Path(f"{gate}.{second.attempt}").write_text("return")
    final = ended(web.web, task_id, RECOVERY_SECONDS)
    assert (final["status"], final["attempt"], final["result"]) == ("succeeded", second.attempt, second.attempt)
    Path(f"{gate}.{first.attempt}").write_text("return")
    find(holder)
    eventually(lambda: f"run.discarded task_id={task_id}" in holder.process.log.read_text(), RECOVERY_SECONDS)
    assert web.web.result(task_id) == final


def starts(gate: Path) -> list[Line]:
    return [line for line in lines(gate) if line.event == "start"]


DEEDS = (
    the_clocks_differ,
    a_web_and_a_worker_are_killed,
    a_worker_is_stopped,
    the_server_crashes,
    all_connections_are_ended,
    a_worker_is_cut_off,
    a_web_is_cut_off,
)


def test_nothing_that_was_acknowledged_is_lost_whatever_befalls_the_hosts(site: Site) -> None:
    print(f"CHAOS_SEED={SEED}")
    ledger, trace, done = Ledger(), site.directory / "trace", threading.Event()
    ports = [web.port for web in site.webs]
    clients = [Client(number, ports, ledger, trace, done) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for deed in DEEDS:
        started = time.monotonic()
        accepted = len(ledger.accepted)
        deed(site)
        site.goes_on()
        print(f"{deed.__name__}: {time.monotonic() - started:.1f} s, {len(ledger.accepted) - accepted} tasks accepted")
    done.set()
    for client in clients:
        client.join(60)
        assert not client.is_alive(), "a client never got its answer"

    drain(ledger, site.webs[0].web, RECOVERY_SECONDS)
    drain(ledger, site.webs[1].web, RECOVERY_SECONDS)  # which says the same
    assert ledger.faults == []
    assert len(ledger.accepted) > 100
    check_endings(ledger)
    check_runs(ledger, trace, terms=0)
    check_tables(ledger, site.webs[0].web)
    check_hosts(site)


def check_hosts(site: Site) -> None:
    """All are well, without a hand; and their clocks were as far apart as they should be."""
    for web in site.webs:
        health = eventually(web.health, RECOVERY_SECONDS)
        assert {host.process.pid for host in site.workers} <= {worker["pid"] for worker in health["workers"]}
    for host in [*site.webs, *site.workers]:
        stamp = host.process.log.read_text().rpartition("\nts=")[2].split()[0]
        off_seconds = datetime.fromisoformat(stamp).timestamp() - time.time()
        assert abs(off_seconds - host.clock_seconds) < HOUR_SECONDS / 2
        assert host.process.terminate(10) in (0, -signal.SIGTERM)
        eventually(host.is_gone)
        lines = host.process.log.read_text().splitlines()
        assert [line for line in lines if "Traceback" in line and "event=run.failed" not in line] == []
