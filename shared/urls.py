"""The path that a request is for, and the addresses that clients are told.

Behind a proxy that strips a prefix, `root_path` says which: ROOT_PATH here, --root-path for uvicorn's own command, and
uvicorn puts it before the path of every request. What is compared is the path without it.
"""

from typing import Any

from starlette.requests import Request
from starlette.types import Scope


def routed_path(scope: Scope) -> str:
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return path.removeprefix(root) if root else path


def public_url(request: Request[Any]) -> str:
    """Where clients reach the service, without a slash at the end: PUBLIC_URL, or as the request has it."""
    return request.state["settings"].public_url or str(request.base_url).rstrip("/")


def location(request: Request[Any], path: str) -> str:
    """A path of the service for clients: whole where PUBLIC_URL is set, else relative to where they sent the request
    (RFC 9110 §10.2.2)."""
    base: str = request.state["settings"].public_url or request.scope.get("root_path", "")
    return base + path
