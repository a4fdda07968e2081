"""TLS by the services themselves."""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from tests.certificates import make_certificate
from tests.commands import command, refused
from tests.processes import START_SECONDS, Process, eventually, free_port

EXIT_FAILURE = 3
EXIT_SECONDS = 5  # foreman and overmind kill then
SERVICES = {"only_post_svc": "POST", "token_svc": "GET"}

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(*arguments: str, **env: str) -> Process:
        started.append(Process(tmp_path, "-m", *arguments, env={"WORKER_PROCESSES": "1", **env}))
        return started[-1]

    yield start
    for process in started:
        process.kill()


class Secure:
    """A service that speaks TLS."""

    def __init__(self, start: Start, directory: Path, service: str) -> None:
        cert_file, key_file = make_certificate(directory)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.session = requests.Session()
        self.session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
        self.session.verify = str(cert_file)
        self.env = {"PORT": str(self.port), "TLS_CERT_FILE": str(cert_file), "TLS_KEY_FILE": str(key_file)}
        self.process = start(service, **self.env)
        eventually(lambda: self._is_up(SERVICES[service]), START_SECONDS, every=0.05)

    def _is_up(self, method: str) -> bool:
        assert self.process.is_running, self.process.log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            return self.session.request(method, f"{self.url}/health", timeout=5).status_code == 200
        return False

    @contextlib.contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=str(self.session.verify))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            yield secure


@pytest.fixture
def tasks(start: Start, tmp_path: Path) -> Secure:
    return Secure(start, tmp_path, "only_post_svc")


def test_a_task_goes_over_tls(tasks: Secure) -> None:
    body = {"type": "echo", "payload": {"text": "x" * 300_000}, "wait": 20}
    answer = tasks.session.post(f"{tasks.url}/api/task", json=body, timeout=30)
    assert (answer.status_code, answer.json()["result"]) == (200, body["payload"])
    assert "url=https://" in tasks.process.log.read_text()


def test_the_token_service_speaks_of_itself_as_secure(start: Start, tmp_path: Path) -> None:
    tokens = Secure(start, tmp_path, "token_svc")
    about = tokens.session.get(f"{tokens.url}/.well-known/oauth-authorization-server", timeout=9).json()
    assert about["token_endpoint"] == f"{tokens.url}/token"


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_of_a_container_speaks_tls_whatever_name_the_certificate_has(
    start: Start, tmp_path: Path, service: str
) -> None:
    done = command(tmp_path, service, "probe", **Secure(start, tmp_path, service).env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def exchanged(connection: ssl.SSLSocket, request: bytes) -> tuple[bytes, Any]:
    """The status line of the answer, and its body."""
    connection.sendall(request)
    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return head.splitlines()[0], json.loads(body)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"POST / HTTP/1.1\r\nHost x\r\n\r\n", b" 400 ", "invalid_http"),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b" 405 ", "method_not_allowed"),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000, b" 431 ", "headers_too_large"),
    ],
)
def test_the_server_s_own_errors_are_the_project_s_over_tls_too(
    tasks: Secure, request_: bytes, status: bytes, code: str
) -> None:
    with tasks.connection() as connection:
        line, body = exchanged(connection, request_)
    assert status in line
    assert body["code"] == code


@pytest.mark.parametrize("sent", [b"POST /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b"\x16\x03\x01"])
def test_what_speaks_no_tls_disturbs_nobody(tasks: Secure, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", tasks.port), timeout=10) as plain:
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in b"".join(iter(lambda: plain.recv(65536), b""))
    assert tasks.session.post(f"{tasks.url}/health", timeout=9).status_code == 200
    assert "Traceback" not in tasks.process.log.read_text()


def handshake(tasks: Secure, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(tasks.session.verify))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # the client would do it
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", tasks.port), timeout=10) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1").close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_versions_of_tls_below_1_2_are_refused(tasks: Secure) -> None:
    handshake(tasks, ssl.TLSVersion.TLSv1_2)
    handshake(tasks, ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError, match=r"EOF|ALERT"):  # it is the server that ends it
        handshake(tasks, ssl.TLSVersion.TLSv1_1)


def test_clients_that_stay_connected_do_not_hold_up_the_end(tasks: Secure) -> None:
    with tasks.connection() as idle:
        idle.sendall(b"POST /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536)
        tasks.process.terminate(EXIT_SECONDS)
    assert "Traceback" not in tasks.process.log.read_text()


def complaint(process: Process) -> str:
    """The one line that a start which failed has said."""
    assert process.wait(START_SECONDS) == EXIT_FAILURE, process.log.read_text()
    said = process.log.read_text()
    assert said.endswith("\n") and said.count("\n") == 1, said
    return said


def replaced(paths: tuple[Path, Path], number: int, content: bytes) -> tuple[Path, Path]:
    paths[number].write_bytes(content)
    return paths


def without_one(directory: Path, number: int) -> tuple[Path, Path]:
    paths = make_certificate(directory)
    paths[number].unlink()
    return paths


BAD: dict[str, tuple[str, Callable[[Path], tuple[Path, Path]]]] = {
    "no certificate": ("TLS_CERT_FILE", lambda path: replaced(make_certificate(path), 0, b"hunter2")),
    "an empty certificate": ("TLS_CERT_FILE", lambda path: replaced(make_certificate(path), 0, b"")),
    "a missing certificate": ("TLS_CERT_FILE", lambda path: without_one(path, 0)),
    "the two mixed up": ("TLS_CERT_FILE", lambda path: make_certificate(path)[::-1]),
    "no key": ("TLS_KEY_FILE", lambda path: replaced(make_certificate(path), 1, b"hunter2")),
    "a missing key": ("TLS_KEY_FILE", lambda path: without_one(path, 1)),
    "a locked key": ("TLS_KEY_FILE", lambda path: make_certificate(path, locked=BestAvailableEncryption(b"hunter2"))),
    "another's key": ("TLS_KEY_FILE", lambda path: (make_certificate(path)[0], make_certificate(path, "other")[1])),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_one_line_that_names_the_variable(tmp_path: Path, fault: str, service: str) -> None:
    variable, make = BAD[fault]
    cert_file, key_file = make(tmp_path)
    said = refused(tmp_path, service, TLS_CERT_FILE=str(cert_file), TLS_KEY_FILE=str(key_file))
    assert said.startswith(f"{variable}: ")
    assert "hunter2" not in said and str(tmp_path) not in said


@pytest.mark.parametrize(("given", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_one_file_alone_is_one_too_few(tmp_path: Path, given: str, missing: str) -> None:
    files = dict(zip(("CERT", "KEY"), make_certificate(tmp_path), strict=True))
    said = refused(tmp_path, "only_post_svc", **{f"TLS_{given}_FILE": str(files[given])})
    assert said.startswith(f"TLS_{missing}_FILE: required")


def test_uvicorn_s_own_command_does_not_take_them_for_granted(start: Start, tmp_path: Path) -> None:
    """It would serve without TLS, and nobody would notice."""
    cert_file, key_file = make_certificate(tmp_path)
    said = complaint(
        start("uvicorn", "only_post_svc.main:app", TLS_CERT_FILE=str(cert_file), TLS_KEY_FILE=str(key_file))
    )
    assert said.startswith("TLS_CERT_FILE: ")
