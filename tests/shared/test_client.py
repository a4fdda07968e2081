"""What both clients do about a service that is busy, gone, or no longer takes a token."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from shared.client import Bearer, ClientCredentials, NotReached, Service, ServiceError
from tests.processes import free_port

Answer = tuple[int, dict[str, str], Any]
Answering = Callable[[str, dict[str, str], str], Answer | None]  # path, headers and body; None breaks the connection


class Server:
    """A real HTTP server that answers as it is told."""

    def __init__(self, answering: Answering) -> None:
        self.requests: list[tuple[str, dict[str, str], str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                asked = (self.path, dict(self.headers), body)
                outer.requests.append(asked)
                answer = answering(*asked)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, value = answer
                written = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in {"Content-Length": str(len(written)), **headers}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


Serve = Callable[[Answering], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Server] = []

    def start(answering: Answering) -> Server:
        started.append(Server(answering))
        return started[-1]

    yield start
    for server in started:
        server.close()


def in_turn(*answers: Answer | None) -> Answering:
    left = iter(answers)
    return lambda *asked: next(left)


BUSY: Answer = (503, {"Retry-After": "0"}, {"code": "busy"})
CUT_OFF: Answer = (200, {"Content-Length": "1000", "Connection": "close"}, {"fine": False})
FINE: Answer = (200, {}, {"fine": True})


def test_a_busy_service_and_a_broken_connection_are_tried_again_with_the_same_key(serve: Serve) -> None:
    server = serve(in_turn(BUSY, None, (429, {"Retry-After": "0"}, {}), FINE))
    with Service(server.url) as service:
        answer = service.call("POST", "/api/task", {"type": "echo"}, headers={"Idempotency-Key": "k"})
    assert answer.json() == {"fine": True}
    assert [headers["Idempotency-Key"] for _, headers, _ in server.requests] == ["k"] * 4


def test_an_answer_that_is_cut_off_is_fetched_again(serve: Serve) -> None:
    server = serve(in_turn(CUT_OFF, FINE))
    with Service(server.url) as service:
        assert service.call("POST", "/api/result", {}).json() == {"fine": True}


def test_answers_that_are_all_cut_off_are_no_answer(serve: Serve) -> None:
    server = serve(lambda *asked: CUT_OFF)
    with Service(server.url, retry_seconds=0.2) as service, pytest.raises(NotReached):
        service.call("POST", "/api/result", {})


@pytest.mark.parametrize("said", ["Fri, 31 Dec 1999 23:59:59 GMT", "soon", "", "-1", "²", "1" * 400 + "x"])
def test_a_service_that_is_busy_until_a_past_date_or_an_unreadable_one_is_tried_again(serve: Serve, said: str) -> None:
    server = serve(in_turn((503, {"Retry-After": said}, {}), FINE))
    with Service(server.url) as service:
        assert service.call("POST", "/api/task", {}).json() == {"fine": True}


@pytest.mark.parametrize("said", ["Fri, 31 Dec 9999 23:59:59 GMT", "9" * 400])
def test_a_service_that_is_busy_for_longer_than_retries_go_on_is_an_error_at_once(serve: Serve, said: str) -> None:
    server = serve(lambda *asked: (503, {"Retry-After": said}, {"code": "busy"}))
    with Service(server.url) as service, pytest.raises(ServiceError):
        service.call("POST", "/api/task", {})
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["localhost:9003", "http://"])
def test_a_url_that_is_none_is_not_reached(url: str) -> None:
    with Service(url) as service, pytest.raises(NotReached):
        service.call("POST", "/api/task", {})


@pytest.mark.parametrize("said", [b"<html>", b"", b"[]"])
def test_an_answer_that_is_not_the_services_is_not_reached(serve: Serve, said: bytes) -> None:
    server = serve(lambda *asked: (200, {}, said))
    with Service(server.url) as service, pytest.raises(NotReached, match="no JSON object"):
        service.fetch("POST", "/api/task", {})


def test_an_error_that_another_try_cannot_mend_is_raised_at_once_with_what_it_says(serve: Serve) -> None:
    told = {
        "code": "invalid_request",
        "detail": "type: required",
        "request_id": "r" * 8,
        "errors": [{"pointer": "/type"}],
    }
    server = serve(in_turn((422, {}, told)))
    with Service(server.url) as service, pytest.raises(ServiceError) as raised:
        service.call("POST", "/api/task", {})
    error = raised.value
    assert (error.status, error.code, error.request_id) == (422, "invalid_request", "r" * 8)
    assert error.errors == [{"pointer": "/type"}]


def test_an_answer_that_is_no_json_is_an_error_all_the_same(serve: Serve) -> None:
    server = serve(in_turn((404, {}, "not an object")))
    with Service(server.url) as service, pytest.raises(ServiceError) as raised:
        service.call("POST", "/", {})
    assert (raised.value.status, raised.value.code) == (404, "")


def test_retries_end_when_their_time_is_up(serve: Serve) -> None:
    server = serve(lambda *asked: (503, {"Retry-After": "1"}, {"code": "queue_full"}))
    with Service(server.url, retry_seconds=0.5) as service, pytest.raises(ServiceError) as raised:
        service.call("POST", "/api/task", {})
    assert raised.value.code == "queue_full"
    with Service(f"http://127.0.0.1:{free_port()}", retry_seconds=0.2) as service, pytest.raises(NotReached):
        service.call("POST", "/api/task", {})


def test_a_token_is_fetched_once_for_all_threads(serve: Serve) -> None:
    server = serve(lambda *asked: (200, {}, {"access_token": "t", "expires_in": 1800}))
    bearer = ClientCredentials(server.url, "id", "secret")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: bearer.token(), range(32))) == {"t"}
    assert len(server.requests) == 1


def test_client_credentials_are_sent_percent_encoded_by_basic(serve: Serve) -> None:
    server = serve(in_turn((200, {}, {"access_token": "t", "expires_in": 1800})))
    assert ClientCredentials(server.url, "a b", "s:ü", scope="tasks work").token() == "t"
    ((path, headers, body),) = server.requests
    assert path == "/token"
    assert headers["Authorization"] == "Basic YSUyMGI6cyUzQSVDMyVCQw=="  # a%20b:s%3A%C3%BC
    assert body == "grant_type=client_credentials&scope=tasks+work"


def test_a_token_that_is_nearly_over_is_renewed_before_it_is_sent() -> None:
    tokens = iter(["first", "second"])
    bearer = Bearer(lambda: {"access_token": next(tokens), "expires_in": 0})
    assert [bearer.token(), bearer.token()] == ["first", "second"]


def test_a_refused_token_is_renewed_once(serve: Serve) -> None:
    def answer(path: str, headers: dict[str, str], body: str) -> Answer:
        return FINE if headers["Authorization"] == "Bearer new" else (401, {}, {"code": "invalid_token"})

    bearer = Bearer(lambda: {"access_token": "new", "expires_in": 1800}, {"access_token": "old", "expires_in": 1800})
    server = serve(answer)
    with Service(server.url, bearer) as service:
        assert service.call("POST", "/api/task", {}).json() == {"fine": True}
    assert len(server.requests) == 2


def test_a_refused_token_that_cannot_be_renewed_is_an_error(serve: Serve) -> None:
    server = serve(lambda *asked: (401, {}, {"code": "invalid_token"}))
    bearer = Bearer(lambda: {"access_token": "t", "expires_in": 1800})
    with Service(server.url, bearer) as service, pytest.raises(ServiceError):
        service.call("POST", "/api/task", {})
    assert len(server.requests) == 2
