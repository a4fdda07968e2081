"""HTTP/1.1 on the wire: uvicorn's protocol, with the bounds and the error shape that it leaves to others.

It leans on these internals of uvicorn's HttpToolsProtocol, whose versions requirements.txt bounds, with httptools':

    state       cycle, pipeline (newest first), flow, parser, scope, headers, url, expect_100_continue
    of a cycle  body, keep_alive, response_started, response_complete
    methods     _start_asgi_task (once a request), on_response_complete (once an answer),
                _unset_keepalive_if_required, and the parser's callbacks (on_header … on_message_complete)

tests/shared/test_http_bounds.py fails when one of them changes.
"""

import asyncio
import logging
import re
import select
from collections.abc import Collection
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared import errors
from shared.bodies import HAS_WHOLE_BODY
from shared.errors import NO_EXTENSION, Extension
from shared.http import connections
from shared.http.outlet import Outlet
from shared.middleware import cors
from shared.middleware import request_id as request_ids
from shared.middleware.access_log import REQUESTS
from shared.middleware.request_id import standard_headers

HEADERS_SECONDS = 15  # to the first byte, and from there to the end of the headers
DISCARD_SECONDS = 15  # for the rest of a body that was answered before its end
METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ")
WANTED = re.compile(rb"(?im)^(origin|x-request-id):[ \t]*(\S{1,300})[ \t]*\r?$")  # for the answer to what can't be read
MAX_HEADERS_BYTES = 64 * 1024  # of a head, of all chunk extensions of a body, of trailers
MAX_WAITING = 16  # requests that a client sends before it has the answer to an earlier one
SMALL_BYTES = 4096  # of what is fed whole: most requests are smaller, with one END
MAX_CHUNKS = 500  # in one turn of the event loop, which take about 2 ms
CHUNKED_BYTES = 4096  # of a chunked body, fed between two looks at the number of its chunks
MAX_DISCARDED_BYTES = 4 * 1024 * 1024  # of a body that was answered before its end
END = b"\r\n\r\n"  # of a head, of trailers, and of a chunked body without any
NEVER = float("inf")

log = logging.getLogger(__name__)


