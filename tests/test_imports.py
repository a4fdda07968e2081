"""Imports point one way: api → domain → shared."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

SERVICES = ("only_post_svc", "token_svc")
WEB = {"main", "__main__", "api"}
DOMAIN = {"registry", "queue", "worker", "runner", "builtin", "accounts", "passwords", "sessions", "items"}
MODULES = [path for package in ("shared", *SERVICES) for path in sorted((ROOT / package).rglob("*.py"))]


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


def imports_of(path: Path) -> set[str]:
    return imported(path.read_text(), path.parent.relative_to(ROOT).as_posix().replace("/", "."))


def within(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(f"{package}.")}


def of_service() -> Iterator[tuple[str, Path]]:
    for path in MODULES:
        service = path.relative_to(ROOT).parts[0]
        if service in SERVICES:
            yield service, path


PATHS = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
IN_SERVICES = pytest.mark.parametrize(
    ("service", "path"), list(of_service()), ids=lambda value: value if isinstance(value, str) else value.name
)


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import a.b, c\nfrom d import e\nfrom . import f\nfrom .g import h\ndef i():\n    from j.k import l\n"
    assert imported(source, "p") == {"a.b", "c", "d", "d.e", "p", "p.f", "p.g", "p.g.h", "j.k", "j.k.l"}


def test_there_is_something_to_read() -> None:
    assert {"shared", "only_post_svc"} <= {path.relative_to(ROOT).parts[0] for path in MODULES}


@PATHS
def test_shared_imports_no_service(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "shared":
        assert not any(within(imports_of(path), service) for service in SERVICES)


@IN_SERVICES
def test_no_service_imports_another(service: str, path: Path) -> None:
    assert not any(within(imports_of(path), other) for other in SERVICES if other != service)


@PATHS
def test_nothing_imports_the_tests(path: Path) -> None:
    assert not within(imports_of(path), "tests")


@IN_SERVICES
def test_only_the_command_line_and_the_factory_import_from_further_out(service: str, path: Path) -> None:
    allowed = {"__main__": {"main", "api"}, "main": {"api"}}.get(path.stem, set())
    outward = {layer for layer in WEB if within(imports_of(path), f"{service}.{layer}")}
    assert outward <= allowed


@IN_SERVICES
def test_the_domain_knows_nothing_of_http(service: str, path: Path) -> None:
    web = within(imports_of(path), "starlette") | within(imports_of(path), "uvicorn")
    if path.stem in DOMAIN:
        assert not web
