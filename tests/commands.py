"""The project's commands, run to their end as a script or a person would run them."""

import contextlib
import importlib
import io
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from unittest import mock

from tests.processes import ROOT

SECONDS = 60
EXIT_FAILURE = 3
SERVICES = ("only_post_svc", "token_svc")
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

Done = subprocess.CompletedProcess[str]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    return clean | {"PYTHONPATH": str(ROOT)} | dict(env)


def command(directory: Path, *arguments: str, stdin: str = "", **env: str) -> Done:
    """`python -m ARGUMENTS` in `directory`, within this process where the code of a task has no part in it: half a
    second is saved, and a warning is an error."""
    module, *rest = arguments
    if module not in SERVICES or rest[:1] == ["run"] or threading.current_thread() is not threading.main_thread():
        return command_in_a_process(directory, *arguments, stdin=stdin, **env)
    outputs = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with _as_a_process(directory, [f"{module}/__main__.py", *rest], environment(env), stdin, *outputs):
        status = _status(importlib.import_module(f"{module}.__main__").main)
    stdout, stderr = (output.buffer.getvalue().decode() for output in outputs)
    return Done(arguments, status, stdout, stderr)


def _status(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


@contextlib.contextmanager
def _as_a_process(
    directory: Path, argv: list[str], env: Mapping[str, str], stdin: str, stdout: IO[str], stderr: IO[str]
) -> Iterator[None]:
    """What a process has of its own."""
    handlers, level = logging.root.handlers[:], logging.root.level
    with (
        contextlib.chdir(directory),
        mock.patch.dict(os.environ, env, clear=True),
        mock.patch.multiple(sys, argv=argv, path=sys.path[:]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            yield
        finally:
            for handler in logging.root.handlers:
                handler.flush()
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)


def command_in_a_process(directory: Path, *arguments: str, stdin: str = "", **env: str) -> Done:
    """As a person or a script runs it."""
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


def refused(directory: Path, module: str, **env: str) -> str:
    """The one line that a start ends with. Its port is taken: one that is not refused before ends there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        return said(command(directory, module, **{"PORT": str(taken.getsockname()[1]), **env}), EXIT_FAILURE)


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