class Flow(FlowControl):
    """Resumes reading only while no request waits; uvicorn would whenever a request asks for its body."""

    def __init__(self, transport: asyncio.Transport, protocol: "Protocol") -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self._protocol.can_take_more():
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """Feeds the parser up to the end of one head at a time, so that it knows what each byte belongs to."""

    deadline = NEVER  # for the client to send the rest of a head, or of a body that was answered before its end
    running: RequestResponseCycle | None = None
    is_in_body = False
    is_chunked = False
    is_over = False
    framing_bytes = 0  # of the head so far; in a body, of its chunks' framing and its trailers
    behind_head = 0  # bytes after the head, in the piece that is being fed
    chunk_bytes = 0
    chunks = 0  # in this turn of the event loop
    discarded_bytes = 0
    unfed = b""
    last_fed = b""  # the last bytes that were fed, since END may come in two pieces
    unknown_method = ""  # of the head that is read as a PUT
    url = b""  # as far as it has come in

    def __init__(
        self, *args: Any, origins: Collection[str] = (), extension: Extension = NO_EXTENSION, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.extension = extension
        self.origins = frozenset(map(str.encode, origins))  # whose pages may read the answers (CORS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(Outlet(transport, self.loop))  # type: ignore[arg-type]
        self.flow = Flow(self.transport, self)
        self.deadline = self.loop.time() + HEADERS_SECONDS
        self.bounds = connections.of(self.server_state)
        if not self.bounds.admit(self, self.loop):
            self._leave()
            self._answer(503, "busy", "too many connections", "retry-after: 1")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.bounds.works(self)
        super().connection_lost(exc)

    def end(self) -> None:
        self._leave()
        self.transport.abort()

    def has_unread(self) -> bool:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def look(self, now: float) -> None:
        """Ends what has taken too long. Called once a second."""
        if self.transport.is_stalled(now):  # type: ignore[attr-defined]
            self.end()
        elif now >= self.deadline and self.is_in_body:
            self.transport.close()
        elif now >= self.deadline:
            self.deadline = NEVER
            self._refuse(408, "request_timeout", "the headers took too long")

    # What comes in

    def data_received(self, data: bytes) -> None:
        if not self.is_over:
            self.unfed += data
            self._feed()

    def can_take_more(self) -> bool:
        return not (self.pipeline or self.unfed or self.is_over)

    def _feed(self) -> None:
        """Feeds what has come in, up to MAX_WAITING requests; the rest once they are answered."""
        self._unset_keepalive_if_required()
        was_in_head = self._is_in_head()
        data, start = self.last_fed + self.unfed, len(self.last_fed)
        self.unfed = b""
        start = self._feed_small(data, start) if self._is_small(data) else self._feed_pieces(data, start)
        self.last_fed = data[max(0, start - len(END) + 1) : start]
        if not self.is_over:
            self.unfed = data[start:]
            self._set_deadline(is_new=not was_in_head)
        if not self.can_take_more() and not self.transport.is_closing():
            self.flow.pause_reading()

    def _is_small(self, data: bytes) -> bool:
        """Whether it begins a request, has one END, and is not long."""
        is_at_start = not (self.framing_bytes or self.is_in_body or self.pipeline)
        return is_at_start and len(data) <= SMALL_BYTES and data.count(END) == 1

    def _feed_small(self, data: bytes, start: int) -> int:
        self.behind_head = len(data) - data.index(END) - len(END)
        self._feed_piece(data[start:])
        self.behind_head = 0
        return len(data)

    def _feed_pieces(self, data: bytes, start: int) -> int:
        """Feeds from `start` on. Where it has stopped."""
        while start < len(data) and len(self.pipeline) < MAX_WAITING and not self.is_over:
            end = self._end_of_piece(data, start)
            self._feed_piece(data[start:end])
            start = end
            if self.chunks > MAX_CHUNKS:
                self.chunks = 0
                self.loop.call_soon(self._feed_rest)
                break
        return start

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """Behind the next END, or all there is; of a chunked body CHUNKED_BYTES at most."""
        found = data.find(END, max(0, start - len(END) + 1))
        end = len(data) if found < 0 else found + len(END)
        return min(end, start + CHUNKED_BYTES) if self.is_chunked else end

    def _feed_rest(self) -> None:
        if self.unfed:
            self._feed()
        self.flow.resume_reading()

    def _feed_piece(self, piece: bytes) -> None:
        self.framing_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
            self._check_framing()
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable(piece)

    def _is_in_head(self) -> bool:
        return self.framing_bytes > 0 and not self.is_in_body

    def _set_deadline(self, *, is_new: bool) -> None:
        """For a head that has not come in whole; not while requests wait, since the socket is not read then."""
        if self.is_in_body:
            return
        if not self._is_in_head() or not self.can_take_more():
            self.deadline = NEVER
        elif is_new or self.deadline == NEVER:
            self.deadline = self.loop.time() + HEADERS_SECONDS
            self.bounds.waits(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Replaces uvicorn's own, which is slower."""
        if self.is_in_body:  # trailers are no headers (RFC 9110 §6.5.1)
            return
        name, value = name.lower(), value.strip(b" \t")  # RFC 9110 §5.5
        if name == b"transfer-encoding":
            self.is_chunked = True
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._offers_upgrade():
            return
        self._check_framing()
        super().on_headers_complete()
        if self.unknown_method:
            self.scope["method"], self.unknown_method = self.unknown_method, ""
        self.is_in_body = True
        self.framing_bytes = self.behind_head
        self.deadline = NEVER

    def on_body(self, body: bytes) -> None:
        self.framing_bytes -= len(body)
        self.chunk_bytes += len(body)
        super().on_body(body)
        if self.cycle.response_complete:
            self.discarded_bytes += len(body)
            if self.discarded_bytes > MAX_DISCARDED_BYTES:
                self._leave()
                self.transport.close()

    def on_chunk_complete(self) -> None:
        self.chunks += 1
        self.framing_bytes -= len(f"{self.chunk_bytes:x}") + 4  # its size in hexadecimal, and the ends of two lines
        self.chunk_bytes = 0

    def on_message_complete(self) -> None:
        if self._offers_upgrade():
            return
        if self.is_chunked:  # behind any other body, what is left of the piece belongs to the next head
            self._check_framing()
            self.framing_bytes = 0
            self.is_chunked = False
        self.is_in_body = False
        self.chunk_bytes = self.discarded_bytes = 0
        self.scope[HAS_WHOLE_BODY] = True  # type: ignore[literal-required]
        if not self.cycle.response_complete:
            self.bounds.works(self)
        super().on_message_complete()

    def _check_framing(self) -> None:
        """Ends the connection and stops the parser once headers, chunk extensions or trailers are too large."""
        if self.framing_bytes > MAX_HEADERS_BYTES:
            self._refuse(431, "headers_too_large", f"the limit is {MAX_HEADERS_BYTES} bytes")
            raise httptools.HttpParserError

    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _decline(self, rest: bytes) -> None:
        """Reads a head that offers another protocol again, without the offer: it may be ignored (RFC 9110 §7.8), but
        the parser has left the body to that protocol."""
        if not self._offers_upgrade():
            return
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self._feed_again(b"\r\n".join([*lines, b"", rest]))

    def _feed_again(self, piece: bytes) -> None:
        """Begins a head anew."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.framing_bytes = 0
        self._feed_piece(piece)

    # What goes out

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self.running is not None:
            self.running.body = bytearray()  # what the application has not read of it is dropped
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            if self.unfed:
                self._feed()
            self.flow.resume_reading()
        if self.cycle.response_complete:
            self._have_answered()

    def _have_answered(self) -> None:
        """All requests are answered."""
        self.bounds.waits(self)
        if self.is_in_body:  # the rest of it is discarded
            self.deadline = self.loop.time() + DISCARD_SECONDS

    def pause_writing(self) -> None:
        super().pause_writing()
        self.bounds.waits(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.running is not None and not self.running.response_complete and not self.is_in_body:
            self.bounds.works(self)

    # What is refused

    def _refuse_unreadable(self, piece: bytes) -> None:
        """A head may be unreadable only because the parser does not know its method: it is read once more as a PUT, and
        the application answers the method."""
        start = len(piece) - self.framing_bytes  # before it is the end of a body
        is_start = start >= 0 and not (self.is_in_body or self.is_over or self.unknown_method)
        method = METHOD.match(piece, start) if is_start else None
        if method is None:
            self.headers = [*(self.headers or ()), *((name.lower(), value) for name, value in WANTED.findall(piece))]
            self._refuse(400, "invalid_http", "not HTTP/1.1")
        else:
            self.unknown_method = method[1].decode()
            self._feed_again(b"PUT" + piece[method.end(1) :])

    def _refuse(self, status: int, code: str, detail: str, *headers: str) -> None:
        """Answers with the error and closes. Where earlier requests wait, they are answered, and then it closes."""
        if self.transport.is_closing() or self.is_over:
            return
        self._leave()
        if before := self._asked_before():
            before.keep_alive = False
            return
        if not (self.is_in_body and self.cycle.response_started):
            self._answer(status, code, detail, *headers)
        self.transport.close()
        log.info("request.refused", extra={"status": status, "code": code})

    def _leave(self) -> None:
        """Reads nothing more from this connection."""
        self.is_over = True
        self.unfed = self.last_fed = b""
        self.deadline = NEVER

    def _asked_before(self) -> RequestResponseCycle | None:
        """The last whole request that has no answer yet."""
        if self.is_in_body and self.pipeline:
            self.pipeline.popleft()
            return self.pipeline[0][0] if self.pipeline else self.running
        if self.is_in_body or self.cycle is None or self.cycle.response_complete:
            return None
        return self.cycle

    def _answer(self, status: int, code: str, detail: str, *headers: str) -> None:
        sent = self.headers or []  # those that have come in
        request_id = request_ids.choose(sent)
        describe = self.extension.on(self.url.partition(b"?")[0].decode("latin-1"))
        body, media_type = errors.body(errors.Problem(code, detail, status=status), request_id, describe)
        common = standard_headers(request_id) + cors.headers(dict(sent).get(b"origin", b""), self.origins)
        head = [
            f"HTTP/1.1 {status} {errors.title(status)}",
            f"content-type: {media_type}",
            f"content-length: {len(body)}",
            "connection: close",
            *headers,
            *(f"{name.decode()}: {value.decode()}" for name, value in common),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        REQUESTS.add("-", "-", status)
