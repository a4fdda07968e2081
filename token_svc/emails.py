"""Email addresses: which are valid, how they are stored, and when two are the same."""

import re
import unicodedata

import idna

from token_svc.names import MAX_FOLDED, fold, is_invisible

# 254 characters in all, 64 of them before the @ (RFC 5321 §4.5.3.1, and its erratum 1690).
FORM = re.compile(r"(?=.{1,254}\Z)[^\s@\"(),:;<>\[\]\\\x00-\x1f\x7f]{1,64}@[^\s@\"(),:;<>\[\]\\\x00-\x1f\x7f]{1,253}")
MAX_DOMAIN = 253  # bytes, in the form that is looked up

FULL_STOP = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490 §3.1


def fault(email: str) -> str:
    """What is wrong with it, '' when nothing is."""
    is_one = len(email) <= MAX_FOLDED and FORM.fullmatch(cleaned(email)) and _has_domain(email)
    return "" if is_one else "must be an email address"


def _has_domain(email: str) -> bool:
    """Whether the part behind @ can be found: labels of 1 to 63 bytes (RFC 1035 §2.3.4)."""
    domain = key(email).rpartition("@")[2]
    return len(domain.encode()) <= MAX_DOMAIN and all(0 < len(label.encode()) <= 63 for label in domain.split("."))


def cleaned(email: str) -> str:
    """An address as it is stored: without invisible characters, and without the final dot of the domain."""
    composed = unicodedata.normalize("NFC", email[:MAX_FOLDED])
    return "".join(character for character in composed if not is_invisible(character)).rstrip(".")


def key(email: str) -> str:
    """An address as it is compared: `X@Bücher.example.` is `x@xn--bcher-kva.example`."""
    local, at, domain = cleaned(email).rpartition("@")
    return f"{fold(local)}{at}{host(domain)}"


def host(domain: str) -> str:
    return ".".join(map(_label, FULL_STOP.split(domain))).rstrip(".")


def _label(label: str) -> str:
    try:
        return idna.encode(label, uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError):  # an emoji, an underscore: not a host's name, but people have such addresses
        return fold(label)
