"""Where the rows are measured."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import requests

from tests import tokens
from tests.bench.databases import Databases
from tests.bench.load import Load
from tests.processes import HTTPService, Process, Service, TokenService, Worker, eventually, free_port

SETTINGS = {"SECRET_KEY": tokens.SECRET, "MAX_ITEMS_PER_USER": "1000000000", "ACCESS_TOKEN_SECONDS": "86400"}

P = TypeVar("P", bound=Process)
S = TypeVar("S", bound=HTTPService)


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: int  # of one load
    idle_seconds: int
    finished: int  # rows beside which tasks are claimed
    page: int  # of a list
    tasks: int  # that are run while memory is watched
    postgresql: bool


class Measured(NamedTuple):
    """What a row shows. `ratio` is to the limit."""

    value: str
    limit: str = ""
    ratio: float | None = None


class Lab:
    """The limit and the services, each started for the first row that needs it and stopped when `undo` closes."""

    def __init__(self, directory: Path, databases: Databases, options: Options, undo: ExitStack) -> None:
        self.databases = databases
        self.options = options
        self._directory = directory
        self._undo = undo

    @cached_property
    def limit(self) -> str:
        """Its URL."""
        port = free_port()
        process = Process(self._directory, "-m", "tests.bench.limit", str(port), name="limit")
        self._undo.callback(process.kill)
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(url), 30)
        return url

    @cached_property
    def tasks(self) -> Service:
        """HTTP and tasks in one process."""
        return self.service(Service, "tasks")

    @cached_property
    def apart(self) -> tuple[Service, Worker]:
        """HTTP in one process, tasks in another."""
        web = self.service(Service, "apart", WORKER_PROCESSES="0")
        return web, self._started(Worker(self._directory / "apart", self._settings("apart"), name="worker"))

    @cached_property
    def pairs(self) -> tuple[list[Service], list[Worker]]:
        """Two of each on one database."""
        webs = [self.service(Service, "pairs", WORKER_PROCESSES="0") for _ in range(2)]
        settings = self._settings("pairs") | {"WORKER_PROCESSES": "1"}
        workers = [Worker(self._directory / "pairs", settings, name=f"worker{number}") for number in range(2)]
        return webs, [self._started(worker) for worker in workers]

    @cached_property
    def tokens(self) -> TokenService:
        return self.service(TokenService, "tokens")

    def service(self, cls: type[S], name: str, **settings: str) -> S:
        return self._started(cls(self._directory / name, self._settings(name) | settings))

    def _settings(self, name: str) -> dict[str, str]:
        return SETTINGS | {"DATABASE_URL": self.databases.url(name)}

    def _started(self, process: P) -> P:
        self._undo.callback(process.kill)
        return process

    def load(self, url: str, connections: int, script: str = "", token: str = "", *, may_refuse: bool = False) -> Load:
        return Load(url, connections, script, self.options.seconds, token, may_refuse=may_refuse)

    def beside(self, limit: Callable[[], float], ours: Callable[[], float]) -> Measured:
        """Rates, measured in turn: a machine that others use as well is slow for both of a pair."""
        pairs = [(limit(), ours()) for _ in range(self.options.rounds)]
        most, reached = map(statistics.median, zip(*pairs, strict=True))
        return Measured(f"{reached:,.0f}/s", f"{most:,.0f}/s", statistics.median(b / a for a, b in pairs))

    def latency(self, measure: Callable[[], Load]) -> Measured:
        loads = [measure() for _ in range(self.options.rounds)]
        p50, p99 = (statistics.median(getattr(load, name) for load in loads) for name in ("p50", "p99"))
        return Measured(f"{p50:.1f} / {p99:.1f} ms")


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 404
    except requests.ConnectionError:
        return False
