"""Webhooks: the end of a task is sent to the URL of its `notify`, signed as Standard Webhooks has it
(standardwebhooks.com), at least once.

Triggers make a webhook due in the transaction that ends its task (schema/0005). A worker that takes it sets `next_at`
to when another may take it; that value is also the fence under which the worker stores how the delivery went.
"""

import base64
import hmac
import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from shared.database import Transaction, listed
from shared.settings import Secret
from shared.strict_json import encode

MAX_URL_LENGTH = 2048
AGAIN_SECONDS = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)  # after each failure
HELD_SECONDS = 60  # for one delivery, which takes ten at most
MAX_HOSTS = 500  # looked at in one transaction
MAX_ERROR_LENGTH = 200
GONE = 410
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9._])?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Webhook(NamedTuple):
    """A row of the table, in the order of COLUMNS."""

    task_id: str
    url: str
    host: str
    status: str
    number: int
    attempts: int
    last_error: str | None
    next_at: int | None
    traceparent: str | None = None

    @property
    def message_id(self) -> str:
        """The `webhook-id`: the same for all attempts to tell of one end."""
        return self.task_id if self.number <= 1 else f"{self.task_id}.{self.number}"

    @property
    def json(self) -> str:
        """What a task shows as `notify`."""
        shown = {"url": self.url, "status": self.status, "attempts": self.attempts, "last_error": self.last_error}
        return encode(shown)


@dataclass(frozen=True)
class Receivers:
    """Where webhooks may go: anywhere in development; in production to public addresses by https, and to the named
    hosts."""

    named: Collection[str] = field(default_factory=frozenset)
    is_production: bool = False

    def fault(self, url: str) -> str | None:
        """What is wrong with a URL, as far as that shows before its name is resolved."""
        parts = _split(url)
        if parts is None:
            return "must be an https:// URL of printable ASCII, without a user or a fragment"
        if parts.scheme == "http" and self.is_production and not self.is_named(parts.hostname or ""):
            return "must be https:// in production"
        return None

    def is_named(self, host: str) -> bool:
        return host.lower() in self.named

    def may_connect(self, host: str, address: Address) -> bool:
        return not self.is_production or self.is_named(host) or is_public(address)


ANYWHERE = Receivers()


def _split(url: str) -> SplitResult | None:
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme in ("http", "https") and parts.port != 0 and not parts.fragment
    except ValueError:  # an invalid port or IPv6 address
        return None
    is_fit = is_fit and "@" not in parts.netloc and not parts.netloc.endswith(":") and _is_host(parts)
    return parts if is_fit else None


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if ":" not in host:
        return HOST.fullmatch(host) is not None
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def is_public(address: Address) -> bool:
    """Whether the address is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):  # within 2000::/3, 6to4 alone embeds an IPv4 address
        return address in GLOBAL_UNICAST and address.is_global and address.sixtofour is None
    return address.is_global and not address.is_multicast and not address.is_reserved


GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291 §2.4: mapped and translated IPv4 lie outside


def signing_secrets(given: Sequence[Secret], lasting: Sequence[bytes]) -> list[Secret]:
    """WEBHOOK_SECRET's or, so that nothing is sent unsigned, one of each lasting secret."""
    return list(given) or [Secret(hmac.digest(secret, b"webhook", "sha256")) for secret in lasting]


