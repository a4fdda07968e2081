"""Idempotency-IdempotencyKey (draft-ietf-httpapi-idempotency-key-header-07): the first answer, again.

The key is stored in the transaction that does the work, so there is never one without the other,
and of two that race the second finds what the first has committed.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.requests import Request

from shared.database import Transaction
from shared.errors import BadRequest, Problem
from shared.middleware.single_headers import single_header

KEPT_MS = 24 * 3600 * 1000
KEY = re.compile(r"[\x21-\x7e]{1,255}")
MAX_PRUNED = 500


class IdempotencyKey(NamedTuple):
    scope: str  # caller and route
    key: str
    fingerprint: str


class Answer(NamedTuple):
    status: int
    body: str
    is_replay: bool = False


def key_of(request: Request[Any], route: str, caller: str, body: Any) -> IdempotencyKey | None:
    """The request's key, None without one. `route` is its route's name, which no prefix of a proxy changes.
    Raises 400 for a malformed one."""
    sent = single_header(request.scope, b"idempotency-key")
    if sent is None:
        return None
    if sent.startswith('"') and sent.endswith('"') and len(sent) >= 2:
        sent = sent[1:-1]  # the draft's form is a quoted string (RFC 8941 §3.3.3); bare ones are common
    if not KEY.fullmatch(sent):
        raise BadRequest("invalid_idempotency_key", "Idempotency-IdempotencyKey: 1 to 255 visible ASCII characters")
    canonical = json.dumps(body, sort_keys=True).encode()
    return IdempotencyKey(f"{route} {caller}", sent, hashlib.sha256(canonical).hexdigest())


FIND = """
SELECT fingerprint, status, body FROM idempotency_key
WHERE scope = :scope AND key = :key AND expires_at > :now
"""

# An expired one that has not been pruned yet gives way.
KEEP = """
INSERT INTO idempotency_key (scope, key, fingerprint, status, body, expires_at)
VALUES (:scope, :key, :fingerprint, :status, :body, :expires_at)
ON CONFLICT (scope, key) DO UPDATE SET
    fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
    expires_at = excluded.expires_at
"""

PRUNE = """
DELETE FROM idempotency_key WHERE (scope, key) IN (
    WITH old AS MATERIALIZED (
        SELECT scope, key FROM idempotency_key WHERE expires_at <= :now ORDER BY expires_at LIMIT :most
        FOR UPDATE SKIP LOCKED
    )
    SELECT scope, key FROM old
)
"""


def once(tx: Transaction, key: IdempotencyKey | None, work: Callable[[], Answer]) -> Answer:
    """`work()`'s answer, or the one that it gave for this key before. Raises 422 when the key was
    used with another body."""
    if key is None:
        return work()
    tx.lock(f"idempotency {key.scope} {key.key}")
    found = tx.one(FIND, scope=key.scope, key=key.key, now=tx.now)
    if found is None:
        answer = work()
        tx.put(KEEP, **key._asdict(), status=answer.status, body=answer.body, expires_at=tx.now + KEPT_MS)
        return answer
    fingerprint, status, body = found
    if fingerprint != key.fingerprint:
        raise Problem("idempotency_key_reused", "this key was used with another body", status=422)
    return Answer(status, body, is_replay=True)


def prune(tx: Transaction) -> int:
    return tx.run(PRUNE, now=tx.now, most=MAX_PRUNED)
