"""The README's console blocks: every command is run as it stands, and every answer compared."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, Service, TokenService

README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
CHANGING = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # ids
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    r'|(?<="request_id":")[0-9a-f]{32}'
    r'|(?<="next_cursor":")[^"]+'
    r'|(?<="access_token":")[^"]+'
    r'|(?<="refresh_token":")[^"]+'
    r'|(?<="workers":\[).*(?=\])'
    r'|(?<="milliseconds":)[0-9.]+'
    r'|(?<="queue":\{)[^}]*'
)


def examples() -> Iterator[tuple[str, str]]:
    """Each block as one script, with what it prints."""
    for block in BLOCK.findall(README.read_text()):
        lines = block.splitlines()
        script = "\n".join(f"{line[2:]}; echo" if "=$(" not in line else line[2:] for line in lines if line[:2] == "$ ")
        yield script, "\n".join(line for line in lines if line[:2] != "$ ")


def printed_by(script: str, ports: dict[int, int], directory: Path) -> str:
    """What a block prints. Its variables are kept for the blocks behind it."""
    for shown, real in ports.items():
        script = script.replace(f"localhost:{shown}", f"localhost:{real}")
    command = f"touch variables; . ./variables; {script}; declare -p id token refresh > variables 2> /dev/null; true"
    output = subprocess.check_output(["bash", "-c", command], cwd=directory, text=True, timeout=60)
    return "\n".join(line for line in output.splitlines() if line)


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[int, int]]:
    """The ports that the README has, and where the services are."""
    tasks, tokens = Service(tmp_path / "tasks"), TokenService(tmp_path / "tokens")
    yield {9003: tasks.port, 9004: tokens.port}
    tasks.kill()
    tokens.kill()


@pytest.mark.skipif(not shutil.which("curl"), reason="the README's examples need curl")
def test_every_example_prints_what_the_readme_shows(ports: dict[int, int], tmp_path: Path) -> None:
    shown = list(examples())
    assert len(shown) >= 12
    for script, expected in shown:
        assert CHANGING.sub("…", printed_by(script, ports, tmp_path)) == CHANGING.sub("…", expected), script
