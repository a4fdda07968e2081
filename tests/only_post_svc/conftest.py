"""What several tests of the POST-only service take."""

from collections.abc import Iterator

import pytest

from tests.databases import shared_by_tests
from tests.processes import TASKS, Service


@pytest.fixture(scope="module")
def idle(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A web process that runs no tasks."""
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "0", "HEALTH_GET": "true"}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("idle"), **env) as service:
        yield service


@pytest.fixture(scope="module")
def ruined(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one child, which tests may kill."""
    env = {"TASK_MODULES": TASKS, "WORKER_PROCESSES": "1"}
    with shared_by_tests(Service, storage, tmp_path_factory.mktemp("ruined"), **env) as service:
        yield service


@pytest.fixture(scope="module")
def no_error_is_logged(service: Service) -> Iterator[None]:
    """Before and after all tests of a module."""
    before = len(service.log.read_text())
    yield
    assert [line for line in service.log.read_text()[before:].splitlines() if "traceback=" in line] == []
    assert service.post("/health").status_code == 200
