"""What goes over a connection to the POST-only service, byte for byte, and what every answer has to look like."""

import json
import re
import socket
from dataclasses import dataclass
from typing import Any

from tests.processes import HTTPService, Service

MAX_BODY_BYTES = 1024 * 1024
JSON = {"Content-Type": "application/json"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


def connect(service: HTTPService, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=seconds)


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes; a reset is an end too."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def parsed(raw: bytes, *, of_head: bool = False) -> list[Answer]:
    answers = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split(" ")[1])
        size = 0 if of_head or status < 200 else int(headers["content-length"])
        if status >= 200:
            answers.append(Answer(status, headers, rest[:size]))
        raw = rest[size:]
    return answers


def talk(service: HTTPService, *sent: bytes, of_head: bool = False) -> list[Answer]:
    """The answers to these bytes, until the server ends the connection."""
    with connect(service) as connection:
        for part in sent:
            connection.sendall(part)
        return parsed(received(connection), of_head=of_head)


def request(
    method: str = "POST", path: str = "/api/types", *lines: str, body: bytes = b"{}", host: str = "Host: localhost"
) -> bytes:
    """One request, after which the connection is to be closed."""
    length = [] if any("ength" in line or "ncoding:" in line for line in lines) else [f"Content-Length: {len(body)}"]
    head = [f"{method} {path} HTTP/1.1", host, "Connection: close", *lines, *length]
    return "\r\n".join([*(line for line in head if line), "", ""]).encode("latin-1") + body


def assert_standard(answer: Answer) -> None:
    assert answer.status < 500, answer
    assert re.fullmatch(r"[A-Za-z0-9._+/=-]{8,200}", answer.headers["x-request-id"])
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def assert_problem(answer: Answer, status: int, code: str | None = None) -> None:
    assert_standard(answer)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    members = answer.problem
    assert set(members) - {"errors"} == {"type", "title", "status", "code", "detail", "request_id"}
    assert (members["type"], members["status"]) == ("about:blank", status)
    assert members["request_id"] == answer.headers["x-request-id"]
    assert all(isinstance(members[name], str) and members[name] for name in ("title", "code", "detail"))
    assert code in (None, members["code"]), members


def send(service: Service, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    answer = service.session.post(f"{service.url}{path}", data=body, headers=headers, timeout=10)
    return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)
