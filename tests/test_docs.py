"""README and docs/: every command of a console block is run as it stands, and every answer compared; every link leads
somewhere."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import only_post_svc.settings
import token_svc.settings
from shared.settings import Settings
from tests.processes import ROOT, Service, TokenService

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
CODE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
NOT_SET_BY_PEOPLE = {"DYNO"}  # Heroku and Dokku set it
MAX_README_WORDS = 1200
ANYTHING = "…"  # in what a page shows
CHANGING = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # ids
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    r'|(?<="request_id":")[0-9a-f]{32}'
    r'|(?<="next_cursor":")[^"]+'
    r'|(?<="since":")[^"]+'
    r'|(?<="access_token":")[^"]+'
    r'|(?<="refresh_token":")[^"]+'
    r'|(?<="lease":")[^"]+'
    r'|(?<="workers":\[).*(?=\])'
    r'|(?<="milliseconds":)[0-9.]+'
    r'|(?<="queue":\{)[^}]*'
)


class Home(NamedTuple):
    """The ports that the pages have with those that the services have, and the token service's directory."""

    ports: dict[int, int]
    directory: Path


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """Each block as one script, with what it prints."""
    for block in BLOCK.findall(page.read_text()):
        lines = block.splitlines()
        script = "\n".join(f"{line[2:]}; echo" if "=$(" not in line else line[2:] for line in lines if line[:2] == "$ ")
        yield script, "\n".join(line for line in lines if line[:2] != "$ ")


def printed_by(script: str, ports: dict[int, int], directory: Path) -> str:
    """What a block prints. Its variables are kept for the blocks of the page behind it."""
    for shown, real in ports.items():
        script = script.replace(f"localhost:{shown}", f"localhost:{real}")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    names = " ".join(sorted(set(re.findall(r"(\w+)=\$\(", script))))
    keep = f"declare -p {names} >> variables 2> /dev/null; true" if names else "true"
    command = f"touch variables; . ./variables; {script}; {keep}"
    output = subprocess.check_output(["bash", "-c", command], cwd=directory, env=env, text=True, timeout=60)
    return "\n".join(line for line in output.splitlines() if line)


def shows(expected: str, printed: str) -> bool:
    """Whether they are equal but for what changes from run to run, and for what the page leaves out."""
    pieces = CHANGING.sub(ANYTHING, expected).split(ANYTHING)
    return re.fullmatch(".*?".join(map(re.escape, pieces)), CHANGING.sub(ANYTHING, printed), re.DOTALL) is not None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Both services, and where the commands of the pages are run."""
    tasks = Service(tmp_path_factory.mktemp("tasks"))
    tokens = TokenService(tmp_path_factory.mktemp("tokens"))
    yield Home({9003: tasks.port, 9004: tokens.port}, tokens.log.parent)
    tasks.kill()
    tokens.kill()


@pytest.mark.skipif(not shutil.which("curl"), reason="the pages' examples need curl")
@pytest.mark.parametrize("page", [page for page in PAGES if list(examples(page))], ids=lambda page: page.name)
def test_every_example_prints_what_the_page_shows(page: Path, home: Home) -> None:
    (home.directory / "variables").unlink(missing_ok=True)
    for script, expected in examples(page):
        printed = printed_by(script, home.ports, home.directory)
        assert shows(expected, printed), f"{script}\nshould print\n{expected}\nbut prints\n{printed}"


def test_the_readme_has_examples() -> None:
    assert len(list(examples(ROOT / "README.md"))) >= 5


def test_what_a_page_shows_is_compared() -> None:
    assert shows('{"a":1,"task_id":"…"}', '{"a":1,"task_id":"01a2065b-d97d-72cc-a1c6-dd67974b0f2a"}')
    assert not shows('{"a":1,"task_id":"…"}', '{"a":2,"task_id":"01a2065b-d97d-72cc-a1c6-dd67974b0f2a"}')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = CODE.sub("", page.read_text())
    assert [link for link, _ in LINK.findall(prose) if not (page.parent / link).exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {link for link, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_readme_takes_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) < MAX_README_WORDS


@pytest.mark.parametrize("cls", [only_post_svc.settings.Settings, token_svc.settings.Settings])
def test_every_setting_has_its_row(cls: type[Settings]) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in cls.variables() if f"`{name}`" not in page and name not in NOT_SET_BY_PEOPLE] == []
