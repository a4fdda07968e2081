"""What the tests of this service read in its answers."""

from typing import Any

import requests


def problem(answer: requests.Response, status: int, code: str) -> Any:
    """The body of an answer that has to be this error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    return body


def faults(answer: requests.Response) -> dict[str, str]:
    """Pointer to detail, of an answer that has to be a 422 `invalid_request`."""
    return {fault["pointer"]: fault["detail"] for fault in problem(answer, 422, "invalid_request")["errors"]}
