"""A network between a process and its PostgreSQL that fails on demand."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

LISTEN_BACKLOG = 200


@dataclass
class Loss:
    """A connection is cut between a COMMIT and its answer: of the writing transactions that have `mark` among what they
    send, the first after `skip` others."""

    mark: bytes
    skip: int = 0
    is_answered: bool = False  # cut right after the answer instead
    has_happened: bool = False

    def takes(self, transaction: bytes) -> bool:
        if self.has_happened or self.mark not in transaction:
            return False
        self.skip -= 1
        self.has_happened = self.skip < 0
        return self.has_happened


class Client:
    """What a client asks for, in the words of PostgreSQL's protocol."""

    def __init__(self) -> None:
        self._rest = b""
        self._texts: dict[bytes, bytes] = {}

    def asks(self, data: bytes) -> Iterator[bytes]:
        """Each statement that is to be done, prepared or not, with its values."""
        self._rest += data
        while len(self._rest) >= 5:
            kind = self._rest[:1].strip(b"\0")  # what a connection begins with has none
            size = len(kind) + int.from_bytes(self._rest[len(kind) : len(kind) + 4])
            if len(self._rest) < size:
                return
            message, self._rest = self._rest[len(kind) + 4 : size], self._rest[size:]
            if kind == b"P":
                name, text, _ = message.split(b"\0", 2)
                self._texts[name] = text
            elif kind == b"B":
                _, name, values = message.split(b"\0", 2)
                yield self._texts[name] + b"\0" + values


@dataclass(eq=False)
class Link:
    """One connection: the client's side and the server's."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    asking: Client = field(default_factory=Client)
    transaction: bytes = b""  # what the client has asked for since its last BEGIN
    is_losing: bool = False  # the answer to the COMMIT that is under way
    is_answered: bool = False  # though it gets through
    is_dead: bool = False  # swallowed: neither side hears of the other again

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Passes everything on to `url`'s server, until it is told otherwise."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._links: set[Link] = set()
        self._is_swallowing = False
        self._loss: Loss | None = None
        self._loop = asyncio.new_event_loop()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.url = urlunsplit(self._target._replace(netloc=f"{self._target.username}@127.0.0.1:{self.port}"))

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", backlog=LISTEN_BACKLOG)
        return int(self._server.sockets[0].getsockname()[1])

    def swallow(self) -> None:
        """From now on everything is taken and nothing comes back; no connection is closed."""
        self._call(self._swallow)

    def _swallow(self) -> None:
        self._is_swallowing = True
        for link in self._links:
            link.is_dead = True

    def stall(self) -> None:
        """From now on everything waits, to be passed on later."""
        self._call(self._is_open.clear)

    def heal(self) -> None:
        """From now on all is well, save for the connections that were swallowed."""
        self._call(self._heal)

    def _heal(self) -> None:
        self._is_swallowing = False
        self._is_open.set()

    def lead_to(self, url: str) -> None:
        """From now on new connections get to another server."""
        self._call(lambda: setattr(self, "_target", urlsplit(url)))

    def cut(self) -> None:
        """Ends every connection, as a reset does."""
        self._call(self._cut)

    def _cut(self) -> None:
        for link in self._links:
            link.cut()

    def lose(self, loss: Loss) -> Loss:
        """Cuts a connection between its COMMIT and the answer."""
        self._call(lambda: setattr(self, "_loss", loss))
        return loss

    def _call(self, act: Callable[[], Any]) -> None:
        async def do() -> None:
            act()

        asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        self._heal()
        await asyncio.sleep(0)  # what was just accepted gets its task
        while serving := asyncio.all_tasks() - {asyncio.current_task()}:
            self._cut()
            await asyncio.wait(serving, timeout=0.1)  # one that was connecting has its link by then

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            client.transport.abort()  # as refused as it can be
            return
        link = Link(client, server, is_dead=self._is_swallowing)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass_on(link, reader, server, self._is_sent), self._pass_on(link, answers, client, self._is_heard)
            )
        except OSError:
            pass
        finally:
            link.cut()
            self._links.discard(link)

    async def _pass_on(
        self,
        link: Link,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        passes: Callable[[Link, bytes], bool],
    ) -> None:
        while data := await source.read(65536):
            await self._is_open.wait()
            if link.is_dead:
                continue
            goes_on = passes(link, data)
            if goes_on or link.is_answered:
                target.write(data)
                await target.drain()
            if not goes_on:
                raise ConnectionAbortedError
        if not link.is_dead:  # who swallows says nothing of an end either
            raise ConnectionAbortedError

    def _is_sent(self, link: Link, data: bytes) -> bool:
        for statement in link.asking.asks(data):
            link.transaction = statement if statement.startswith(b"BEGIN") else link.transaction + statement
            is_over = statement.startswith(b"COMMIT\0") and b"READ WRITE" in link.transaction
            if is_over and self._loss and self._loss.takes(link.transaction):
                link.is_losing, link.is_answered = True, self._loss.is_answered
        return True

    def _is_heard(self, link: Link, data: bytes) -> bool:
        return not (link.is_losing and b"COMMIT\0" in data)


@contextlib.contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
