"""A real HTTP server that is told of ends, and behaves as its paths say."""

import contextlib
import http.server
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

DRIP_SECONDS = 0.2


class News(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Receiver:
    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.got: list[News] = []
        self.let_go = threading.Event()

    def of(self, path: str) -> list[News]:
        return [news for news in list(self.got) if news.path == path]


class Handler(http.server.BaseHTTPRequestHandler):
    receiver: Receiver

    def log_message(self, *arguments: Any) -> None:
        """Not on the test's terminal."""

    def do_GET(self) -> None:  # where a redirect would lead
        self.receiver.got.append(News(f"GET {self.path}", dict(self.headers), b"", time.monotonic()))
        self.answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receiver.got.append(News(self.path, dict(self.headers), body, time.monotonic()))
        kind, _, number = self.path.strip("/").partition("/")
        with contextlib.suppress(OSError):
            getattr(self, kind, self.answer)(number)

    def answer(self, number: Any = 204) -> None:
        self.send_response(int(number) if str(number).isdigit() else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def first(self, number: str) -> None:
        """That status to the first, and 204 to all of after."""
        self.answer(number if len(self.receiver.of(self.path)) == 1 else 204)

    def redirect(self, number: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.receiver.url}/secret")
        self.end_headers()

    def hang(self, number: str) -> None:
        self.receiver.let_go.wait(60)

    def drip(self, number: str) -> None:
        for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(ord("x"))):
            if self.receiver.let_go.is_set():
                return
            self.wfile.write(bytes([byte]))
            time.sleep(DRIP_SECONDS)

    def flood(self, number: str) -> None:
        self.answer()
        while not self.receiver.let_go.is_set():
            self.wfile.write(b"x" * 65536)

    def close(self, number: str) -> None:
        self.wfile.write(b"HTTP/1.1 2")
        self.connection.close()

    def noise(self, number: str) -> None:
        self.wfile.write(b"\x00\xff" * 8000)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    handler = type("OwnHandler", (Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.receiver = receiver = Receiver(server.server_port)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield receiver
    receiver.let_go.set()
    server.shutdown()
    server.server_close()
