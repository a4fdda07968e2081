"""What the tests of this service read in its answers."""

from typing import Any

import requests

from tests.only_post_svc.answers import faults, problem

__all__ = ["faults", "is_bad_token", "oauth_error", "problem"]


def oauth_error(answer: requests.Response, status: int, error: str, code: str = "") -> Any:
    """The body of an answer of OAuth's endpoints that has to be this error (RFC 6749 §5.2)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert (body["status"], body["error"], body["code"]) == (status, error, code or error)
    assert body["error_description"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


def is_bad_token(answer: requests.Response) -> bool:
    """Whether it says what RFC 6750 §3.1 has for a token that is not, or no longer, good."""
    challenge = answer.headers.get("WWW-Authenticate", "")
    return (
        answer.status_code == 401 and answer.json()["code"] == "invalid_token" and 'error="invalid_token"' in challenge
    )
