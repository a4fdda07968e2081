"""Hostile clients of every kind at once, and honest ones beside them: memory stays bounded and comes back, answers come
in time, and nothing that was acknowledged is lost."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import HTTPService, Service, TokenService, eventually
from tests.token_svc.users import User

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "3"))
MEBIBYTE = 1024 * 1024
GROWTH_BYTES = 150 * MEBIBYTE
LEFT_BYTES = 75 * MEBIBYTE  # that the allocator keeps of it
ANSWER_SECONDS = 10  # what no honest request may take, on a machine that is busy with the attack itself
IDLE = 400
HOST = "Host: localhost\r\n"
LONG = "a" * 60_000

Attack = Callable[[HTTPService, threading.Event], None]


def memory(service: HTTPService) -> int:
    return int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * 4096


def pushing(opening: str, part: str, address: str) -> Attack:
    """Sends one part after another for as long as the server takes them, then begins again. It reads nothing."""

    def attack(service: HTTPService, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            with suppress(OSError), socket.socket() as connection:
                connection.bind((address, 0))
                connection.settimeout(0.5)
                connection.connect(("127.0.0.1", service.port))
                connection.sendall(opening.encode())
                while not stop.is_set():
                    with suppress(TimeoutError):
                        connection.send(part.encode())

    return attack


def silent(service: HTTPService, stop: threading.Event) -> None:
    """Keeps many connections open that say nothing, and opens new ones for those that end."""
    with ExitStack() as stack:
        while not stop.wait(0.02):
            with suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=1))


def chunked(method_and_path: str) -> str:
    return f"{method_and_path} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"


def unread(user: User, path: str) -> Attack:
    """Asks for long answers and reads none of them."""
    lines = f"GET {path} HTTP/1.1\r\n{HOST}Authorization: {user.headers['Authorization']!s}\r\n\r\n"

    def attack(service: HTTPService, stop: threading.Event) -> None:
        with ExitStack() as stack:
            for _ in range(30):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
                connection.sendall(lines.encode() * 4)
            stop.wait()

    return attack


def attacks_on(path: str, ask: str) -> list[Attack]:
    return [
        pushing("", ask * 500, "127.0.0.2"),
        pushing(f"POST {path} HTTP/1.1\r\nX-A: ", LONG, "127.0.0.3"),
        pushing(chunked(f"POST {path}") + "2;a=", LONG, "127.0.0.4"),
        pushing(chunked(f"POST {path}") + "2\r\n{}\r\n0\r\nX-A: ", LONG, "127.0.0.5"),
        pushing(chunked(f"POST {path}"), "1\r\n \r\n" * 1000, "127.0.0.6"),
        pushing(f"POST {path} HTTP/1.1\r\n{HOST}Content-Length: 1000000000\r\n\r\n", LONG, "127.0.0.7"),
        silent,
    ]


@dataclass
class Honest:
    """What an honest client was told, and how long it took."""

    acknowledged: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds.append(time.monotonic() - started)

    def assert_answered(self) -> None:
        assert len(self.seconds) > SECONDS / 2, "it did not come to say much"
        assert max(self.seconds) < ANSWER_SECONDS, sorted(self.seconds)[-5:]


def submit(service: Service, stop: threading.Event) -> Honest:
    honest = Honest()
    while not stop.wait(0.02):
        with honest.timed():
            honest.acknowledged.append(service.submit("echo", {"n": len(honest.acknowledged)})["task_id"])
    return honest


def store(user: User, stop: threading.Event) -> Honest:
    honest = Honest()
    for n in itertools.count():
        if stop.wait(0.02):
            return honest
        with honest.timed():
            honest.acknowledged.append(user.add(n)["id"])
    raise AssertionError


def watched(service: HTTPService, stop: threading.Event) -> int:
    """The most that a process had."""
    most = 0
    while not stop.wait(0.1):
        most = max(most, memory(service))
    return most


def endure(service: HTTPService, attacks: list[Attack], client: Callable[[threading.Event], Honest]) -> Honest:
    """What the honest client was told during the attacks."""
    stop = threading.Event()
    before = memory(service)
    with ThreadPoolExecutor(len(attacks) + 2) as pool:
        most = pool.submit(watched, service, stop)
        honest = pool.submit(client, stop)
        hostile = [pool.submit(attack, service, stop) for attack in attacks]
        stop.wait(SECONDS)
        stop.set()
    for one in hostile:
        one.result()
    assert most.result() - before < GROWTH_BYTES
    eventually(lambda: memory(service) - before < LEFT_BYTES, 60, every=0.5)
    return honest.result()


def test_the_post_only_service_endures_them(tmp_path: Path) -> None:
    service = Service(tmp_path, {"WORKER_PROCESSES": "1", "MAX_CONNECTIONS": str(IDLE), "LOG_LEVEL": "warning"})
    try:
        ask = f"POST /api/types HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\n{{}}"
        honest = endure(service, attacks_on("/api/task", ask), lambda stop: submit(service, stop))
        honest.assert_answered()
        for n, task_id in enumerate(honest.acknowledged):
            assert service.ended(task_id)["result"] == {"n": n}
    finally:
        service.kill()


def test_the_token_service_endures_them(tmp_path: Path) -> None:
    service = TokenService(tmp_path, {"MAX_CONNECTIONS": str(IDLE), "LOG_LEVEL": "warning"})
    try:
        rich, user = User(service), User(service)
        for n in range(21):
            rich.add([n, "x" * (MEBIBYTE - 100)])
        ask = f"GET /openapi.json HTTP/1.1\r\n{HOST}\r\n"
        attacks = [*attacks_on("/token", ask), unread(rich, "/me/export"), unread(rich, "/data?limit=200")]
        honest = endure(service, attacks, lambda stop: store(user, stop))
        honest.assert_answered()
        found = {item["id"] for item in user.get("/me/export").json()["items"]}
        assert set(honest.acknowledged) <= found
    finally:
        service.kill()
