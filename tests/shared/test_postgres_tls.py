"""Encryption between a process and its PostgreSQL: asked for wherever others could listen."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.database import Database, connection
from shared.settings import SettingsError
from tests.certificates import make_certificate
from tests.postgres import Cluster, execute, new_cluster
from tests.processes import eventually

ELSEWHERE = "127.1"  # this machine by a name that does not say so
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'only_post'"


@pytest.fixture(scope="module")
def plain() -> Iterator[Cluster]:
    cluster = new_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that can encrypt."""
    cluster = new_cluster()
    cluster.stop("fast")
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    cluster.put("server.crt", certificate.read_text())
    cluster.put("server.key", key.read_text())
    cluster.put("postgresql.auto.conf", "ssl = on\n")
    cluster.start()
    yield cluster
    cluster.remove()


def url_of(cluster: Cluster, host: str, options: str = "") -> str:
    return f"postgresql://postgres@{host}/postgres{options}".replace("PORT", str(cluster.port))


def encryption(cluster: Cluster, url: str) -> set[bool]:
    """Of the connections of a database that uses all kinds of them."""

    async def use() -> set[bool]:
        database: Database = await connection.connect(url, {})
        try:
            database.subscribe("told", lambda about: None)
            await asyncio.gather(*(way(lambda tx: tx.now) for way in (database.write, database.read, database.query)))
            rows = await asyncio.to_thread(eventually, lambda: found if len(found := of(cluster)) >= 3 else None)
        finally:
            await database.close()
        return {is_encrypted for (is_encrypted,) in rows}

    eventually(lambda: not of(cluster))  # those of the test before
    return asyncio.run(use())


def of(cluster: Cluster) -> list[tuple[bool]]:
    return execute(cluster.url, ENCRYPTED)


NEAR = ["127.0.0.1:PORT", "localhost:PORT"]
FAR = [f"{ELSEWHERE}:PORT", f"127.0.0.1:1,{ELSEWHERE}:PORT"]


@pytest.mark.parametrize("host", NEAR)
def test_a_server_on_this_machine_needs_no_encryption(plain: Cluster, host: str) -> None:
    assert encryption(plain, url_of(plain, host)) == {False}


def test_nor_does_one_behind_a_socket_s_path(plain: Cluster) -> None:
    url = f"postgresql:///postgres?host={plain.directory}&port={plain.port}&user=postgres"
    assert encryption(plain, url) == {False}


@pytest.mark.parametrize("host", FAR)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_one_elsewhere_that_can_not_encrypt_is_not_spoken_to(plain: Cluster, host: str, scheme: str) -> None:
    url = url_of(plain, host).replace("postgresql", scheme, 1)
    with pytest.raises(SettingsError, match="does not support SSL"):
        asyncio.run(connection.connect(url, {}, waits=True))


@pytest.mark.parametrize("host", FAR)
def test_to_one_elsewhere_every_connection_is_encrypted(tls: Cluster, host: str) -> None:
    assert encryption(tls, url_of(tls, host)) == {True}


def test_the_url_has_the_last_word(tls: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encryption(tls, url_of(tls, FAR[0], "?sslmode=disable")) == {False}
    assert encryption(tls, url_of(tls, NEAR[0], "?sslmode=require")) == {True}
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert encryption(tls, url_of(tls, FAR[0])) == {False}


def test_a_certificate_that_does_not_verify_ends_the_start(tls: Cluster, tmp_path: Path) -> None:
    good, (bad, _) = tls.directory / "data" / "server.crt", make_certificate(tmp_path)
    options = "?sslmode=verify-ca&sslrootcert="
    assert encryption(tls, url_of(tls, FAR[0], f"{options}{good}")) == {True}
    with pytest.raises(SettingsError, match="certificate verify failed"):
        asyncio.run(connection.connect(url_of(tls, FAR[0], f"{options}{bad}"), {}, waits=True))
