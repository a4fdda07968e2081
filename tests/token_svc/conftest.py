"""Fixtures: the token service as a process, its users, and its tables under a clock that the test moves."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.database.connection import SHARED_SCHEMA
from tests.databases import settings_of
from tests.processes import TokenService
from tests.token_svc.tables import Tables
from tests.token_svc.users import User
from token_svc.main import SCHEMA


@pytest.fixture(scope="session")
def tokens(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    """One token service without rate limits, shared by all tests that break nothing."""
    with settings_of(storage) as database:
        service = TokenService(tmp_path_factory.mktemp("tokens"), database)
        yield service
        service.kill()


@pytest.fixture
def start_tokens(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., TokenService]]:
    """Starts a service with settings of its own: `start_tokens(REGISTRATION="closed")`."""
    started: list[TokenService] = []

    def start(**env: str) -> TokenService:
        started.append(TokenService(tmp_path, database | env))
        return started[-1]

    yield start
    for service in started:
        service.kill()


@pytest.fixture
def user(tokens: TokenService) -> User:
    return User(tokens)


@pytest.fixture
def other(tokens: TokenService) -> User:
    return User(tokens)


@pytest.fixture
def tables() -> Iterator[Tables]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for directory in (SHARED_SCHEMA, SCHEMA):
            for file in sorted(directory.glob("*.sql")):
                if ".postgresql" not in file.suffixes:
                    connection.executescript(file.read_text())
        yield Tables(connection)
