"""`traceparent`, the W3C header (https://www.w3.org/TR/trace-context/#traceparent-header): kept and passed on as it
came; no span is made here."""

import re
from typing import Any

from starlette.requests import Request

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,200})?")


def traceparent_of(request: Request[Any]) -> str | None:
    """None where there is none, or one that has to be ignored: malformed, or sent twice (§4.3)."""
    sent = request.headers.getlist("traceparent")
    if len(sent) != 1 or not TRACEPARENT.fullmatch(sent[0]) or (sent[0].startswith("00-") and len(sent[0]) != 55):
        return None
    return sent[0]
