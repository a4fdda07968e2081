"""The fixture that every test of the database runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.engines import ENGINES, Engine
from tests.shared.notes import SCHEMA


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with the schema of the notes."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "0001.sql").write_text(SCHEMA)
    return tmp_path


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, files: Path) -> Iterator[Engine]:
    """An empty database with the table of notes."""
    with ENGINES[request.param](files) as engine:
        yield engine
