"""`python -m tests.bench.compare`: other queues on this machine, as they come from the registry.

    python -m tests.bench.compare                       all of them, about a minute; an environment in var/peers
    python -m tests.bench.compare procrastinate huey    some

Each runs its own jobs in one process, without HTTP and without results, beside a throw-away PostgreSQL or on a file:
what one submits in a second with 32 at once, what is submitted and run with 16 at once, and the idle way from a submit
to the end of the job.
"""

import json
import subprocess
import sys
import tempfile
import venv
from contextlib import ExitStack
from pathlib import Path

from tests.bench.machine import described
from tests.postgres import new_cluster

PEERS = Path(__file__).parent / "peers"
PACKAGES = {
    "procrastinate": ["procrastinate", "psycopg[binary]"],
    "pgqueuer": ["pgqueuer", "asyncpg"],
    "huey": ["huey"],
}
ON_A_FILE = {"huey"}
HEAD = "| | submits | submitted and run | idle round trip p50 |\n|---|---:|---:|---:|"


def environment(names: list[str]) -> Path:
    """The Python that has the packages."""
    place = Path("var/peers").resolve()
    if not (place / "bin/python").exists():
        venv.create(place, with_pip=True)
    packages = [package for name in names for package in PACKAGES[name]]
    subprocess.run([place / "bin/pip", "install", "--quiet", *packages], check=True)
    return place / "bin/python"


def main() -> None:
    names = sys.argv[1:] or list(PACKAGES)
    if unknown := [name for name in names if name not in PACKAGES]:
        raise SystemExit(f"there is no {unknown[0]}; there are {', '.join(PACKAGES)}")
    python = environment(names)
    print(f"{described()}\n\n{HEAD}", flush=True)
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="peers-", dir="var")))
        for name in names:
            print(line(python, name, where(name, directory, undo)), flush=True)


def where(name: str, directory: Path, undo: ExitStack) -> str:
    """A file, or the URL of a server of its own."""
    if name in ON_A_FILE:
        return str(directory / name)
    cluster = new_cluster(fsync=True)
    undo.callback(cluster.remove)
    return cluster.url


def line(python: Path, name: str, place: str) -> str:
    done = subprocess.run([python, PEERS / f"{name}_peer.py", place], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rates = f"{found['submits']:,.0f}/s | {found['runs']:,.0f}/s | {found['round_trip_ms']:.1f} ms"
    return f"| {name} {found['version']} | {rates} |"


if __name__ == "__main__":
    main()
