"""What errors of OAuth's endpoints have beside the usual members, for OAuth clients (RFC 6749 §5.2)."""

import re

from shared.errors import Extension, Problem, title

PATHS = frozenset({"/token", "/revoke", "/introspect"})  # those whose errors OAuth clients read
NOT_DESCRIPTIVE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
ERRORS = {
    "invalid_client": "invalid_client",
    "invalid_grant": "invalid_grant",
    "invalid_scope": "invalid_scope",
    "unsupported_grant_type": "unsupported_grant_type",
    "invalid_token": "invalid_token",
    "insufficient_scope": "insufficient_scope",
    "unauthorized": "invalid_client",
    "rate_limited": "temporarily_unavailable",
    "busy": "temporarily_unavailable",
    "database_unavailable": "temporarily_unavailable",
    "shutting_down": "temporarily_unavailable",
    "internal_error": "server_error",
}


def members(problem: Problem) -> dict[str, str]:
    """`error` and `error_description`."""
    description = NOT_DESCRIPTIVE.sub("?", problem.detail or title(problem.status))
    return {"error": ERRORS.get(problem.code, "invalid_request"), "error_description": description}


EXTENSION = Extension(PATHS, members)
