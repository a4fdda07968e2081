"""The project's commands, run to their end as a script or a person would run them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.processes import ROOT

SECONDS = 60
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

Done = subprocess.CompletedProcess[str]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    return clean | {"PYTHONPATH": str(ROOT)} | dict(env)


def command(directory: Path, *arguments: str, stdin: str = "", **env: str) -> Done:
    """`python -m ARGUMENTS` in `directory`."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env=environment(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def said(done: Done, status: int) -> str:
    """The one line that a command which ended with `status` has said on stderr."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


def on_a_terminal(
    directory: Path, *arguments: str, answers: Sequence[tuple[str, str]] = (), **env: str
) -> tuple[int, str]:
    """The same with somebody at a terminal, who types each answer once its question is shown: the exit status, and
    all that was to be seen."""
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, sys.executable, "-m", *arguments],
        cwd=directory,
        env=environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        shown = b""
        for question, answer in answers:
            at = len(shown)
            while question.encode() not in shown[at:]:
                more = os.read(process.stdout.fileno(), 4096)
                assert more, shown
                shown += more
            process.stdin.write(answer.encode() + b"\n")
            process.stdin.flush()
        rest, _ = process.communicate(timeout=SECONDS)
        return process.returncode, (shown + rest).decode()
