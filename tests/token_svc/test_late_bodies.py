"""Bodies that come in after what their headers were let in for has ended."""

import json
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.databases import rows
from tests.token_svc.users import User, operate


class Upload:
    """A request whose headers were let in and whose body is on its way."""

    def __init__(self, user: User, method: str, path: str, body: Any) -> None:
        self._rest = json.dumps(body).encode()
        head = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{user.service.port}",
            f"Authorization: {user.headers['Authorization']!s}",
            "Content-Type: application/json",
            f"Content-Length: {len(self._rest)}",
            "Expect: 100-continue",
            "Connection: close",
        ]
        self._socket = socket.create_connection(("127.0.0.1", user.service.port), timeout=60)
        self._answers = self._socket.makefile("rb")
        self._socket.sendall("\r\n".join([*head, "", ""]).encode())
        assert b" 100 " in self._answers.readline()  # sent when a handler asks for the body
        assert self._answers.readline() == b"\r\n"
        self._send(len(self._rest) // 2)

    def _send(self, size: int) -> None:
        self._socket.sendall(self._rest[:size])
        self._rest = self._rest[size:]

    def end(self) -> tuple[int, bytes]:
        """Sends the rest: the status and all that follows."""
        with closing(self._socket), self._answers:
            self._send(len(self._rest))
            return int(self._answers.readline().split()[1]), self._answers.read()


def revoke(user: User) -> None:
    assert user.service.post("/revoke", {"token": user.refresh_token}).status_code == 200


def revoke_access_token(user: User) -> None:
    assert user.service.post("/revoke", {"token": user.pair["access_token"]}).status_code == 200


def disable(user: User) -> None:
    assert operate(user.service, "disable", user.username).returncode == 0


def change_scope(user: User) -> None:
    assert operate(user.service, "grant", user.username, "tasks").returncode == 0


def stored(user: User) -> list[list[Any]]:
    """All of the user's that a write could change."""
    columns = "email, password_hash, item_count FROM account WHERE id"
    tables = (columns, "id, data, version FROM item WHERE account_id")
    return [rows(user.service, f"SELECT {table} = ?", user.profile["id"]) for table in tables]


NEW = {"data": {"written": "too late"}}
CHANGE = {"email": "too-late@example.org", "password": "too late, however good"}
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/data", NEW),
    ("PUT", "/data/{item_id}", NEW),
    ("PATCH", "/data/{item_id}", NEW),
    ("PATCH", "/me", CHANGE),
    ("DELETE", "/me", {}),
]


@pytest.mark.parametrize("end", [revoke, revoke_access_token, disable, change_scope])
@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=[f"{method} {path}" for method, path, _ in WRITES])
def test_a_body_that_comes_in_after_the_end_changes_nothing(
    user: User, end: Callable[[User], None], method: str, path: str, body: Any
) -> None:
    if path == "/me":
        body = {"current_password": user.password, **body}
    upload = Upload(user, method, path.format(item_id=user.add({"kept": True})["id"]), body)
    before = stored(user)
    end(user)
    status, answer = upload.end()
    assert status == 401, answer
    assert b"invalid_token" in answer
    assert stored(user) == before


def test_a_body_that_comes_in_slowly_is_stored_as_long_as_nothing_ends(user: User) -> None:
    status, answer = Upload(user, "POST", "/data", NEW).end()
    assert status == 201, answer
    assert user.get("/data").json()["items"][0]["data"] == NEW["data"]
