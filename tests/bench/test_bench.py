"""That `make bench` still measures; what it measures is nobody's business here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

BRIEFLY = ["--rounds=1", "--seconds=1", "--idle-seconds=1", "--finished=500", "--page=2"]
ROWS = os.environ.get("BENCH_ROWS", "start").split()
LOADED = {"run", "round-trip", "page"}  # which wrk loads


def bench(directory: Path, *arguments: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *BRIEFLY, *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": path or str(Path(shutil.which("wrk") or sys.executable).parent)},
        capture_output=True,
        text=True,
    )


def test_it_prints_a_table_with_a_line_for_each_row(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row not in LOADED or shutil.which("wrk")]
    done = bench(tmp_path, *rows)
    assert (done.returncode, done.stderr) == (0, "")
    machine, _, *table = done.stdout.splitlines()
    assert "Python" in machine
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {6}
    assert list((tmp_path / "var").iterdir()) == []


def test_without_wrk_it_says_so_at_once(tmp_path: Path) -> None:
    done = bench(tmp_path, "start", "submit", path=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "make bench needs wrk (Debian: apt-get install wrk)\n"


def test_an_unknown_row_is_named_beside_those_there_are(tmp_path: Path) -> None:
    done = bench(tmp_path, "sumbit")
    assert done.returncode == 2
    assert "there is no row sumbit; there are start, cpu" in done.stderr
