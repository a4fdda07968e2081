"""One POST to the receiver of a webhook, which is not trusted.

Written on asyncio's streams, without an HTTP library: it has to connect to the very address that was checked, to end in
time however slowly the answer comes, and to read nothing but its status. It runs no code of users, so it needs no child
process, and the signing key stays in the coordinator.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from only_post_svc.webhooks import Address, Receivers

SECONDS = 10.0
MAX_ANSWER_BYTES = 4096
MAX_ADDRESSES = 4  # of one name that are tried
REST_SECONDS = 1.0  # for the rest of a short answer, so that its sender sees no reset
STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")
PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[list[Address]]]


class Failed(Exception):
    """It was not delivered. The task shows the reason to its caller."""


async def resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


class Post(NamedTuple):
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def bytes(self) -> bytes:
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        given = {"Host": parts.netloc, "Content-Length": str(len(self.body)), "Connection": "close", **self.headers}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


async def deliver(post: Post, receivers: Receivers, resolve: Resolve = resolve, seconds: float = SECONDS) -> int:
    """The answer's status. Raises Failed."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _connect(post.url, receivers, resolve)
            try:
                return await _exchange(post, reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Failed(f"no answer within {seconds:g} s") from None
    except ssl.SSLError as error:
        raise Failed(f"TLS: {getattr(error, 'verify_message', '') or error.reason}") from None
    except (OSError, UnicodeError) as error:
        raise Failed(f"no connection ({getattr(error, 'strerror', None) or type(error).__name__})") from None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise Failed("the answer was cut off, or no HTTP") from None


@functools.cache
def client_tls() -> ssl.SSLContext:
    """Made once: reading the machine's certificates takes about 20 ms, during which the event loop stands still."""
    return ssl.create_default_context()


async def _connect(
    url: str, receivers: Receivers, resolve: Resolve
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Looks the name up once, and connects to one of the addresses that were checked. TLS is held to the name."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    addresses = [one for one in await resolve(host, port) if receivers.may_connect(host, one)][:MAX_ADDRESSES]
    tls = client_tls() if parts.scheme == "https" else None
    failure: OSError = OSError(None, "not a public address")
    for address in addresses:
        try:
            return await asyncio.open_connection(
                str(address), port, ssl=tls, server_hostname=host if tls else None, limit=MAX_ANSWER_BYTES
            )
        except OSError as error:
            failure = error
    raise failure


async def _exchange(post: Post, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(post.bytes)
    left = MAX_ANSWER_BYTES
    status = 0
    while status < 200:  # 1xx come before the answer (RFC 9110 §15.2)
        line = await reader.readuntil(b"\n")
        left -= len(line)
        if (found := STATUS.match(line)) is None or left <= 0:
            raise Failed("the answer was cut off, or no HTTP")
        status = int(found[1])
        while status < 200 and left > 0 and (line := await reader.readuntil(b"\n")).strip():
            left -= len(line)
    await _rest(reader, left)
    return status


async def _rest(reader: asyncio.StreamReader, left: int) -> None:
    try:
        async with asyncio.timeout(REST_SECONDS):
            while left > 0 and (data := await reader.read(left)):
                left -= len(data)
    except (TimeoutError, OSError):
        pass
