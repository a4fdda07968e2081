"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): a repeated request gets the first answer again.

The key is stored in the transaction that does the work, so there is never one without the other, and of two requests at
once the second finds what the first has committed.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from starlette.requests import Request

from shared import pruning
from shared.database import Row, Transaction
from shared.errors import BadRequest, Problem
from shared.middleware.single_headers import single_header

KEPT_MS = 24 * 3600 * 1000
KEY = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyKey(NamedTuple):
    """`owner` is the caller; `is_counted`: the kept answer counts toward the owner's quota."""

    scope: str  # caller and route
    key: str
    fingerprint: str
    owner: str = ""
    is_counted: bool = False


class Answer(NamedTuple):
    status: int
    body: str
    is_replay: bool = False
    headers: tuple[tuple[str, str], ...] = ()  # of its own, beside those of every answer


def key_of(
    request: Request[Any], route: str, caller: str, body: Callable[[], Any], *, is_counted: bool = False
) -> IdempotencyKey | None:
    """The request's key, None without one. `route` is its route's name, which no prefix of a proxy changes. `body`
    gives what makes it another request, and is called where there is a key. Raises 400 for a malformed one."""
    sent = single_header(request.scope, b"idempotency-key")
    if sent is None:
        return None
    if sent.startswith('"') and sent.endswith('"') and len(sent) >= 2:
        sent = sent[1:-1]  # the draft's form is a quoted string (RFC 8941 §3.3.3); bare ones are common
    if not KEY.fullmatch(sent):
        raise BadRequest("invalid_idempotency_key", "Idempotency-Key: 1 to 255 visible ASCII characters")
    canonical = json.dumps(body(), sort_keys=True).encode()
    return IdempotencyKey(f"{route} {caller}", sent, hashlib.sha256(canonical).hexdigest(), caller, is_counted)


class KeyRow(NamedTuple):
    """`headers` is JSON, None without any."""

    fingerprint: str
    status: int
    body: str
    headers: str | None
    expires_at: int
    owner: str
    bytes: int


FIND = f"""
SELECT {", ".join(KeyRow._fields)} FROM idempotency_key
WHERE scope = :scope AND key = :key FOR UPDATE
"""

REMOVE = "DELETE FROM idempotency_key WHERE scope = :scope AND key = :key"

KEEP = """
INSERT INTO idempotency_key (scope, key, fingerprint, status, body, headers, expires_at, owner, bytes)
VALUES (:scope, :key, :fingerprint, :status, :body, :headers, :expires_at, :owner, :bytes)
"""

COUNT = """
INSERT INTO kept_answers (owner, bytes) VALUES (:owner, :bytes)
ON CONFLICT (owner) DO UPDATE SET bytes = kept_answers.bytes + excluded.bytes
"""

# For keys that were copied from another database, beside those that were there.
RECOUNT = """
INSERT INTO kept_answers (owner, bytes)
SELECT :owner, coalesce(sum(bytes), 0) FROM idempotency_key WHERE owner = :owner AND owner <> ''
ON CONFLICT (owner) DO UPDATE SET bytes = excluded.bytes
"""

GIVE_BACK = "UPDATE kept_answers SET bytes = bytes - :bytes WHERE owner = :owner"


def once(tx: Transaction, key: IdempotencyKey | None, work: Callable[[], Answer]) -> Answer:
    """`work()`'s answer, or the one that it gave for this key before. Raises 422 when the key was
    used with another body."""
    if key is None:
        return work()
    tx.lock(f"idempotency {key.scope} {key.key}")
    row = tx.one(FIND, scope=key.scope, key=key.key)
    found = KeyRow(*row) if row else None
    if found is None or found.expires_at <= tx.now:
        if found:  # expired, and not pruned yet
            tx.put(REMOVE, scope=key.scope, key=key.key)
            _give_back(tx, [(found.owner, found.bytes)])
        answer = work()
        _keep(tx, key, answer)
        return answer
    if found.fingerprint != key.fingerprint:
        raise Problem("idempotency_key_reused", "this key was used with another body", status=422)
    return Answer(found.status, found.body, is_replay=True, headers=tuple(json.loads(found.headers or "{}").items()))


def _keep(tx: Transaction, key: IdempotencyKey, answer: Answer) -> None:
    size = len(answer.body.encode()) if key.is_counted else 0
    tx.put(
        KEEP,
        scope=key.scope,
        key=key.key,
        fingerprint=key.fingerprint,
        status=answer.status,
        body=answer.body,
        headers=json.dumps(dict(answer.headers)) if answer.headers else None,
        expires_at=tx.now + KEPT_MS,
        owner=key.owner,
        bytes=size,
    )
    if size:
        tx.put(COUNT, owner=key.owner, bytes=size)


def prune(tx: Transaction) -> int:
    """Deletes up to MAX_PRUNED expired keys; how many."""
    freed = pruning.delete_expired(tx, "idempotency_key", "scope, key", returning="owner, bytes")
    _give_back(tx, freed)
    return len(freed)


def forget(tx: Transaction, owner: str) -> bool:
    """Deletes some keys of a deleted owner; False once none is left."""
    if pruning.delete(tx, "idempotency_key", "scope, key", "owner = :owner AND owner <> ''", owner=owner):
        return True
    tx.put("DELETE FROM kept_answers WHERE owner = :owner", owner=owner)
    return False


def _give_back(tx: Transaction, freed: Iterable[Row]) -> None:
    bytes_of: Counter[str] = Counter()
    for owner, size in freed:
        bytes_of[owner] += size
    for owner, size in sorted(bytes_of.items()):  # sorted: a fixed lock order cannot deadlock
        if size:
            tx.put(GIVE_BACK, owner=owner, bytes=size)
