"""Lists in pages, and their cursors: where the next page begins, bound to the caller and the filter."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

from shared.errors import BadRequest
from shared.schemas import Fault
from shared.strict_json import encode

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
TAG_BYTES = 16


class Cursors:
    """Opaque cursors, signed: one that was changed, of another caller or another filter is refused. The first of
    `secrets` signs, all of them verify."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [hmac.digest(secret, b"cursor", hashlib.sha256) for secret in secrets]

    def write(self, position: str, *bound: str | None) -> str:
        return base64.urlsafe_b64encode(self._tag(self._keys[0], position, bound) + position.encode()).decode()

    def read(self, cursor: str, *bound: str | None) -> str:
        """The position that `write` was given. Raises 400 `invalid_cursor`."""
        try:
            raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
            tag, position = raw[:TAG_BYTES], raw[TAG_BYTES:].decode()
        except (binascii.Error, ValueError):
            raise BadRequest("invalid_cursor", "not a cursor of this list") from None
        if base64.urlsafe_b64encode(raw).decode() != cursor or not self._is_ours(tag, position, bound):
            raise BadRequest("invalid_cursor", "not a cursor of this list")
        return position

    def _is_ours(self, tag: bytes, position: str, bound: tuple[str | None, ...]) -> bool:
        return any(hmac.compare_digest(tag, self._tag(key, position, bound)) for key in self._keys)

    @staticmethod
    def _tag(key: bytes, position: str, bound: tuple[str | None, ...]) -> bytes:
        return hmac.digest(key, repr((position, bound)).encode(), hashlib.sha256)[:TAG_BYTES]


def list_json(items: Iterable[str], **more: object) -> str:
    """`{"items": […], …}`, of items that are JSON already."""
    return f'{{"items":[{",".join(items)}]{"," if more else ""}{encode(more)[1:]}'


def number_of(query: Mapping[str, str], name: str, numbers: range, default: int, faults: list[Fault]) -> int:
    """A whole number of the query. One that is not among `numbers` is a fault."""
    text = query.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(numbers[-1]))
    if not is_number or int(text) not in numbers:
        faults.append(Fault(f"/{name}", f"must be a whole number from {numbers[0]} to {numbers[-1]}"))
        return default
    return int(text)
