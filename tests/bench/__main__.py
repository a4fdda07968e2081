"""`make bench`: what this machine does, beside what it could do at most, in one run.

Everything is measured in turn and repeated; the table shows medians, and ratios to the limit (see limit.py) of the
same run. `wrk` makes the load and shares the machine's cores with what it measures. BENCH_ROUNDS and BENCH_SECONDS
change how long it takes.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import requests

from tests.bench import tasks, tokens
from tests.bench.load import ROUNDS, SECONDS
from tests.processes import Process, eventually, free_port


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 404
    except requests.ConnectionError:
        return False


def main() -> None:
    if not shutil.which("wrk"):
        raise SystemExit("make bench needs wrk (Debian: apt-get install wrk)")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {ROUNDS} rounds of {SECONDS} s, medians\n")
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), free_port()
        limit = Process(directory, "-m", "tests.bench.limit", str(port), name="limit")
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url), 30)
        for part in (tasks, tokens):
            part.run(directory, url)
        limit.kill()


if __name__ == "__main__":
    main()
