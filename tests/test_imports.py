"""Imports point one way: shared ← domain ← web ← the entrances. A module is held to the domain's rules unless it is
named here."""

import ast
import subprocess
import sys
from functools import cache

import pytest

from tests.processes import ROOT

SERVICES = ("only_post_svc", "token_svc")
MODULES = {
    path.relative_to(ROOT).as_posix(): path
    for package in ("shared", *SERVICES)
    for path in sorted((ROOT / package).rglob("*.py"))
}
WEB = {
    *(f"only_post_svc/{name}.py" for name in ("api", "document", "state", "tracing")),
    *(name for name in MODULES if name.split("/")[1] == "handlers"),
    *(f"token_svc/{name}.py" for name in ("api", "conditions", "credentials", "document", "state")),
}
ENTRANCES = {f"{service}/{name}.py" for service in SERVICES for name in ("__main__", "main")}
COMMANDS = {name for name in MODULES if name.split("/")[0] in SERVICES and name.split("/")[1] == "cli"}
DOMAIN = {name for name in MODULES if name.split("/")[0] in SERVICES} - WEB - ENTRANCES - COMMANDS
HTTP = ("starlette", "uvicorn", "httptools")


def imported(source: str, package: str) -> set[str]:
    """The dotted names that a module imports, wherever it does, the names taken from a module included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([package, node.module or ""]).strip(".") if node.level else node.module or ""
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


@cache
def imports_of(name: str) -> frozenset[str]:
    return frozenset(imported(MODULES[name].read_text(), name.rpartition("/")[0].replace("/", ".")))


def imports(name: str, module: str) -> bool:
    """Whether it imports that module, or one within it."""
    dotted = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return any(other == dotted or other.startswith(f"{dotted}.") for other in imports_of(name))


def outward(name: str, *layers: set[str]) -> list[str]:
    return [module for layer in layers for module in sorted(layer - {name}) if imports(name, module)]


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import a.b, c\nfrom d import e\nfrom . import f\nfrom .g import h\ndef i():\n    from j.k import l\n"
    assert imported(source, "p") == {"a.b", "c", "d", "d.e", "p", "p.f", "p.g", "p.g.h", "j.k", "j.k.l"}


def test_what_is_named_here_is_there() -> None:
    assert MODULES.keys() >= WEB | ENTRANCES
    assert {"only_post_svc/queue.py", "only_post_svc/worker/runner.py", "token_svc/accounts.py"} <= DOMAIN
    assert "only_post_svc/cli/tasks.py" in COMMANDS
    assert imports("only_post_svc/main.py", "only_post_svc/api.py")


@pytest.mark.parametrize("name", MODULES)
def test_shared_imports_no_service_and_no_service_another(name: str) -> None:
    package = name.split("/")[0]
    assert not [other for other in SERVICES if other != package and imports(name, other)]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_the_tests(name: str) -> None:
    assert not imports(name, "tests")


@pytest.mark.parametrize("name", sorted(DOMAIN))
def test_the_domain_imports_nothing_from_further_out_and_no_http(name: str) -> None:
    assert outward(name, WEB, ENTRANCES, COMMANDS) == []
    assert not [package for package in HTTP if imports(name, package)]


@pytest.mark.parametrize("name", sorted(WEB))
def test_what_answers_requests_imports_neither_entrance_nor_command(name: str) -> None:
    assert outward(name, ENTRANCES, COMMANDS) == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands_import_the_domain_alone(name: str) -> None:
    assert outward(name, WEB, ENTRANCES) == []
    assert not [package for package in HTTP if imports(name, package)]


@pytest.mark.parametrize("service", SERVICES)
def test_the_factory_imports_neither_the_command_line_nor_a_command(service: str) -> None:
    assert outward(f"{service}/main.py", {f"{service}/__main__.py"}, COMMANDS) == []


@pytest.mark.parametrize("module", ["only_post_svc", "only_post_svc.worker.runner"])
def test_the_process_that_runs_the_code_of_tasks_loads_no_web_and_no_database(module: str) -> None:
    never = (*HTTP, "jose", "psycopg", "requests")
    source = f"import sys, {module}; print([name for name in {never} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", source], cwd=ROOT, text=True, timeout=60) == "[]\n"
