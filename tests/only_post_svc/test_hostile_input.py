"""Values that are odd and still reach the database: none is answered with a 5xx, and the service goes on."""

import json
import socket
import struct
from typing import Any

import pytest

from tests.only_post_svc.wire import JSON, assert_problem, connect, request, send
from tests.processes import Service

pytestmark = pytest.mark.usefixtures("no_error_is_logged")


def test_a_fault_in_a_batch_of_a_thousand_is_pointed_at(service: Service) -> None:
    tasks: list[Any] = [{"type": "echo"}] * 999 + [{"type": "nobody", "wait": 1}]
    answer = send(service, "/api/batch", json.dumps({"tasks": tasks}).encode(), JSON)
    assert_problem(answer, 422, "invalid_request")
    assert all(error["pointer"].startswith("/tasks/999/") for error in answer.problem["errors"])


NUMBERS = [
    "9007199254740993",
    "-9007199254740993",
    "-0.0",
    "123456789012345678901234567890",
    "0.1",
    "1.5e-07",
    "1e+100",
]


def test_numbers_come_back_as_they_were_sent(service: Service) -> None:
    for number in [*NUMBERS, "9" * 4300]:
        body = f'{{"type":"echo","wait":20,"payload":{{"n":[{number}]}}}}'.encode()
        answer = send(service, "/api/task", body, JSON)
        assert f'"result":{{"n":[{number}]}}'.encode() in answer.body, answer


def test_text_comes_back_as_it_was_sent(service: Service) -> None:
    odd = ["é", "😀", "\u2028", "\x7f", "\x01", "\uffff", "\ufeff", "a\\u0000", "'; DROP TABLE task; --", "</script>"]
    payload = {text: text for text in odd}
    assert service.run("echo", payload)["result"] == payload


IDS = [
    "",
    "x",
    "0",
    "-1",
    "%00",
    "../../etc/passwd",
    "' OR '1'='1",
    "01932F3E-7B1A-7C3D-9E4F-0123456789AB",
    "01932f3e7b1a7c3d9e4f0123456789ab",
    "{01932f3e-7b1a-7c3d-9e4f-0123456789ab}",
    "01932f3e-7b1a-7c3d-9e4f-0123456789ab ",
    "01932f3e-7b1a-7c3d-9e4f-0123456789ab",
    "٠" * 36,
    "9" * 5000,
    "x" * 1_000_000,
]


@pytest.mark.parametrize("path", ["/api/result", "/api/cancel", "/api/retry"])
def test_an_id_of_any_other_spelling_is_not_found(service: Service, path: str) -> None:
    for task_id in IDS:
        answer = send(service, path, json.dumps({"task_id": task_id}).encode(), JSON)
        assert_problem(answer, 404, "task_not_found")


def test_another_spelling_of_a_real_id_is_not_found(service: Service) -> None:
    task_id = service.submit("echo")["task_id"]
    for other in (task_id.upper(), task_id.replace("-", ""), f" {task_id}", f"{task_id}\n", f"urn:uuid:{task_id}"):
        for path in ("/api/result", "/api/cancel", "/api/retry"):
            assert_problem(send(service, path, json.dumps({"task_id": other}).encode(), JSON), 404, "task_not_found")


@pytest.mark.parametrize("path", ["/api/result", "/api/cancel", "/api/retry"])
@pytest.mark.parametrize("value", ["null", "1", "true", "[]", "{}", "9" * 4300, "1.5"])
def test_an_id_that_is_no_text_is_a_422(service: Service, path: str, value: str) -> None:
    assert_problem(send(service, path, f'{{"task_id":{value}}}'.encode(), JSON), 422, "invalid_request")


WRONG = [
    ("/api/task", '{"type":"echo","run_at":"9999-12-31T23:59:59-23:59"}', "/run_at"),
    ("/api/task", '{"type":"echo","run_at":"0001-01-01T00:00:00+23:59"}', "/run_at"),
    ("/api/task", '{"type":"echo","run_at":""}', "/run_at"),
    ("/api/task", '{"type":"echo","delay":' + "9" * 4300 + "}", "/delay"),
    ("/api/task", '{"type":"echo","delay":1e308}', "/delay"),
    ("/api/task", '{"type":"echo","priority":1e308}', "/priority"),
    ("/api/task", '{"type":"echo","priority":-' + "9" * 4300 + "}", "/priority"),
    ("/api/task", '{"type":"echo","timeout":' + "9" * 4300 + "}", "/timeout"),
    ("/api/task", '{"type":"echo","timeout":-0.0}', "/timeout"),
    ("/api/task", '{"type":"echo","max_attempts":1e300}', "/max_attempts"),
    ("/api/task", '{"type":"echo","wait":25.0000001}', "/wait"),
    ("/api/task", '{"type":"' + "x" * 1_000_000 + '"}', "/type"),
    ("/api/tasks", '{"limit":1e308}', "/limit"),
    ("/api/tasks", '{"limit":' + "9" * 4300 + "}", "/limit"),
    ("/api/tasks", '{"limit":0}', "/limit"),
    ("/api/tasks", '{"status":"scheduled"}', "/status"),
]


@pytest.mark.parametrize(("path", "body", "pointer"), WRONG, ids=lambda value: value[:50])
def test_a_value_out_of_bounds_is_a_422_that_points_at_it(service: Service, path: str, body: str, pointer: str) -> None:
    answer = send(service, path, body.encode(), JSON)
    assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in answer.problem["errors"]] == [pointer]


@pytest.mark.parametrize("run_at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"])
def test_the_ends_of_time_are_taken_and_shown_as_they_were_sent(service: Service, run_at: str) -> None:
    task = service.submit("echo", run_at=run_at)
    assert len(task["run_at"]) == len("2026-11-22T08:30:00.123Z")
    assert service.result(task["task_id"])["run_at"] == task["run_at"]
    service.post("/api/cancel", {"task_id": task["task_id"]})


def test_an_early_disconnect_costs_nothing(service: Service) -> None:
    whole = request("POST", "/api/task", body=b'{"type":"sleep","payload":{"seconds":0.1},"wait":20}')
    chunked = request("POST", "/api/types", "Transfer-Encoding: chunked", body=b"5\r\n{")
    for raw in (b"", b"POST", whole[:-5], whole, chunked):
        for reset in (False, True):
            connection = connect(service)
            connection.sendall(raw)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    assert service.post("/api/types").status_code == 200
