"""What one connection can make a process hold or do: pushed against from outside, and watched in its memory, in what
it answers and in what others get meanwhile."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from shared.bodies import MAX_ARRIVING_BYTES
from shared.http.protocol import HEADERS_SECONDS, MAX_DISCARDED_BYTES, MAX_HEADERS_BYTES, MAX_WAITING
from tests.processes import HTTPService, Service, TokenService, eventually
from tests.token_svc.users import User

MEBIBYTE = 1024 * 1024
GROWTH_BYTES = 32 * MEBIBYTE  # of a process whose own allocations vary by less
SLACK_SECONDS = 6
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/types HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("tasks"), {"WORKER_PROCESSES": "1"})
    yield service
    service.kill()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    service = TokenService(tmp_path_factory.mktemp("tokens"))
    yield service
    service.kill()


def memory(service: HTTPService) -> int:
    """The bytes of memory that its process has now."""
    return int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * 4096


def connect(service: HTTPService, seconds: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=seconds)


def received(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def said(connection: socket.socket, raw: bytes) -> bytes:
    """What comes back until the end for bytes that are sent as long as the server takes them."""
    with suppress(OSError):
        connection.sendall(raw)
    with suppress(OSError):
        return received(connection)
    return b""


def pushed(connection: socket.socket, part: bytes, seconds: float) -> int:
    """How many bytes the server takes in that time."""
    connection.settimeout(0.2)
    deadline, sent = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            sent += connection.send(part)
    return sent


def polling(task_id: str) -> bytes:
    body = json.dumps({"task_id": task_id, "wait": 25}).encode()
    return b"POST /api/result HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


# Requests sent ahead


@pytest.mark.parametrize("name", ["tasks", "tokens"])
def test_what_is_sent_ahead_of_unread_answers_is_not_taken(name: str, request: pytest.FixtureRequest) -> None:
    service = request.getfixturevalue(name)
    raw = (POST if name == "tasks" else GET) * 1000
    service.request(service.health_method, "/health")
    before = memory(service)
    with connect(service) as connection:
        sent = pushed(connection, raw, 3)
        assert memory(service) - before < GROWTH_BYTES
        assert sent < 64 * MEBIBYTE  # the buffers of two sockets, and those that were answered
        assert service.request(service.health_method, "/health").elapsed.total_seconds() < 2


def test_no_more_wait_than_may_while_one_is_answered(tasks: Service) -> None:
    """A long poll, and behind it more than fits: all of them are answered, in their order."""
    poll = polling(tasks.submit("sleep", {"seconds": 1})["task_id"])
    count = 50 * MAX_WAITING
    last = POST.replace(b"Host", b"Connection: close\r\nHost")
    with connect(tasks) as connection:
        connection.sendall(poll + POST * count + last)
        answers = received(connection)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == count + 2
    assert answers.index(b'"succeeded"') < answers.index(b'"items"')


@pytest.mark.parametrize("cut", range(1, 5))
def test_heads_are_told_apart_however_they_are_cut(tasks: Service, cut: int) -> None:
    """A head that ends in another packet than it began is not taken together with the one behind it."""
    raw = POST.replace(b"Content-Length: 2\r\n", b"").removesuffix(b"{}")
    long = b"POST /api/types HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * (MAX_HEADERS_BYTES + 1000)
    with connect(tasks) as connection:
        connection.sendall(raw[:-cut])
        time.sleep(0.05)
        answers = said(connection, raw[-cut:] + long)
    assert answers.count(b"HTTP/1.1 ") in (1, 2)
    assert b" 431 " in answers or b"connection: close" in answers


# Bytes that are no body

CHUNKED = b"POST /api/types HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a request line": (b"POST /", b"a"),
    "a header": (b"POST / HTTP/1.1\r\nX-A: ", b"a"),
    "headers": (b"POST / HTTP/1.1\r\n", b"X-A: a\r\n"),
    "a chunk's extension": (CHUNKED + b"2;a=", b"a"),
    "extensions of many chunks": (CHUNKED, b"1;a=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n \r\n"),
    "a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX-A: ", b"a"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: a\r\n"),
    "a second head": (POST + b"POST / HTTP/1.1\r\nX-A: ", b"a"),
}


@pytest.mark.parametrize("size", [1000, 200_000], ids=["small pieces", "large pieces"])
@pytest.mark.parametrize("name", ENDLESS)
def test_bytes_that_are_no_body_end_the_connection(tasks: Service, name: str, size: int) -> None:
    opening, unit = ENDLESS[name]
    part = unit * (size // len(unit))
    before = memory(tasks)
    sent = 0
    with connect(tasks) as connection, suppress(OSError):
        connection.sendall(opening)
        while sent < 64 * MEBIBYTE:
            connection.sendall(part)
            sent += len(part)
    assert sent < 16 * MEBIBYTE  # the buffers of two sockets
    assert memory(tasks) - before < GROWTH_BYTES


def framed(name: str, size: int) -> bytes:
    """A request with that many bytes of a kind, whole, and the last of its connection."""
    head = "POST /api/types HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
    return {
        "a head": head + f"Content-Length: 2\r\nX-A: {'a' * size}\r\n\r\n{{}}",
        "an extension": chunked + f"2;a={'a' * size}\r\n{{}}\r\n0\r\n\r\n",
        "extensions": chunked + f"1;a={'a' * (size // 2)}\r\n{{\r\n1;a={'a' * (size // 2)}\r\n}}\r\n0\r\n\r\n",
        "a trailer": chunked + f"2\r\n{{}}\r\n0\r\nX-A: {'a' * size}\r\n\r\n",
    }[name].encode()


@pytest.mark.parametrize("name", ["a head", "an extension", "extensions", "a trailer"])
def test_the_bound_is_the_same_whatever_it_holds(tasks: Service, name: str) -> None:
    with connect(tasks) as connection:
        assert b" 200 OK" in said(connection, framed(name, MAX_HEADERS_BYTES - 1000))
    with connect(tasks) as connection:
        assert b" 431 " in said(connection, framed(name, MAX_HEADERS_BYTES + 1000))


def test_a_body_in_the_smallest_chunks_is_read_whole(tasks: Service) -> None:
    body = b'{"type": "echo", "payload": {"text": "' + b"a" * 200_000 + b'"}}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"POST /api/task HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(tasks) as connection:
        assert b" 202 Accepted" in said(connection, head + chunks)


def test_the_smallest_chunks_keep_no_other_client_waiting(tasks: Service) -> None:
    with connect(tasks) as connection, suppress(OSError):
        connection.settimeout(0.01)
        connection.sendall(CHUNKED.replace(b"/api/types", b"/api/task"))
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(pushed, connection, b"1\r\n \r\n" * 1000, 2)
            seconds = [tasks.request("POST", "/health").elapsed.total_seconds() for _ in range(10)]
            with suppress(OSError):
                sent.result()
        assert sorted(seconds)[len(seconds) // 2] < 0.25  # it was a second and more


TOO_LARGE = b"POST /api/task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"


def test_a_body_that_was_refused_is_not_read_for_long(tasks: Service) -> None:
    with connect(tasks) as connection:
        connection.sendall(TOO_LARGE)
        sent = 0
        with suppress(OSError):
            while sent < 100 * MEBIBYTE:
                connection.sendall(b" " * 65536)
                sent += 65536
    assert sent < 32 * MEBIBYTE  # what is thrown away, and the buffers of two sockets


def test_what_was_refused_is_not_kept(tasks: Service) -> None:
    before = memory(tasks)
    for _ in range(150):
        with connect(tasks) as connection:
            assert b" 413 " in said(connection, TOO_LARGE + b" " * MAX_DISCARDED_BYTES + b" " * MEBIBYTE)
    tasks.request("POST", "/health")
    assert memory(tasks) - before < GROWTH_BYTES  # it was 350 KB for each


def test_bodies_that_do_not_come_to_an_end_take_little_memory(tokens: TokenService) -> None:
    """Those of all clients together: the slowest get their 408 early, and others are read meanwhile."""
    head = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % MEBIBYTE
    before = memory(tokens)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(tokens)) for _ in range(400)]
        for connection in connections:
            connection.sendall(head + b" " * (MEBIBYTE - 1))
        assert b" 408 " in connections[0].recv(65536)
        assert User(tokens).add("x" * (MEBIBYTE // 2))["version"] == 1
        assert memory(tokens) - before < MAX_ARRIVING_BYTES + 400 * MEBIBYTE // 3  # it was 1.1 MB for each


def test_a_long_poll_does_not_keep_its_body(tasks: Service) -> None:
    body = json.dumps({"type": "echo", "payload": {"x": "x" * (MEBIBYTE - 1000)}, "delay": 3600, "wait": 25}).encode()
    head = b"POST /api/task HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    before = memory(tasks)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(tasks)).sendall(head + body)
        eventually(lambda: len(tasks.post("/api/tasks", {"limit": 200, "type": "echo"}).json()["items"]) >= 100, 60)
        assert memory(tasks) - before < 100 * MEBIBYTE  # it was two for each


def test_blank_lines_in_a_body_are_no_heads(tasks: Service) -> None:
    body = b'{"type": "echo",' + b"\r\n\r\n" * 50_000 + b'"payload": {}}'
    head = b"POST /api/task HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with connect(tasks) as connection:
        assert b" 202 Accepted" in said(connection, head % len(body) + body)


# Clients that do not go on

SLOW = {
    "says nothing": (b"", b"", b" 408 "),
    "sends a byte": (b"P", b"", b" 408 "),
    "drips": (b"POST / HTTP/1.1\r\nX-A: ", b"a", b" 408 "),
    "drips a body that was refused": (TOO_LARGE, b" ", b" 413 "),
    "drips its second head": (POST + b"POST / HTTP/1.1\r\nX-A: ", b"a", b" 408 "),
}


def outlasted(service: HTTPService, opening: bytes, drip: bytes) -> tuple[bytes, float]:
    """What is said to a client that sends its drip now and then, and when the connection ended."""
    started, raw = time.monotonic(), b""
    with connect(service, 0.5) as connection, suppress(OSError):
        connection.sendall(opening)
        while time.monotonic() - started < HEADERS_SECONDS + SLACK_SECONDS:
            with suppress(TimeoutError):
                if not (part := connection.recv(65536)):
                    break
                raw += part
            connection.sendall(drip)
    return raw, time.monotonic() - started


def unread(service: HTTPService) -> float:
    """How long a client is kept that asks for more than its buffers take, and reads nothing."""
    started = time.monotonic()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(b"POST /openapi.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" * 200)
        eventually(lambda: is_ended(connection, service), 60, every=0.5)
    return time.monotonic() - started


def is_ended(connection: socket.socket, service: HTTPService) -> bool:
    """Whether the server's end of a connection is gone, which its client does not look at."""
    local = f"{connection.getsockname()[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return not any(line[2].endswith(f":{local}") and line[3] in ("01", "08") for line in lines)


