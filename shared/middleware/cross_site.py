"""Protects a service that asks for no token from pages of other sites, in browsers on the same machine.

A page of any site can send requests from its user's machine: a POST without a preflight, or requests to a name of its
own that resolves to 127.0.0.1 (DNS rebinding), whose answers it may read too.
"""

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors
from shared.middleware.single_headers import headers_by_name
from shared.settings import is_this_machine

MAX_ORIGIN_BYTES = 1000  # a longer one is none of ours either way


class CrossSite:
    """Answers 403 to what a browser sends for another site, and to a host that is neither this machine nor one of
    `hosts`. `origins` may call from a browser. With `is_local_only` requests from other machines are refused too:
    uvicorn's own command may listen on any --host."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], *, is_local_only: bool) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.origins = frozenset(origins)
        self.is_local_only = is_local_only
        self._fault = lru_cache(maxsize=1024)(self._fault_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = headers_by_name(scope)
            origin = sent.get(b"origin", b"")[:MAX_ORIGIN_BYTES]
            if reason := self._fault(scope["server"], sent.get(b"host"), origin, sent.get(b"sec-fetch-site")):
                raise errors.Forbidden("cross_site", reason)
        await self.app(scope, receive, send)

    def _fault_of(
        self, server: tuple[str, int | None] | None, host: bytes | None, sent_origin: bytes, fetched_from: bytes | None
    ) -> str:
        if self.is_local_only and not _is_loopback(server):
            return "without TASK_AUTH only this machine is answered: set TASK_AUTH"
        # A request without Host, which HTTP/1.0 allows, is no browser's.
        if host is not None and not self._is_ours(_host_name(host.decode("latin-1"))):
            return "Host names neither this machine nor one of ALLOWED_HOSTS"
        origin = sent_origin.decode("latin-1")
        if origin in self.origins:
            return ""
        if fetched_from == b"cross-site" or (origin and not self._is_ours(_site(origin))):
            return "sent by a page of another site; CORS_ORIGINS names those that may"
        return ""

    def _is_ours(self, host: str) -> bool:
        return host in self.hosts or is_this_machine(host.strip("[]"))


def _is_loopback(server: tuple[str, int | None] | None) -> bool:
    """Whether that is a loopback address, or a Unix socket, which has no port."""
    address, port = server or ("", None)
    return port is None or is_this_machine(address.removeprefix("::ffff:"))


def _host_name(host: str) -> str:
    """Without its port."""
    end = host.rfind("]") + 1
    return (host[:end] if end else host.partition(":")[0]).lower()


def _site(origin: str) -> str:
    """The host of an origin; `null` is none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
