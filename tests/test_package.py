"""The package that others depend on: what a wheel has in it, and a repository of one's own made of it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import requests

from only_post_svc.client import Tasks
from shared import VERSION
from tests.processes import ROOT, Process, end_family, eventually, free_port
from tests.test_imports import imports_of

ANOTHER = """

@task("part")
def part(name: str) -> str:
    return f"Bye, {name}"
"""
PAGE = ROOT / "docs" / "your-own-project.md"
FILE = re.compile(r"`([\w.]+)`:\n\n```\w*\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the files as they are, built as `pip install` of the repository builds it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("only_post_svc", "token_svc", "shared", "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--wheel-dir", str(built), str(source))
    (file,) = built.iterdir()
    return file


def _pip(*arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *arguments, *quiet], check=True)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is installed, apart from the checkout; what it depends on is found where the tests find it."""
    target = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def environment(installed: Path, **env: str) -> dict[str, str]:
    path = os.pathsep.join([str(installed / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "PYTHONPATH": str(installed), "HOME": os.environ.get("HOME", "/"), **env}


def run(directory: Path, installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, env=environment(installed), capture_output=True, text=True, timeout=60
    )


def test_a_wheel_has_the_three_packages_with_their_data_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "only_post_svc",
        "token_svc",
        "shared",
        f"only_post-{VERSION}.dist-info",
    }
    for package in ("only_post_svc", "token_svc", "shared"):
        data = {file.relative_to(ROOT).as_posix() for file in (ROOT / package).rglob("*") if file.is_file()}
        assert {name for name in data if "__pycache__" not in name} <= set(names)
        assert f"{package}/py.typed" in names


def test_what_running_needs_is_in_requirements_too_with_the_same_bounds() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = [line.partition("  #")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert set(needed) <= set(found)


def test_what_is_imported_is_depended_on() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=; ]", one)[0].lower() for one in needed}
    packages = packages_distributions()
    modules = [file for package in ("only_post_svc", "token_svc", "shared") for file in (ROOT / package).rglob("*.py")]
    imported = {
        name.partition(".")[0] for module in modules for name in imports_of(module.relative_to(ROOT).as_posix())
    }
    foreign = imported - sys.stdlib_module_names - {"only_post_svc", "token_svc", "shared"}
    assert {name for name in foreign if not names & {one.lower() for one in packages[name]}} == set()


def test_every_requirement_has_its_reason() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if "  # " not in line] == []


@pytest.mark.parametrize("command", ["only-post", "token-svc"])
def test_the_commands_say_their_version_and_their_name(command: str, installed: Path, tmp_path: Path) -> None:
    assert run(tmp_path, installed, command, "--version").stdout == f"{VERSION}\n"
    assert run(tmp_path, installed, command, "--help").stdout.startswith(f"usage: {command} ")
    assert list(tmp_path.iterdir()) == []


def test_a_package_of_ones_own_called_shared_is_told_in_one_line(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").touch()
    done = run(tmp_path, installed, "python", "-m", "only_post_svc", "--version")
    assert done.returncode != 0
    assert done.stderr == (
        f"{tmp_path}/shared/__init__.py: only-post has a package of its own called `shared`; give yours another name\n"
    )


@pytest.fixture
def own(installed: Path, tmp_path: Path) -> Iterator[Tasks]:
    """A repository of one's own under honcho, with the files that the page has."""
    for name, content in FILE.findall(PAGE.read_text()):
        (tmp_path / name).write_text(content)
    port, token_port = free_port(), free_port()
    env = environment(installed, TASK_MODULES="jobs", TOKEN_PORT=str(token_port))
    honcho = Process(tmp_path, "-m", "honcho", "start", "-p", str(port), env=env, name="honcho")
    try:
        for url, method in ((f"http://127.0.0.1:{port}", "POST"), (f"http://127.0.0.1:{token_port}", "GET")):
            eventually(lambda url=url, method=method: _is_up(method, url), 60, every=0.1)  # type: ignore[misc]
        yield Tasks(f"http://127.0.0.1:{port}")
        assert honcho.terminate(30) is not None
    except AssertionError:
        print(honcho.log.read_text())
        raise
    finally:
        honcho.kill()
        end_family(tmp_path)


def _is_up(method: str, url: str) -> bool:
    try:
        return requests.request(method, f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_a_repository_of_ones_own_runs_its_tasks_and_picks_up_an_edit(own: Tasks, tmp_path: Path) -> None:
    assert own.submit("greet", name="Ann", wait=20).value == "Hello, Ann"
    jobs = tmp_path / "jobs.py"
    jobs.write_text(jobs.read_text() + ANOTHER)
    eventually(lambda: "part" in {one["type"] for one in own.types()}, 60, every=0.2)
    assert own.submit("part", name="Ann", wait=20).value == "Bye, Ann"
