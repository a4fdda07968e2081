"""Users, OAuth 2 bearer tokens, and each user's own JSON data."""

import sys

import shared

if not hasattr(shared, "VERSION"):
    line = f"{shared.__file__}: only-post has a package of its own called `shared`; give yours another name"
    if sys.argv[0] == "-m":  # python -m: one line instead of a traceback
        sys.exit(line)
    raise ImportError(line)
