"""Whether this machine's clock is synchronised."""

import ctypes
import sys

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 1024  # struct timex has 208 on 64 bits


def is_synchronised() -> bool:
    """True where the system does not say."""
    if sys.platform != "linux":
        return True
    query = ctypes.create_string_buffer(TIMEX_BYTES)  # modes = 0 changes nothing
    return int(ctypes.CDLL(None).adjtimex(query)) != TIME_ERROR
