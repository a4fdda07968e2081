"""The health check of a container."""

from pathlib import Path

import pytest

from tests.commands import command, said
from tests.processes import HTTPService, Service, TokenService, free_port


@pytest.mark.parametrize("kind", [Service, TokenService])
def test_a_service_that_is_well_is_told_from_one_that_is_gone(kind: type[HTTPService], tmp_path: Path) -> None:
    service = kind(tmp_path / "service")
    done = command(tmp_path, service.module, "probe", PORT=str(service.port))
    service.kill()
    assert (done.returncode, done.stdout) == (0, "ok\n")
    port = free_port()
    assert f"no answer on port {port}" in said(command(tmp_path, service.module, "probe", PORT=str(port)), 1)
