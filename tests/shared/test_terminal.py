"""What commands say, on a terminal and off it."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.cli import terminal
from tests.commands import command, on_a_terminal
from tests.processes import ROOT

BAR = """
from shared.cli.terminal import bar
with bar("copying") as progress:
    progress(1, 2)
print("done")
"""
PASSWORD = "from shared.cli.terminal import read_password; print(ascii(read_password('new password')))"
CONFIRM = "from shared.cli.terminal import confirm; confirm('All of it?'); print('went on')"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    for name, source in {"bar": BAR, "password": PASSWORD, "confirm": CONFIRM}.items():
        guarded = f"import sys\nfrom shared.cli.terminal import Failure\ntry:\n    exec({source!r})\n"
        (tmp_path / f"{name}.py").write_text(f"{guarded}except Failure as failure:\n    sys.exit(str(failure))\n")
    return tmp_path


def test_a_table_is_as_wide_as_it_has_to_be() -> None:
    assert terminal.table(("A", "LONG"), [("value", 1), ("b", None)]) == "A      LONG\nvalue  1\nb      -"
    assert terminal.table(("A", "B"), []) == "A  B"


def test_fields_are_a_line_each() -> None:
    assert terminal.fields({"id": "x", "longer": ""}) == "id      x\nlonger  -"


def test_what_would_move_the_cursor_is_not_shown() -> None:
    shown = terminal.table(("A",), [("\x1b[2J\r\n\x9b1mgone",)])
    assert shown.splitlines() == ["A", "�[2J���1mgone"]


def test_a_bar_is_shown_on_a_terminal_and_taken_away(script: Path) -> None:
    status, shown = on_a_terminal(script, "bar")
    assert status == 0
    assert "copying [###############               ]  50%" in shown
    assert shown.endswith("\r\x1b[Kdone\r\n")


def test_no_bar_goes_into_a_file(script: Path) -> None:
    done = command(script, "bar")
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_password_is_asked_for_twice_and_never_shown(script: Path) -> None:
    answers = [("new password: ", "hunter2 ü"), ("once more: ", "hunter2 ü")]
    status, shown = on_a_terminal(script, "password", answers=answers)
    assert (status, shown.count("hunter2")) == (0, 1)  # once: what the script prints
    assert ascii("hunter2 ü") in shown
    status, shown = on_a_terminal(script, "password", answers=[answers[0], ("once more: ", "hunter3")])
    assert (status, "hunter" in shown) == (1, False)


def test_off_a_terminal_a_password_is_the_first_line(script: Path) -> None:
    assert command(script, "password", stdin="hunter2 ü\nmore\n").stdout == ascii("hunter2 ü") + "\n"
    assert command(script, "password", stdin="").stdout == "''\n"
    sent = subprocess.run(
        [sys.executable, "password.py"],
        input=b"\xff\n",
        cwd=script,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert (sent.returncode, sent.stderr) == (1, b"the password must be UTF-8\n")


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("yes", 0), ("n", 1), ("", 1)])
def test_what_can_not_be_undone_is_asked_for(script: Path, answer: str, status: int) -> None:
    found, shown = on_a_terminal(script, "confirm", answers=[("[y/N]", answer)])
    assert (found, "went on" in shown) == (status, status == 0)


def test_off_a_terminal_nobody_can_be_asked(script: Path) -> None:
    done = command(script, "confirm", stdin="y\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--yes" in done.stderr
