"""Fixtures: real processes, and what stops them again."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.databases import ENGINES, settings_of
from tests.dealing import Dealing, in_order
from tests.postgres import shared_by_a_run
from tests.processes import TASKS, Forked, Process, Service, Worker

Start = Callable[..., Any]
TEST_TASKS = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1"}  # one child wherever a test needs no more


@pytest.fixture(scope="session", params=ENGINES)
def storage(request: pytest.FixtureRequest) -> str:
    """The name of a storage engine: every test that takes it, or a service, runs on each."""
    return str(request.param)


@pytest.fixture
def database(storage: str) -> Iterator[dict[str, str]]:
    """The settings that lead to an empty database, the same one for all processes of a test."""
    with settings_of(storage) as settings:
        yield settings


@pytest.fixture(scope="session")
def service(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One POST-only service with the default settings and the test tasks, shared by all tests that break nothing."""
    with settings_of(storage) as database:
        service = Service(tmp_path_factory.mktemp("service"), {**TEST_TASKS, **database})
        yield service
        service.kill()


@pytest.fixture
def start_service(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., Service]]:
    """Starts a service with settings of its own: `start_service(LEASE_SECONDS="2")`."""
    yield from _starter(lambda **env: Service(tmp_path, {**TEST_TASKS, **database, **env}))


@pytest.fixture
def start_worker(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., Worker]]:
    """Starts a worker process on the database of `start_service`."""
    yield from _starter(lambda **env: Worker(tmp_path, {**TEST_TASKS, **database, **env}))


def _starter(make: Start) -> Iterator[Start]:
    started: list[Process] = []

    def start(**env: str) -> Process:
        process: Process = make(**env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def pytest_configure(config: pytest.Config) -> None:
    run = ExitStack()
    run.enter_context(shared_by_a_run())
    Forked.forks = True
    gc.disable()  # until the tests are collected, which makes a million objects and no garbage
    config.add_cleanup(run.close)


@pytest.hookimpl(trylast=True)  # once pytest has put the tests of a parameter together
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = in_order(items)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Dealing | None:
    return Dealing(config, log) if config.option.dist == "loadfile" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What a laptop may skip, CI has to have: a skip there is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
