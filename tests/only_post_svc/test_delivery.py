"""One POST to a receiver, whatever the receiver does and wherever its name leads."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from only_post_svc.webhooks import ANYWHERE, Address, Receivers, is_public
from only_post_svc.worker import delivery
from only_post_svc.worker.delivery import Failed, Post, deliver
from tests.certificates import make_certificate
from tests.receivers import Receiver, receiving

IN_PRODUCTION = Receivers(is_production=True)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def send(url: str, receivers: Receivers = ANYWHERE, seconds: float = 5, leads_to: str = "") -> int:
    async def resolve(host: str, port: int) -> list[Address]:
        return [ipaddress.ip_address(leads_to)] if leads_to else await delivery.resolve(host, port)

    post = Post(url, {"webhook-id": "1"}, b"{}")
    return asyncio.run(deliver(post, receivers, resolve=resolve, seconds=seconds))


@pytest.mark.parametrize("status", [200, 204, 299, 400, 410, 500])
def test_the_status_is_all_that_is_known_of_an_answer(receiver: Receiver, status: int) -> None:
    assert send(f"{receiver.url}/answer/{status}") == status


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    assert send(f"{receiver.url}/redirect") == 302
    assert not receiver.of("/secret") and not receiver.of("GET /secret")


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_the_time_is_for_the_whole_however_slow_the_answer(receiver: Receiver, kind: str) -> None:
    started = time.monotonic()
    with pytest.raises(Failed, match="no answer within 1 s"):
        send(f"{receiver.url}/{kind}", seconds=1)
    assert time.monotonic() - started < 10  # not the 60 that it would go on for


def test_an_endless_answer_is_left_alone(receiver: Receiver) -> None:
    assert send(f"{receiver.url}/flood") == 204


@pytest.mark.parametrize("kind", ["close", "noise"])
def test_what_is_no_answer_is_a_failure(receiver: Receiver, kind: str) -> None:
    with pytest.raises(Failed, match="no HTTP"):
        send(f"{receiver.url}/{kind}")


def test_where_there_is_no_receiver_is_a_failure() -> None:
    for url in ("http://127.0.0.1:1/", "http://name.invalid/"):
        with pytest.raises(Failed, match="no connection"):
            send(url)


INSIDE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1"),
    *("fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8"),
    *("64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "2001:db8::1", "2001:0:a00:1::1", "100::1"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_in_production_nothing_inside_is_connected_to(receiver: Receiver, address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(Failed, match="not a public address"):
        send(f"http://receiver.example:{receiver.port}/inside", IN_PRODUCTION, leads_to=address)
    assert not receiver.of("/inside")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1"])
def test_what_is_public_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_in_production_this_machine_is_refused_however_it_is_written(receiver: Receiver, host: str) -> None:
    with pytest.raises(Failed, match="not a public address"):
        send(f"http://{host}:{receiver.port}/here", IN_PRODUCTION)
    assert not receiver.of("/here")


def test_a_named_host_may_be_inside(receiver: Receiver) -> None:
    named = Receivers(frozenset({"localhost"}), is_production=True)
    assert send(f"http://LocalHost:{receiver.port}/answer/200", named) == 200


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(receiver: Receiver) -> None:
    """DNS rebinding: the second look-up would lead elsewhere."""
    looked_up: list[str] = []

    async def resolve(host: str, port: int) -> list[Address]:
        looked_up.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(looked_up) == 1 else "127.0.0.2")]

    url = f"http://rebinding.example:{receiver.port}/answer/200"
    assert asyncio.run(deliver(Post(url, {}, b"{}"), ANYWHERE, resolve=resolve)) == 200
    assert looked_up == ["rebinding.example"]
    assert receiver.got[-1].headers["Host"] == f"rebinding.example:{receiver.port}"


def test_of_several_addresses_only_those_that_may_be_are_tried(receiver: Receiver) -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        return [ipaddress.ip_address(one) for one in ("10.0.0.1", "127.0.0.1")]

    with pytest.raises(Failed, match="not a public address"):
        asyncio.run(deliver(Post(f"http://both.example:{receiver.port}/", {}, b"{}"), IN_PRODUCTION, resolve=resolve))


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(f"{receiver.url}/answer/200") == 200


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Has deliveries take what this certificate has signed."""

    def trust(certificate: Path) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        delivery.client_tls.cache_clear()

    yield trust
    delivery.client_tls.cache_clear()


def test_the_certificate_has_to_be_of_the_name_that_was_asked_for(
    tmp_path: Path, trust: Callable[[Path], None]
) -> None:
    async def work(host: str) -> int:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
        names: list[str | None] = []
        tls.sni_callback = lambda connection, name, context: names.append(name)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async def resolve(host: str, port: int) -> list[Address]:
            return [ipaddress.ip_address("127.0.0.1")]

        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            status = await deliver(Post(f"https://{host}:{port}/", {}, b"{}"), ANYWHERE, resolve=resolve)
        assert names == [host]
        return status

    certificate, key = make_certificate(tmp_path)
    with pytest.raises(Failed, match="TLS"):
        asyncio.run(work("receiver.example"))  # signed by an authority that is not known
    trust(certificate)
    assert asyncio.run(work("receiver.example")) == 200
    with pytest.raises(Failed, match="TLS"):
        asyncio.run(work("other.example"))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://a.example/",
            "//a.example/",
            "a.example",
            "https://",
            "https:///x",
            "https://a.example:0/",
            "https://a b/",
        ),
        *("https://user@a.example/", "https://a.example:99999/", "https://a.example:/", "https://a.example/\r\nX: 1"),
        *(
            "https://bücher.example/",
            "https://a.example/#x",
            "https://[::1",
            "https://[fe80::1%25eth0]/",
            "https://a\\@b/",
        ),
        f"https://a.example/{'x' * 2048}",
    ],
    ids=ascii,
)
def test_a_url_that_is_none_is_told_at_once(url: str) -> None:
    assert ANYWHERE.fault(url) is not None


def test_in_production_it_is_https_or_named() -> None:
    assert IN_PRODUCTION.fault("http://a.example/") is not None
    assert IN_PRODUCTION.fault("https://a.example:8443/path?query=1") is None
    assert Receivers(frozenset({"a.example"}), is_production=True).fault("http://A.example:8000/") is None
    assert ANYWHERE.fault("http://127.0.0.1:8000/") is None
    assert ANYWHERE.fault("http://[::1]:8000/") is None
