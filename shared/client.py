"""What the Python clients of both services are made of: one HTTP session with retries, and tokens renewed in time.

ClientError            raised for everything that can go wrong
├── ServiceError       the service answered with an error (RFC 9457): status, code, detail, errors, request_id
└── NotReached         no answer of the service, after all retries
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.exceptions import ChunkedEncodingError
from requests.models import PreparedRequest

TIMEOUT_SECONDS = 30.0  # for the connection and between two bytes, on top of what a request asks to wait
RETRY_SECONDS = 60.0  # how long an overloaded or unreachable service is tried again
MAX_PAUSE_SECONDS = 10.0
EARLY_PAUSE_SECONDS = 1.0
RENEW_SECONDS = 60.0  # a token that is over sooner is renewed before it is sent
RETRIED = frozenset({429, 502, 503, 504})  # 502 and 504 are those of proxies
BROKEN = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)  # the last: cut off within its body


class ClientError(Exception):
    pass


class ServiceError(ClientError):
    """`code` is the stable one of the contract; `errors` has one entry a fault, each with a JSON pointer."""

    def __init__(self, answer: requests.Response) -> None:
        try:
            told = answer.json()
        except ValueError:
            told = {}
        told = told if isinstance(told, dict) else {}
        self.status = answer.status_code
        self.code = str(told.get("code", ""))
        self.detail = str(told.get("detail") or answer.reason)
        self.errors: list[dict[str, str]] = told.get("errors", [])
        self.request_id = str(told.get("request_id") or answer.headers.get("X-Request-ID", ""))
        super().__init__(f"{self.status} {self.code}: {self.detail} (request {self.request_id})")


class NotReached(ClientError):
    pass


class Service:
    """One service at `url`. Safe to share between threads as far as requests.Session is: use one for each thread where
    many requests run at once.

    `auth` is anything that requests takes; `retry_seconds` bounds the retries of 429, 503 and broken connections.
    """

    def __init__(
        self,
        url: str,
        auth: AuthBase | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        session: requests.Session | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.session = session or requests.Session()
        self._auth = auth
        self._timeout = timeout
        self._retry_seconds = retry_seconds

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        form: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0,
        auth: AuthBase | tuple[str, str] | None = None,
    ) -> requests.Response:
        """The answer, below 400. `wait` is how long the service may hold it. Raises ServiceError and NotReached."""
        request = requests.Request(
            method, f"{self.url}{path}", json=body, data=form, params=query, headers=headers, auth=auth or self._auth
        )
        deadline = time.monotonic() + self._retry_seconds
        for pause in _pauses():
            try:
                answer = self._send(request, self._timeout + wait)
            except requests.RequestException as error:
                if not isinstance(error, BROKEN) or time.monotonic() + pause > deadline:
                    raise NotReached(str(error)) from error
            else:
                if answer.status_code < 400:
                    return answer
                pause = max(pause, _retry_after(answer))
                if answer.status_code not in RETRIED or time.monotonic() + pause > deadline:
                    raise ServiceError(answer)
            time.sleep(pause)
        raise AssertionError("pauses have no end")

    def fetch(self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """The answer's JSON object; options are those of `call`. Raises ServiceError and NotReached."""
        answer = self.call(method, path, body, **options)
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):  # the page of a proxy, or of another server
            raise NotReached(f"{answer.url} answered {answer.status_code} with no JSON object")
        return value

    def _send(self, request: requests.Request, timeout: float) -> requests.Response:
        """The answer, by a new token where the first one is refused."""
        answer = self.session.send(self.session.prepare_request(request), timeout=timeout)
        if answer.status_code == 401 and isinstance(request.auth, Bearer):
            request.auth.forget(answer.request)
            answer = self.session.send(self.session.prepare_request(request), timeout=timeout)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.session.close()


def _retry_after(answer: requests.Response) -> float:
    """Seconds from now (RFC 9110 §10.2.3: a number of them, or a date). 0 where it says nothing that can be read."""
    said = answer.headers.get("Retry-After", "")
    try:
        return float(said) if said.isdigit() else parsedate_to_datetime(said).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0


def _pauses() -> Iterator[float]:
    """Seconds between retries: doubled each time, with jitter of half, so that clients do not retry in step."""
    pause = 0.1
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(MAX_PAUSE_SECONDS, pause * 2)


def pause_after(asked_at: float, wait: float) -> float:
    """Seconds to pause before the next request: up to one where the last was to be held for `wait` and was answered
    sooner, as a service does that is overloaded or stopping. `asked_at` is of time.monotonic."""
    return max(0.0, min(EARLY_PAUSE_SECONDS, asked_at + wait - time.monotonic()))


def new_key() -> dict[str, str]:
    """An Idempotency-Key for one write: sent again, it makes nothing twice."""
    return {"Idempotency-Key": uuid.uuid4().hex}


class Bearer(AuthBase):
    """A bearer token for every request, renewed in time, once for all threads. `get` fetches a new answer of /token."""

    def __init__(self, get: Callable[[], Mapping[str, Any]], answer: Mapping[str, Any] | None = None) -> None:
        self._get = get
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0
        if answer is not None:
            self._take(answer)

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token()}"
        return request

    def token(self) -> str:
        """An access token that is good for another minute. Raises ServiceError and NotReached."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._take(self._get())
            return self._token

    def forget(self, refused: PreparedRequest) -> None:
        """The service refused the token of that request: a new one is fetched, unless another thread has done so."""
        with self._lock:
            if refused.headers.get("Authorization") == f"Bearer {self._token}":
                self._until = 0.0

    def _take(self, answer: Mapping[str, Any]) -> None:
        seconds = float(answer["expires_in"])
        self._token = str(answer["access_token"])
        self._until = time.monotonic() + seconds - min(RENEW_SECONDS, seconds / 2)


class ClientCredentials(Bearer):
    """Tokens for a machine client (RFC 6749 §4.4): `url` is the token service's."""

    def __init__(self, url: str, client_id: str, secret: str, scope: str | None = None, **options: Any) -> None:
        service = Service(url, **options)
        form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        credentials = Basic(client_id, secret)
        super().__init__(lambda: service.fetch("POST", "/token", form=form, auth=credentials))


class Basic(AuthBase):
    """A client's id and secret, percent-encoded first (RFC 6749 §2.3.1)."""

    def __init__(self, client_id: str, secret: str) -> None:
        self._basic = HTTPBasicAuth(quote(client_id, safe=""), quote(secret, safe=""))

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        self._basic(request)
        return request
