"""UUIDv7 (RFC 9562 §5.7): ids that sort by the time they were made."""

import os
import re
import time

CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new() -> str:
    """Milliseconds, then 12 bits of the fraction of one so that ids of one process keep their
    order (RFC 9562 §6.2, method 3), then 62 random bits."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    high = milliseconds << 16 | 0x7000 | nanoseconds * 4096 // 1_000_000
    low = int.from_bytes(os.urandom(8)) >> 2 | 0x8000_0000_0000_0000
    digits = f"{high << 64 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_canonical(text: str) -> bool:
    return CANONICAL.fullmatch(text) is not None
