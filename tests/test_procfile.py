"""The Procfile, as the process managers read it."""

import re

import pytest

from tests.processes import ROOT

LINES = (ROOT / "Procfile").read_text().splitlines()

# As their sources have them; see also https://devcenter.heroku.com/articles/procfile
READERS = {
    "honcho and foreman": r"^([A-Za-z0-9_-]+):\s*(.+)$",
    "node-foreman": r"^([A-Za-z0-9_-]+):\s*(.+)$",
    "overmind": r"^([\w-]+):\s+(.+)$",
    "heroku": r"^([A-Za-z0-9]+):\s*(.+)$",
}


@pytest.mark.parametrize("reader", READERS)
def test_every_line_is_a_process_to_every_manager(reader: str) -> None:
    assert LINES
    assert [line for line in LINES if not re.fullmatch(READERS[reader], line)] == []


def test_every_process_has_a_name_of_its_own() -> None:
    names = [line.partition(":")[0] for line in LINES]
    assert len(set(names)) == len(names)
    assert {"web", "worker"} <= set(names)


def test_there_is_no_release_line() -> None:
    """honcho, foreman and nf would run it, see it end, and stop everything else."""
    assert not [line for line in LINES if line.startswith("release")]


def test_variables_are_in_braces() -> None:
    """foreman replaces `$NAME` before the shell sees it, also inside `$NAME_OF_ANOTHER`."""
    assert [line for line in LINES if re.search(r"\$(?!\{)", line)] == []


def test_the_shell_makes_way_for_the_process() -> None:
    """A shell that stays would get the signals."""
    assert [line for line in LINES if "exec python -m " not in line] == []


def test_there_are_no_comments_behind_a_command() -> None:
    assert [line for line in LINES if "#" in line] == []
