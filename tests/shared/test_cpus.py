"""How many processors a process may use."""

import os
from pathlib import Path

import pytest

from shared import cpus


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1), ("nonsense", None)]
)
def test_a_quota_bounds_them(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cpus.usable(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_a_quota_of_the_first_version_does_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("20000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpus.usable(tmp_path) == 1


def test_so_does_the_affinity_of_the_process(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpus.usable(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)
