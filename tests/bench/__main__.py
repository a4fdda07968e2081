"""`make bench`: what this machine does, beside what it could do at most, in one run.

    make bench                                  every row, about four minutes
    make bench ROWS="submit list"               some
    make bench ROWS="claims --finished 5000000"
    make bench ROWS="submit --postgresql"       on the server of BENCH_DATABASE_URL, or on a throw-away one

Whatever has a limit is measured in turn with it, A B A B …; the table has medians, and the median of the rounds'
ratios. `wrk` makes the load and shares the machine's cores with what it measures.
"""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench import claims, idle, machine, spread, tasks, tokens
from tests.bench.databases import Databases
from tests.bench.lab import Lab, Options
from tests.bench.table import HEAD, Row, line
from tests.postgres import new_cluster

UNLOADED = (*idle.ROWS, *claims.ROWS)
ROWS = {
    row.name: row for row in (*UNLOADED, *tasks.ROWS, *spread.ROWS, *tokens.ROWS)
}  # idle ones first: all processes are fresh


def arguments() -> tuple[list[Row], Options]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of one load")
    parser.add_argument("--idle-seconds", type=int, default=10)
    parser.add_argument("--finished", type=int, default=100_000, help="tasks that `claims` has beside it")
    parser.add_argument("--page", type=int, default=1000, help="that `page` asks for")
    parser.add_argument("--tasks", type=int, default=100_000, help="that `growth` runs")
    parser.add_argument("--postgresql", action="store_true", help="on BENCH_DATABASE_URL, or on a throw-away server")
    given = vars(parser.parse_args())
    names = given.pop("rows") or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    return [row for name, row in ROWS.items() if name in names], Options(**given)


def server(undo: ExitStack) -> str:
    """The URL of a server for this run."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        return url
    cluster = new_cluster(fsync=True)
    undo.callback(cluster.remove)
    return cluster.url


def main() -> None:
    rows, options = arguments()
    if not shutil.which("wrk") and not set(rows) <= set(UNLOADED):
        raise SystemExit("make bench needs wrk (Debian: apt-get install wrk)")
    state = Path("var").resolve()  # where databases live; /tmp may be in memory, where an fsync costs nothing
    state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=state) as name, ExitStack() as undo:
        databases = Databases(Path(name), server(undo) if options.postgresql else "", undo)
        lab = Lab(Path(name), databases, options, undo)
        python = sys.version.split()[0]
        print(f"{machine.described()}, Python {python}, {databases.engine()}; ", end="")
        print(f"medians of {options.rounds} rounds of {options.seconds} s\n\n{HEAD}", flush=True)
        for row in rows:
            if measured := row.measure(lab):
                print(line(row, measured, is_postgresql=databases.is_postgresql), flush=True)


if __name__ == "__main__":
    main()
