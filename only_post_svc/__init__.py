"""Python functions as a durable job API that speaks nothing but POST."""

import sys

import shared

if not hasattr(shared, "VERSION"):
    line = f"{shared.__file__}: only-post has a package of its own called `shared`; give yours another name"
    if sys.argv[0] == "-m":  # python -m: one line instead of a traceback
        sys.exit(line)
    raise ImportError(line)

from only_post_svc.registry import Context, Fail, Retry, task  # not before that is known

__all__ = ["Context", "Fail", "Retry", "task"]
