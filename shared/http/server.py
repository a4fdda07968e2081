"""uvicorn as this project runs it."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn, TypeVar

import uvicorn
from starlette.types import ASGIApp

from shared.database import connection
from shared.errors import NO_EXTENSION, Extension
from shared.http import connections, tls
from shared.http.protocol import Protocol
from shared.middleware.forwarded import Forwarded
from shared.settings import Settings, SettingsError

KEEP_ALIVE_SECONDS = 95  # Heroku's router reuses a connection for 90 s and can't repeat a POST
GRACEFUL_SECONDS = 3  # foreman and overmind kill after 5
GARBAGE_OBJECTS = 10_000  # with Python's own 700 it looks for cycles many times a second
EXIT_FAILURE = 3  # uvicorn's supervisor does not start a process again that ended with 3

log = logging.getLogger(__name__)


def serve(
    app: ASGIApp,
    settings: Settings,
    host: str | None = None,
    port: int | None = None,
    extension: Extension = NO_EXTENSION,
) -> None:
    """Runs `app` until SIGTERM or SIGINT. A start that fails ends with one line and exit status 3. `extension` is for
    errors that the application does not make."""
    context = _tls_or_fail(settings)
    most = settings.max_connections or connections.most_connections()
    listener = _bind(host or settings.host, settings.port if port is None else port)
    config = uvicorn.Config(
        Forwarded(app, settings.forwarded_allow_ips),
        http=partial(Protocol, origins=settings.cors_origins, extension=extension),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        workers=1,  # not WEB_CONCURRENCY, which Heroku sets from the size of the dyno
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        proxy_headers=False,  # Forwarded does that
        root_path=settings.root_path,
        ssl_context_factory=(lambda config, default: context) if context else None,
    )
    with suppress(KeyboardInterrupt):  # after its shutdown uvicorn raises the signal once more
        Server(config, most).run(sockets=[listener])


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, max_connections: int) -> None:
        super().__init__(config)
        connections.of(self.server_state, max_connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # what the start has made lives as long as the process
        gc.set_threshold(GARBAGE_OBJECTS)
        for listener in sockets or []:
            log.info("server.listening", extra={"url": self._url_of(listener)})

    def _url_of(self, listener: socket.socket) -> str:
        host, port = listener.getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _tls_or_fail(settings: Settings) -> ssl.SSLContext | None:
    try:
        return tls.server_context(settings)
    except SettingsError as error:
        fail(str(error))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror as error:
        fail(f"HOST: not an address of this machine ({error.strerror})")
    except OSError as error:
        variable = "HOST" if error.errno == errno.EADDRNOTAVAIL else "PORT"
        fail(f"{variable}: can't listen on {host} port {port} ({error.strerror})")
    except OverflowError:
        fail("PORT: must be a whole number from 0 to 65535")
    return listener


S = TypeVar("S", bound=Settings)


def settings_or_fail(cls: type[S], *, makes_files: bool = True) -> S:
    try:
        return cls.from_env(os.environ, makes_files=makes_files)
    except SettingsError as error:
        fail(str(error))


def settings_under_uvicorn(cls: type[S]) -> S:
    """The settings for `uvicorn …:app`. Those that uvicorn's own options replace would have no effect: they end the
    start."""
    settings = settings_or_fail(cls)
    if settings.tls_cert_file:
        fail("TLS_CERT_FILE: uvicorn's own command takes --ssl-certfile and --ssl-keyfile instead")
    if settings.app_env == "production" and "*" in os.environ.get("FORWARDED_ALLOW_IPS", ""):
        fail("FORWARDED_ALLOW_IPS: uvicorn's own command would honour *; name your proxies, or start by python -m")
    return settings


def log_start(settings: Settings, **more: object) -> None:
    """Logs the settings that services of one system must have alike."""
    database = connection.described(settings.database_url)
    log.info("service.started", extra={"database": database, "secret": settings.secret_origin, **more})


def fail(line: str) -> NoReturn:
    """Ends the start with one line for the operator."""
    print(line, file=sys.stderr, flush=True)
    sys.exit(EXIT_FAILURE)


def fail_now(line: str) -> NoReturn:
    """Ends the process with one line from inside the server's start, which would make a traceback of an exception."""
    print(line, file=sys.stderr, flush=True)
    os._exit(EXIT_FAILURE)


def leave() -> None:
    """Ends the process during its start, when there is nothing to clean up."""
    os._exit(0)


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` in the loop on SIGTERM and SIGINT, then the previous handler.

    uvicorn gives a handler that waits no sign that it is stopping (Kludex/uvicorn#2829, #2913).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        before = previous[signal.Signals(number)]
        if callable(before):
            before(number, frame)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
