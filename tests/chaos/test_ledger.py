"""Nothing lost: clients keep a ledger of what was acknowledged while a nemesis kills, stops and starts.

CHAOS_SECONDS sets how long the nemesis goes on, CHAOS_SEED what it picks.
"""

import collections
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.ledger import SEED, Client, Ledger, check_endings, check_runs, check_tables, drain
from tests.chaos.traces import lines, runners_in
from tests.processes import TASKS, Process, Service, Worker, eventually, free_port

SECONDS = float(os.environ.get("CHAOS_SECONDS", "3"))
LEASE_SECONDS = 2
CLIENTS = 4


class Member:
    """One process of the service under the nemesis' hand, started again whenever it has gone. While it starts nothing
    is done to it: one whose modules can't be loaded, as their process was killed, ends, and nobody would start it."""

    def __init__(self, directory: Path, name: str, database: dict[str, str], port: int = 0) -> None:
        self.name = name
        self._database = database
        self.port = port
        self.turn = threading.Lock()
        self.terms = 0
        self._directory = directory
        self._numbers = itertools.count()
        self.process = self._start(wait=False)

    def _start(self, *, wait: bool = True) -> Process:
        settings = {"TASK_MODULES": TASKS, "LEASE_SECONDS": str(LEASE_SECONDS), "TASK_CONCURRENCY": "4"}
        settings |= self._database
        if self.port:
            return Service(self._directory, {**settings, "WORKER_PROCESSES": "1"}, self.port, wait)
        name = f"{self.name}-{next(self._numbers)}"
        return Worker(self._directory, {**settings, "WORKER_PROCESSES": "2"}, name=name)

    def kill(self, chance: random.Random) -> None:
        self.process.kill()
        self.process = self._start()

    def kill_child(self, chance: random.Random) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            os.kill(chance.choice(self.process.children()), signal.SIGKILL)

    def terminate(self, chance: random.Random) -> None:
        self.terms += 1
        self.process.terminate(10)
        self.process = self._start()

    def stop(self, chance: random.Random) -> None:
        self.process.send(signal.SIGSTOP)
        time.sleep(2 * LEASE_SECONDS)  # the length of the fault itself
        self.process.send(signal.SIGCONT)


class Nemesis:
    def __init__(self, members: list[Member]) -> None:
        self._members = members
        self._chance = random.Random(f"{SEED} nemesis")
        self._threads: list[threading.Thread] = []
        self.deeds: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []

    def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            member = self._chance.choice(self._members)
            deed = self._chance.choice([member.kill, member.kill_child, member.terminate, member.stop])
            thread = threading.Thread(target=self._do, args=(member, deed), daemon=True)
            thread.start()
            self._threads.append(thread)
            time.sleep(self._chance.uniform(0.5, 2.5))  # its whims
        for thread in self._threads:
            thread.join()

    def _do(self, member: Member, deed: Any) -> None:
        if not member.turn.acquire(blocking=False):
            return  # it is stopped or starting
        try:
            self.deeds[f"{deed.__name__} {member.name}"] += 1
            deed(self._chance)
        except Exception as error:
            self.faults.append(f"{deed.__name__} {member.name}: {error!r}")
        finally:
            member.turn.release()


@pytest.fixture
def members(tmp_path: Path, database: dict[str, str]) -> Iterator[list[Member]]:
    started: list[Member] = []
    for name, port in {"web1": free_port(), "web2": free_port(), "worker": 0}.items():
        started.append(Member(tmp_path, name, database, port))
    yield started
    for member in started:
        member.process.kill()


def test_every_acknowledged_task_has_exactly_one_ending_whatever_dies(members: list[Member], tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")
    ledger, trace, done = Ledger(), tmp_path / "trace", threading.Event()
    webs = [member for member in members if member.port]
    for member in webs:
        is_up(member)
    clients = [Client(n, [member.port for member in webs], ledger, trace, done) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    nemesis = Nemesis(members)
    nemesis.rage(SECONDS)
    done.set()
    web, _ = [is_up(member) for member in webs]
    for client in clients:
        client.join(60)
        assert not client.is_alive(), "a client never got its answer"

    drain(ledger, web)
    check_tables(ledger, web)
    starts = collections.Counter(line.task_id for line in lines(trace) if line.event == "start")
    print(f"{len(ledger.accepted)} tasks, {sum(starts.values())} runs, {dict(ledger.answers)}, {dict(nemesis.deeds)}")
    print(collections.Counter(f"{task['status']} in attempt {task['attempt']}" for task in ledger.finals.values()))
    for member in members:
        assert member.process.terminate(10) in (0, -signal.SIGTERM)
    eventually(lambda: not runners_in(tmp_path))

    assert ledger.faults + nemesis.faults == []
    assert sum(nemesis.deeds.values()) >= SECONDS / 10
    check_endings(ledger)
    check_runs(ledger, trace, terms=sum(member.terms for member in members))
    if (file := tmp_path / "var" / "only_post.db").exists():
        check_file(file)


def is_up(web: Member) -> Service:
    assert isinstance(web.process, Service)
    web.process.wait_until_up()
    return web.process


def check_file(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
