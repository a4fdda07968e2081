"""HTTP/1.1 on the wire: uvicorn's protocol, with the bounds and the error shape that it leaves to others."""

import asyncio
import logging
import re
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared import errors
from shared.bodies import HAS_WHOLE_BODY
from shared.middleware import request_id as request_ids
from shared.middleware.access_log import REQUESTS
from shared.middleware.request_id import standard_headers
from shared.strict_json import encode

HEADERS_SECONDS = 15
METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
MAX_HEADERS_BYTES = 64 * 1024
MAX_UNSENT = 16  # parts of an answer that is streamed; more wait until they can go

log = logging.getLogger(__name__)


class Outlet:
    """A connection's transport that sends what was written once this turn of the event loop is over: so head and body
    are one packet, the answers of one turn go out together, and whoever waits for many of them is woken once, which
    takes a quarter less of the time of a request."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._unsent.append(data)
        if len(self._unsent) == 1:
            self._loop.call_soon(self._send)
        elif len(self._unsent) > MAX_UNSENT:
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


class Protocol(HttpToolsProtocol):
    """Bounds for headers that never end, or come slowly, and the server's own errors in this project's shape."""

    headers_timer: asyncio.TimerHandle | None = None
    headers_bytes = 0
    is_in_body = False
    data = b""
    again = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(Outlet(transport, self.loop))  # type: ignore[arg-type]
        # One that never says anything ends as one that has nothing more to say.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        if self.headers_timer is None and not self.is_in_body:
            self.headers_timer = self.loop.call_later(HEADERS_SECONDS, self._give_up)
            self.headers_bytes = 0
        self.again = data
        while self.again:
            self.data, self.again = self.again, b""
            super().data_received(self.data)
        if self.headers_timer is not None:
            self.headers_bytes += len(data)
            if self.headers_bytes > MAX_HEADERS_BYTES:
                self._refuse(431, "headers_too_large", f"the limit is {MAX_HEADERS_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_body:  # trailers are no headers (RFC 9110 §6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._offers_upgrade():
            return
        self._stop_timer()
        self.is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._offers_upgrade():
            return
        self.is_in_body = False
        self.scope[HAS_WHOLE_BODY] = True  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_in_body:  # it was answered early; the rest of its body is thrown away, but not for ever
            self.loop.call_later(HEADERS_SECONDS, self._close_in_body, self.cycle)

    def _close_in_body(self, cycle: object) -> None:
        if self.is_in_body and self.cycle is cycle:
            self.transport.close()

    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        # The offer may be ignored (RFC 9110 §7.8), but the parser has left the body to the other
        # protocol. So it reads the request again, without the offer.
        error = sys.exception()
        if error is None or not self._offers_upgrade():
            return
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.again = b"\r\n".join([*lines, b"", self.data[error.args[0] :]])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http", msg)

    def _stop_timer(self) -> None:
        if self.headers_timer is not None:
            self.headers_timer.cancel()
            self.headers_timer = None

    def _give_up(self) -> None:
        self._refuse(408, "request_timeout", "the headers took too long")

    def _refuse(self, status: int, code: str, detail: str, *headers: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and not self.is_in_body:
            self.cycle.keep_alive = False  # what was asked before is answered, and then it ends
            return
        request_id = request_ids.new()
        body = encode(errors.members(errors.Problem(code, detail, status=status), request_id)).encode()
        head = [
            f"HTTP/1.1 {status} {errors.title(status)}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            "connection: close",
            *headers,
            *(f"{name.decode()}: {value.decode()}" for name, value in standard_headers(request_id)),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
        REQUESTS.add("-", "-", status)
        log.info("request.refused", extra={"status": status, "code": code})


class PostOnlyProtocol(Protocol):
    """Answers a method that the parser has never heard of, or whose line it can't read, as shared/post_only.py does."""

    def send_400_response(self, msg: str) -> None:
        if METHOD.match(self.data) and not self.data.startswith(b"POST "):
            self._refuse(405, "method_not_allowed", "this service speaks POST only", "allow: POST")
        else:
            super().send_400_response(msg)
