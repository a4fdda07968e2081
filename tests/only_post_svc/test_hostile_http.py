"""Whatever comes in, no answer is a 5xx, all errors have one shape, and the service goes on."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from only_post_svc import api
from tests.databases import ON_A_FILE
from tests.only_post_svc.wire import (
    JSON,
    MAX_BODY_BYTES,
    Answer,
    assert_problem,
    assert_standard,
    connect,
    parsed,
    received,
    request,
    send,
    talk,
)
from tests.processes import Service
from tests.shared.test_bodies import REFUSED

pytestmark = [ON_A_FILE, pytest.mark.usefixtures("no_error_is_logged", "slow")]

PATHS = [route.path for route in api.routes(health_get=False)]
TAKE_ANYTHING = ("/health", "/metrics", "/openapi.json")  # any object, or no body at all
TAKE_NOTHING = (*TAKE_ANYTHING, "/api/types")
HEADERS_SECONDS = 15
BODY_SECONDS = 30
SLACK_SECONDS = 6


def answered(connection: socket.socket, drip: bytes, seconds: float) -> tuple[list[Answer], float]:
    """What the server says to a client that sends `drip` every half second, and when it ends."""
    started = time.monotonic()
    raw = b""
    connection.settimeout(0.5)
    while time.monotonic() - started < seconds:
        try:
            part = connection.recv(65536)
            if not part:
                break
            raw += part
        except TimeoutError:
            try:
                connection.sendall(drip)
            except OSError:
                break
        except ConnectionResetError:
            break
    return parsed(raw), time.monotonic() - started


HEAD = b"POST /api/types HTTP/1.1\r\nHost: localhost\r\n"
SLOW: dict[str, tuple[bytes, bytes, int]] = {
    "headers that drip": (b"POST /api/types HTTP/1.1\r\nX-A: ", b"a", HEADERS_SECONDS),
    "headers that stop": (b"POST /api/ty", b"", HEADERS_SECONDS),
    "headers that never end": (HEAD, b"X-A: b\r\n", HEADERS_SECONDS),
    "a body that drips": (HEAD + b"Content-Length: 1000\r\n\r\n{", b" ", BODY_SECONDS),
    "a body that stops": (HEAD + b"Content-Length: 1000\r\n\r\n{", b"", BODY_SECONDS),
    "a body that never starts": (HEAD + b"Content-Length: 1000\r\n\r\n", b"", BODY_SECONDS),
    "a chunked body that drips": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", BODY_SECONDS),
    "trailers that never end": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        b"X-A: b\r\n",
        BODY_SECONDS,
    ),
}


@pytest.fixture(scope="module")
def slow(service: Service) -> Iterator[dict[str, "Future[tuple[list[Answer], float]]"]]:
    def run(opening: bytes, drip: bytes, seconds: int) -> tuple[list[Answer], float]:
        with connect(service) as connection:
            connection.sendall(opening)
            return answered(connection, drip, seconds + SLACK_SECONDS)

    with ThreadPoolExecutor(len(SLOW)) as pool:
        yield {name: pool.submit(run, *case) for name, case in SLOW.items()}


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_json_is_a_400_on_every_route(service: Service, path: str) -> None:
    for name, body in REFUSED.items():
        if path not in TAKE_NOTHING or name != "nothing":
            print(name)  # shown where it fails
            assert_problem(send(service, path, body, JSON), 400, "invalid_json")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"[]", b"1", b'"text"', b"null", b"false", b"-0.0"])
def test_json_that_is_no_object_is_a_422_on_every_route(service: Service, path: str, body: bytes) -> None:
    answer = send(service, path, body, JSON)
    assert_problem(answer, 422, "invalid_request")
    assert answer.problem["errors"] == [{"pointer": "", "detail": "must be an object"}]


@pytest.mark.parametrize("path", [path for path in PATHS if path not in TAKE_ANYTHING])
@pytest.mark.parametrize("name", ["unknown", "a/b~c", "é", "__proto__", ""])
def test_an_unknown_member_is_a_422_that_points_at_it_on_every_route(service: Service, path: str, name: str) -> None:
    answer = send(service, path, json.dumps({name: 1}).encode(), JSON)
    assert_problem(answer, 422, "invalid_request")
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    assert {"pointer": pointer, "detail": "unknown"} in answer.problem["errors"]


MEDIA_TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "x"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_another_media_type_is_a_415_on_every_route(service: Service, path: str, media_type: str) -> None:
    answer = send(service, path, b"{}", {"Content-Type": media_type})
    assert_problem(answer, 415, "unsupported_media_type")
    assert "curl --json" in answer.problem["detail"]


@pytest.mark.parametrize("path", PATHS)
def test_a_compressed_body_is_a_415_on_every_route(service: Service, path: str) -> None:
    assert_problem(send(service, path, gzip.compress(b"{}"), {**JSON, "Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize("path", PATHS)
def test_a_declared_length_above_the_limit_is_a_413_at_once_on_every_route(service: Service, path: str) -> None:
    (answer,) = talk(service, request("POST", path, f"Content-Length: {MAX_BODY_BYTES + 1}", body=b""))
    assert_problem(answer, 413, "body_too_large")


def test_a_body_of_exactly_the_limit_is_read(service: Service) -> None:
    assert_standard(answer := send(service, "/api/types", b"{}".ljust(MAX_BODY_BYTES), JSON))
    assert answer.status == 200
    assert_problem(send(service, "/api/types", b"{}".ljust(MAX_BODY_BYTES + 1), JSON), 413, "body_too_large")


@pytest.mark.parametrize("path", PATHS)
def test_a_chunked_body_without_end_is_a_413_once_it_is_too_large(service: Service, path: str) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connect(service) as connection:
        connection.sendall(request("POST", path, "Transfer-Encoding: chunked", body=b""))
        sent = 0
        try:
            while sent < 64 * MAX_BODY_BYTES:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        try:
            answers = parsed(received(connection))
        except OSError:
            answers = []
    assert sent < 16 * MAX_BODY_BYTES  # the buffers of two sockets and the limit
    for answer in answers:
        assert_problem(answer, 413, "body_too_large")


def test_a_chunked_body_above_the_limit_is_told_so(service: Service) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connect(service) as connection:
        connection.sendall(request("POST", "/api/types", "Transfer-Encoding: chunked", body=chunk * 16 + b"1\r\n \r\n"))
        connection.settimeout(10)
        raw = connection.recv(65536)
        while not parsed(raw)[0].body:  # the head may come for itself
            raw += connection.recv(65536)
    (answer,) = parsed(raw)
    assert_problem(answer, 413, "body_too_large")


METHODS = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "PURGE", "QUERY"]
MADE_UP = ["FOO", "post", "Post", "POSTT", "POS", "X", "GET-POST", "BREW", "A" * 1000, "!#$%&'*+-.^_`|~"]


@pytest.mark.parametrize("path", ["/api/task", "/health", "/", "/unknown", "/api/task/", "/%00"])
@pytest.mark.parametrize("method", [*METHODS, *MADE_UP], ids=lambda method: method[:20])
def test_any_other_method_on_any_path_is_a_405_that_allows_post(service: Service, method: str, path: str) -> None:
    (answer,) = talk(service, request(method, path))
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/api/task", "/health", "/unknown"])
def test_head_is_a_405_without_a_body(service: Service, path: str) -> None:
    (answer,) = talk(service, request("HEAD", path, body=b""), of_head=True)
    assert_standard(answer)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_405_comes_before_any_other_check(service: Service) -> None:
    lines = ("Content-Type: text/plain", "Content-Type: x", f"Content-Length: {MAX_BODY_BYTES + 1}")
    (answer,) = talk(service, request("PUT", "/unknown", *lines, body=b""))
    assert_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("target", ["*", "example.com:443", "/"])
@pytest.mark.parametrize("method", ["OPTIONS", "CONNECT"])
def test_the_odd_targets_of_options_and_connect_are_refused(service: Service, method: str, target: str) -> None:
    for answer in talk(service, request(method, target, body=b"")):
        assert answer.status in (400, 405)
        assert_problem(answer, answer.status)


def test_a_websocket_is_refused(service: Service) -> None:
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    head = request("GET", "/api/task", *upgrade, body=b"").replace(b"Connection: close", b"Connection: close, Upgrade")
    answer = talk(service, head)[0]
    assert_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "x"])
def test_a_post_that_offers_an_upgrade_is_answered_in_http_1(service: Service, protocol: str) -> None:
    raw = request("POST", "/api/types", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__")
    answers = talk(service, raw.replace(b"Connection: close", b"Connection: close, Upgrade, HTTP2-Settings"))
    assert [answer.status for answer in answers] == [200]


UNKNOWN = ["/", "/api/task/", "/api//task", "//api/task", "/api/task/x", "/API/TASK", "/health/", "/api/task%00"]
ODD_PATHS = [
    "/%00",
    "/%ff%fe",
    "/%2e%2e/etc/passwd",
    "/../../etc/passwd",
    "/api%2Ftask%20",
    "/" + "a" * 20_000,
    "/?",
    "/;",
]


@pytest.mark.parametrize("path", [*UNKNOWN, *ODD_PATHS], ids=lambda path: path[:30])
def test_an_unknown_path_is_a_404_and_never_a_redirect(service: Service, path: str) -> None:
    (answer,) = talk(service, request("POST", path))
    assert_problem(answer, 404, "not_found")
    assert "location" not in answer.headers


MALFORMED: dict[str, bytes] = {
    "a length beside chunks": request(
        "POST", "/api/types", "Content-Length: 2", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunks beside a length": request(
        "POST", "/api/types", "Transfer-Encoding: chunked", "Content-Length: 2", body=b"0\r\n\r\n"
    ),
    "two lengths": request("POST", "/api/types", "Content-Length: 2", "Content-Length: 3", body=b"{} "),
    "the same length twice": request("POST", "/api/types", "Content-Length: 2", "Content-Length: 2"),
    "a list of lengths": request("POST", "/api/types", "Content-Length: 2, 2"),
    "a negative length": request("POST", "/api/types", "Content-Length: -1"),
    "a signed length": request("POST", "/api/types", "Content-Length: +2"),
    "a hexadecimal length": request("POST", "/api/types", "Content-Length: 0x2"),
    "a length of 30 digits": request("POST", "/api/types", "Content-Length: " + "9" * 30),
    "xchunked": request("POST", "/api/types", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked, then identity": request("POST", "/api/types", "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "a chunk of no size": request("POST", "/api/types", "Transfer-Encoding: chunked", body=b"\r\n\r\n"),
    "a chunk of a bad size": request("POST", "/api/types", "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk too large": request(
        "POST", "/api/types", "Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"
    ),
    "a chunk that is longer": request("POST", "/api/types", "Transfer-Encoding: chunked", body=b"1\r\n{}\r\n0\r\n\r\n"),
    "a space before the colon": request("POST", "/api/types", "X-A : b"),
    "a space before the length's colon": request("POST", "/api/types", "Content-Length : 2"),
    "a line of no header": request("POST", "/api/types", "nonsense"),
    "a header of no name": request("POST", "/api/types", ": x"),
    "NUL in a value": request("POST", "/api/types", "X-A: a\0b"),
    "NUL in a name": request("POST", "/api/types", "X\0A: b"),
    "a bare CR in a value": request("POST", "/api/types", "X-A: a\rb"),
    "line feeds alone": request().replace(b"\r\n", b"\n"),
    "a folded line": request("POST", "/api/types", "X-A: a\r\n b: c"),
    "a folded first line": request("POST", "/api/types", host=" Host: localhost"),
    "two hosts": request("POST", "/api/types", "Host: y"),
    "two content types": request("POST", "/api/types", "Content-Type: application/json", "Content-Type: text/plain"),
    "two idempotency keys": request("POST", "/api/types", "Idempotency-Key: a", "Idempotency-Key: b"),
    "a name of two headers in two cases": request("POST", "/api/types", "AUTHORIZATION: a", "authorization: b"),
    "another protocol": b"POST /api/types HTCPCP/1.0\r\nHost: localhost\r\n\r\n",
    "HTTP 9.9": b"POST /api/types HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 200,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": b"\0" * 1000,
    "bytes": bytes(range(256)) * 4,
    "no path": b"POST HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path of no slash": b"POST api/types HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"POST /api types HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "raw bytes in the path": b"POST /\xff\xfe HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_a_400_or_less_and_ends_the_connection(service: Service, name: str) -> None:
    answers = talk(service, MALFORMED[name])
    assert len(answers) == 1, answers
    if name in ("HTTP 2", "TLS", "SSH", "zeros", "bytes", "raw bytes in the path"):
        assert answers[0].status in (400, 404, 405)
        assert_problem(answers[0], answers[0].status)
    else:
        assert_problem(answers[0], 400)


SMUGGLED = request("POST", "/api/task", body=b'{"type":"echo"}')


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Content-Length: 2", "Content-Length: 200"),
        ("Host: y", "Content-Length: 5"),
    ],
    ids=str,
)
def test_no_second_request_is_smuggled_behind_an_ambiguous_one(service: Service, lines: tuple[str, ...]) -> None:
    first = request("POST", "/api/types", *lines, body=b"0\r\n\r\n").replace(b"Connection: close\r\n", b"")
    with connect(service) as connection:
        connection.sendall(first + SMUGGLED)
        answers = parsed(received(connection))
    assert answers[0].status == 400
    if "Host: y" not in lines:  # the one that is well framed
        assert len(answers) == 1


def test_trailers_are_no_headers(service: Service) -> None:
    body = b"2\r\n{}\r\n0\r\nX-Request-ID: from-a-trailer\r\nContent-Type: text/plain\r\nHost: y\r\n\r\n"
    (answer,) = talk(service, request("POST", "/api/types", "Transfer-Encoding: chunked", body=body))
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "from-a-trailer"


def test_a_header_of_100_kb_is_refused_or_ignored(service: Service) -> None:
    for name in ("X-A", "Authorization", "X-Request-ID", "Idempotency-Key", "Cookie"):
        for answer in talk(service, request("POST", "/api/types", f"{name}: {'a' * 100_000}")):
            assert_standard(answer)
            assert answer.status in (200, 400, 431)


def test_headers_without_end_are_a_431(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(HEAD)
        sent = 0
        try:
            while sent < 64 * MAX_BODY_BYTES:
                connection.sendall(b"X-A: " + b"b" * 1000 + b"\r\n")
                sent += 1007
        except OSError:
            pass
        try:
            answers = parsed(received(connection))
        except OSError:
            answers = []
    assert sent < 16 * MAX_BODY_BYTES
    for answer in answers:
        assert_problem(answer, 431)


def test_a_body_longer_than_declared_is_no_part_of_the_request(service: Service) -> None:
    raw = request("POST", "/api/types", "Content-Length: 2", body=b"{}trailing").replace(b"Connection: close\r\n", b"")
    answers = talk(service, raw)
    assert answers[0].status == 200
    assert len(answers) == 1


def test_requests_in_one_packet_are_answered_in_order(service: Service) -> None:
    kept = [request("POST", path).replace(b"Connection: close\r\n", b"") for path in ("/api/types", "/x", "/api/tasks")]
    answers = talk(service, b"".join(kept) + request("PUT", "/"))
    assert [answer.status for answer in answers] == [200, 404, 200, 405]
    for answer in answers:
        assert_standard(answer)


def test_a_request_in_single_bytes_is_answered(service: Service) -> None:
    (answer,) = talk(service, *(bytes([byte]) for byte in request("POST", "/api/types")))
    assert answer.status == 200


def test_http_1_0_and_expect_are_understood(service: Service) -> None:
    (old,) = talk(service, b"POST /api/types HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    (expecting,) = talk(service, request("POST", "/api/types", "Expect: 100-continue"))
    assert (old.status, expecting.status) == (200, 200)


@pytest.mark.parametrize("sent", ["a" * 8, "a" * 200, "AZaz09._+/=-", "00000000"])
def test_the_callers_request_id_is_kept(service: Service, sent: str) -> None:
    (answer,) = talk(service, request("POST", "/unknown", f"X-Request-ID: {sent}"))
    assert_problem(answer, 404)
    assert answer.headers["x-request-id"] == sent


@pytest.mark.parametrize(
    "sent", ["", "short12", "a" * 201, "with space", "semi;colon", "<script>", "é" * 10, '"quoted-id"']
)
def test_any_other_request_id_is_replaced(service: Service, sent: str) -> None:
    (answer,) = talk(service, request("POST", "/unknown", f"X-Request-ID: {sent}"))
    assert_problem(answer, 404)
    assert answer.headers["x-request-id"] != sent


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_client_is_let_go(slow: dict[str, "Future[tuple[list[Answer], float]]"], name: str) -> None:
    answers, seconds = slow[name].result()
    assert seconds < SLOW[name][2] + SLACK_SECONDS - 1
    for answer in answers:
        assert_problem(answer, 408, "request_timeout")
