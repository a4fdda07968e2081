"""What several tests of the POST-only service take."""

from collections.abc import Iterator

import pytest

from tests.processes import Service


@pytest.fixture(scope="module")
def no_error_is_logged(service: Service) -> Iterator[None]:
    """Before and after all tests of a module."""
    before = len(service.log.read_text())
    yield
    assert [line for line in service.log.read_text()[before:].splitlines() if "traceback=" in line] == []
    assert service.post("/health").status_code == 200
