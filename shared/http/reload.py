"""Starts a command again whenever a Python file below the current directory has changed: for development."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors.statreload import StatReload

PASSED_BY = frozenset({"venv", "node_modules", "var"})  # and what is hidden, such as .venv


class Reload(StatReload):
    """uvicorn's reloader, without the files of virtual environments."""

    def iter_py_files(self) -> Iterator[Path]:
        for directory, names, files in os.walk(Path.cwd()):
            names[:] = [name for name in names if not name.startswith(".") and name not in PASSED_BY]
            yield from (Path(directory, file) for file in files if file.endswith(".py"))


def run(start: Callable[[], None]) -> None:
    """Runs `start`, which has to be picklable, in a process of its own until SIGTERM or SIGINT."""
    config = uvicorn.Config("", log_config=None, reload=True, reload_dirs=[os.getcwd()])
    Reload(config, target=partial(_start, start), sockets=[]).run()


def _start(start: Callable[[], None], sockets: object) -> None:
    start()