def signature(secrets: Sequence[Secret], message_id: str, timestamp: int, body: bytes) -> str:
    """One signature for each secret, so that receivers can change secrets while two are in use."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(secret.value, signed, "sha256") for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


COLUMNS = ", ".join(Webhook._fields)
INSERT = """
INSERT INTO webhook (task_id, url, host, status, number, attempts, traceparent)
VALUES (:id, :url, :host, 'pending', 0, 0, :traceparent)
"""


def keep(tx: Transaction, task_id: str, url: str, traceparent: str | None = None) -> Webhook:
    """Stores a webhook, in the transaction that makes its task."""
    host = urlsplit(url).netloc.lower()
    tx.put(INSERT, id=task_id, url=url, host=host, traceparent=traceparent)
    tx.put("UPDATE task SET has_webhook = 1 WHERE id = :id", id=task_id)
    return Webhook(task_id, url, host, "pending", 0, 0, None, None, traceparent)


def drop(tx: Transaction, task_id: str) -> None:
    """Deletes the webhook of a task that has not started."""
    tx.put("DELETE FROM webhook WHERE task_id = :id", id=task_id)
    tx.put("UPDATE task SET has_webhook = 0 WHERE id = :id", id=task_id)


def find(tx: Transaction, task_ids: Collection[str]) -> dict[str, Webhook]:
    """The webhooks of these tasks, by task id."""
    ids, values = listed("id", task_ids)
    rows = tx.all(f"SELECT {COLUMNS} FROM webhook WHERE task_id IN {ids}", **values) if task_ids else []
    return {row[0]: Webhook(*row) for row in rows}


NEXT_AT = """
SELECT next_at FROM webhook WHERE status = 'pending' AND next_at IS NOT NULL ORDER BY next_at LIMIT 1
"""


def seconds_to_next(tx: Transaction) -> float | None:
    row = tx.one(NEXT_AT)
    return (row[0] - tx.now) / 1000 if row else None


# A skip scan: one step of the index for each host.
DUE_HOSTS = """
WITH RECURSIVE found (host, number) AS (
    SELECT (SELECT host FROM webhook WHERE next_at IS NOT NULL AND host > :after ORDER BY host LIMIT 1), 1
    UNION ALL
    SELECT (SELECT host FROM webhook WHERE next_at IS NOT NULL AND host > found.host ORDER BY host LIMIT 1), number + 1
    FROM found WHERE found.host IS NOT NULL AND number < :most
)
SELECT host, (SELECT min(next_at) FROM webhook WHERE next_at IS NOT NULL AND webhook.host = found.host)
FROM found WHERE host IS NOT NULL ORDER BY host
"""

TAKE = f"""
UPDATE webhook SET next_at = :until WHERE task_id IN (
    WITH due AS MATERIALIZED (
        SELECT task_id FROM webhook WHERE next_at IS NOT NULL AND host = :host AND next_at <= :now
        ORDER BY next_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    SELECT task_id FROM due
) RETURNING {COLUMNS}
"""


def take(tx: Transaction, after: str, hands: int, free: "Hands") -> tuple[list[Webhook], str]:
    """Takes up to `hands` webhooks that are due: of each host as many as `free` gives, beginning with the host after
    `after`. And the host to go on after, '' at the end of all hosts."""
    taken: list[Webhook] = []
    hosts = tx.all(DUE_HOSTS, after=after, most=MAX_HOSTS)
    for host, due in hosts:
        most = min(free(host), hands - len(taken))
        if due <= tx.now and most > 0:
            rows = tx.all(TAKE, host=host, most=most, now=tx.now, until=tx.now + HELD_SECONDS * 1000)
            taken += [Webhook(*row) for row in rows]
        if len(taken) == hands:
            return taken, host
    return taken, hosts[-1][0] if len(hosts) == MAX_HOSTS else ""


class Hands:
    """How many more deliveries to a host may run at once; called with its name."""

    def __init__(self, in_flight: Sequence[str], slow: Collection[str], most: int, most_of_slow: int) -> None:
        self._in_flight = in_flight
        self._slow = slow
        self._most = most
        self._most_of_slow = most_of_slow

    def __call__(self, host: str) -> int:
        return (self._most_of_slow if host in self._slow else self._most) - self._in_flight.count(host)


# coalesce hides next_at from the planner, which then finds the row by its id.
OF_HELD = "WHERE task_id = :task_id AND number = :number AND coalesce(next_at, 0) = :held"
SENT = f"UPDATE webhook SET status = 'sent', attempts = attempts + 1, last_error = NULL, next_at = NULL {OF_HELD}"
FAILED = f"""
UPDATE webhook SET status = :status, attempts = attempts + 1, last_error = :error, next_at = :next_at {OF_HELD}
"""


def note(tx: Transaction, webhook: Webhook, error: str | None, *, is_final: bool = False) -> None:
    """Stores how an attempt went; `error` None is success. Changes nothing where another worker has taken it
    meanwhile."""
    of_held = {"task_id": webhook.task_id, "number": webhook.number, "held": webhook.next_at}
    if error is None:
        tx.put(SENT, **of_held)
        return
    is_last = is_final or webhook.attempts >= len(AGAIN_SECONDS)
    next_at = None if is_last else tx.now + AGAIN_SECONDS[webhook.attempts] * 1000
    status = "failed" if is_last else "pending"
    tx.put(FAILED, status=status, error=error[:MAX_ERROR_LENGTH], next_at=next_at, **of_held)


LIST = f"SELECT {COLUMNS} FROM webhook {{where}} ORDER BY task_id DESC LIMIT :limit"


def newest(tx: Transaction, status: str | None, limit: int) -> list[Webhook]:
    where = "WHERE status = :status" if status else ""
    return [Webhook(*row) for row in tx.all(LIST.format(where=where), status=status, limit=limit)]


SEND_AGAIN = "UPDATE webhook SET status = 'pending', attempts = 0, next_at = :now WHERE task_id = :id AND number > 0"
HAS_ENDED = "SELECT 1 FROM task WHERE id = :id AND finished_at IS NOT NULL FOR UPDATE"


def send_again(tx: Transaction, task_id: str) -> bool:
    """False unless the task has ended and has a webhook."""
    return bool(tx.one(HAS_ENDED, id=task_id)) and tx.run(SEND_AGAIN, id=task_id, now=tx.now) == 1