@pytest.fixture(scope="module", autouse=True)
def slow(tasks: Service) -> Iterator[dict[str, "Future[tuple[bytes, float]]"]]:
    """All of them at once, while the other tests run."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        yield {name: pool.submit(outlasted, tasks, opening, drip) for name, (opening, drip, _) in SLOW.items()}


@pytest.fixture(scope="module", autouse=True)
def stalled(tasks: Service) -> Iterator["Future[float]"]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(unread, tasks)


@pytest.mark.parametrize("name", SLOW)
def test_a_client_that_does_not_go_on_gets_a_408(slow: dict[str, "Future[tuple[bytes, float]]"], name: str) -> None:
    answers, seconds = slow[name].result()
    assert SLOW[name][2] in answers
    assert HEADERS_SECONDS - 1 < seconds < HEADERS_SECONDS + SLACK_SECONDS


def test_an_answer_that_is_not_read_is_given_up(stalled: "Future[float]") -> None:
    assert 25 < stalled.result() < 45


@pytest.fixture(scope="module")
def rich(tokens: TokenService) -> User:
    """A user with more than fits into the buffers of a connection."""
    user = User(tokens)
    for n in range(21):
        user.add([n, "x" * (MEBIBYTE - 100)])
    return user


@pytest.mark.parametrize("path", ["/me/export", "/data?limit=200"])
def test_answers_that_are_not_read_take_little_memory(rich: User, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {rich.headers['Authorization']!s}\r\n\r\n"
    before = memory(rich.service)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(rich.service)).sendall(head.encode() * 10)
        assert rich.get("/me").elapsed.total_seconds() < 10
        assert memory(rich.service) - before < 20 * 5 * MEBIBYTE  # it was 21 for each, and a copy
    eventually(lambda: rich.get("/me/export", stream=True).status_code == 200)


def test_two_exports_of_a_user_go_out_at_once(rich: User) -> None:
    other = User(rich.service)
    with ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(rich.get("/me/export", stream=True)).status_code == 200
        refused = rich.get("/me/export")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) >= 1
        assert other.get("/me/export").status_code == 200
    eventually(lambda: rich.get("/me/export", stream=True).status_code == 200)  # the places of clients that have gone


def test_an_export_is_whole_however_long_the_items_are(rich: User) -> None:
    rich.add("short")

    def exported() -> list[object]:
        answer = rich.get("/me/export")
        return [item["data"] for item in answer.json()["items"]] if answer.ok else []

    assert [data[0] for data in eventually(exported)] == [*range(21), "s"]


# Connections


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("few"), {"MAX_CONNECTIONS": "20", "WORKER_PROCESSES": "1"})
    yield service
    service.kill()


def test_the_longest_idle_ends_for_a_new_one(few: Service) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(few)) for _ in range(20)]
        for connection in idle[10:]:
            connection.sendall(POST)
            assert b" 200 " in connection.recv(65536)
        assert few.request("POST", "/health").status_code == 200
        assert received(idle[0]) == b""
        idle[-1].sendall(POST)
        assert b" 200 " in idle[-1].recv(65536)


def test_a_flood_of_connections_that_say_nothing_keeps_no_other_waiting(few: Service) -> None:
    poll = polling(few.submit("sleep", {"seconds": 1})["task_id"])
    with connect(few, 60) as waiting, ExitStack() as stack:
        waiting.sendall(poll)
        few.request("POST", "/health")  # the poll has been read by now
        for _ in range(300):
            stack.enter_context(connect(few))
        assert few.request("POST", "/health").elapsed.total_seconds() < 2
        assert b'"succeeded"' in waiting.recv(65536)  # what waits for its answer is not idle
    assert few.log.read_text().count("connections.full") == 1  # a minute


def test_where_all_wait_for_answers_a_new_one_is_told_so(few: Service) -> None:
    task_id = few.submit("sleep", {"seconds": 60})["task_id"]
    poll = polling(task_id)
    with ExitStack() as stack:

        def refused() -> Mapping[str, str] | None:
            stack.enter_context(connect(few)).sendall(poll)
            answer = few.request("POST", "/health", hooks={})
            return answer.headers if (answer.status_code, answer.json().get("code")) == (503, "busy") else None

        assert int(eventually(refused)["Retry-After"]) >= 1
    eventually(lambda: few.request("POST", "/api/cancel", json={"task_id": task_id}, hooks={}).status_code != 503)
