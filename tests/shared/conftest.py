"""The fixture that every test of the database runs on."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.engines import ENGINES, SCHEMA, Engine


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the schema of the notes, and nobody else's hints."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "0001.sql").write_text(SCHEMA)
    with tempfile.TemporaryDirectory(prefix="h") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)  # a socket's path has to be short
        yield tmp_path


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, files: Path) -> Iterator[Engine]:
    """An empty database with the table of notes."""
    with ENGINES[request.param](files) as engine:
        yield engine
