"""What the command lines of both services have in common: how a command ends, and the commands for a database."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from shared import logs
from shared.cli import backup, copying, doctor, probe, terminal
from shared.cli.doctor import Check
from shared.cli.terminal import Failure
from shared.database import Database, connection
from shared.errors import Invalid, Problem
from shared.http import reload, server
from shared.metrics_endpoint import Families
from shared.settings import Settings, SettingsError, database_url
from shared.strict_json import encode

EXIT_INTERRUPTED = 130
CONSOLE_COMMANDS = ("only-post", "token-svc")  # as pyproject.toml has them


def program(module: str) -> str:
    """What was typed: the console command, or `python -m module`."""
    name = Path(sys.argv[0]).name
    return name if name in CONSOLE_COMMANDS else f"python -m {module}"


def find_modules_here() -> None:
    """Modules of the current directory can be imported, as under `python -m`: a console command leaves it out."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a package of one's own called `shared` must not take the place of ours


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command = Callable[[argparse.Namespace], None]
Verb = Callable[[Database, Any, argparse.Namespace], Awaitable[None]]


def run(command: Command, options: argparse.Namespace) -> None:
    """Ends the process as scripts expect: 0 when it was done, 1 when what was asked for was not there or failed,
    2 for bad usage (argparse), 3 for bad settings."""
    try:
        command(options)
        sys.stdout.flush()
    except Failure as failure:
        sys.exit(str(failure))
    except Invalid as invalid:
        sys.exit("\n".join(f"{fault.pointer}: {fault.detail}" for fault in invalid.errors))
    except Problem as problem:
        sys.exit(problem.detail)
    except SettingsError as error:
        server.fail(str(error))
    except BrokenPipeError:  # the reader of the pipe, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


@dataclass(frozen=True)
class CommonCommands:
    """The commands that both services have, and what these need to know of a service."""

    settings: type[Settings]
    schemas: Mapping[str, Path]
    checks: Sequence[Check]  # the doctor's, on top of those for both
    families: Families
    health_method: str
    transient: Collection[str] = ()  # tables whose rows matter only while their process runs

    def add_verb(
        self,
        commands: Commands,
        name: str,
        verb: Verb,
        meaning: str,
        *,
        may_create: bool = False,
        stream: TextIO | None = None,
    ) -> argparse.ArgumentParser:
        """A command that does the verb over the database. What it logs goes to `stream` (stderr)."""
        parser = commands.add_parser(name, help=meaning)
        parser.set_defaults(run=partial(self._do, verb=verb, may_create=may_create, stream=stream))
        return parser

    def _do(self, options: argparse.Namespace, *, verb: Verb, may_create: bool, stream: TextIO | None) -> None:
        settings = server.settings_or_fail(self.settings, makes_files=False)
        is_for_script = getattr(options, "json", False)
        logs.configure(settings.log_level, settings.log_format, (None if is_for_script else stream) or sys.stderr)
        new = _new_file(settings)
        if not may_create:
            _need_database(settings)
        asyncio.run(self._over(settings, verb, options, new))

    async def _over(self, settings: Settings, verb: Verb, options: argparse.Namespace, new: Path | None) -> None:
        database = await connection.connect(settings.database_url, self.schemas)
        try:
            _tell_of(new)
            await verb(database, settings, options)
        finally:
            await database.close()

    def add(self, commands: Commands) -> None:
        """metrics, doctor, probe, backup, restore and copy."""
        self.add_verb(
            commands, "metrics", self._show_metrics, "print what the database knows, for a collector of text files"
        )
        examine = commands.add_parser("doctor", help="look at the settings, the database and the machine")
        add_json(examine)
        examine.set_defaults(run=self._examine)
        asking = commands.add_parser(
            "probe", help="ask /health on PORT of this machine: exit status 0 when all is well"
        )
        asking.set_defaults(run=self._probe)
        back_up = commands.add_parser("backup", help="copy the database into a file, while services run on it")
        back_up.add_argument("file", metavar="FILE", type=Path)
        back_up.add_argument("--force", action="store_true", help="write over FILE")
        back_up.set_defaults(run=self._back_up)
        restore = commands.add_parser("restore", help="put a copy in the database's place, in one transaction")
        restore.add_argument("file", metavar="FILE", type=Path)
        restore.add_argument("--force", action="store_true", help="in the place of a database that is there")
        restore.set_defaults(run=self._restore)
        copy = commands.add_parser("copy", help="copy everything into another database, before DATABASE_URL names it")
        copy.add_argument("url", metavar="URL", help="postgresql://… or sqlite:///path; - for stdin")
        copy.set_defaults(run=self._copy)

    async def _show_metrics(self, database: Database, settings: Any, options: argparse.Namespace) -> None:
        print("".join(await self.families(database)), end="")

    def _examine(self, options: argparse.Namespace) -> None:
        logs.configure("warning", "logfmt", sys.stderr)
        findings = doctor.examine(self.settings, os.environ, self.schemas, self.checks)
        print(encode(doctor.report(findings)) if options.json else doctor.text(findings))
        if doctor.worst(findings) == "fail":
            sys.stdout.flush()
            sys.exit(1)

    def _probe(self, options: argparse.Namespace) -> None:
        settings = server.settings_or_fail(self.settings, makes_files=False)
        print(probe.ask(settings.port, self.health_method, has_tls=bool(settings.tls_cert_file)))

    def _back_up(self, options: argparse.Namespace) -> None:
        settings = server.settings_or_fail(self.settings, makes_files=False)
        with terminal.bar("copying") as progress:
            backup.back_up(settings.database_url, options.file, progress, force=options.force)
        print(f"{options.file}: {options.file.stat().st_size} bytes, complete and intact")

    def _restore(self, options: argparse.Namespace) -> None:
        settings = server.settings_or_fail(self.settings, makes_files=False)
        logs.configure(settings.log_level, settings.log_format, sys.stderr)
        new = _new_file(settings)
        with terminal.bar("restoring") as progress:
            backup.restore(settings.database_url, options.file, self.schemas, progress, force=options.force)
        asyncio.run(self._bring_up_to_date(settings))
        _tell_of(new)
        print(f"{options.file}: restored")

    def _copy(self, options: argparse.Namespace) -> None:
        settings = server.settings_or_fail(self.settings, makes_files=False)
        logs.configure(settings.log_level, settings.log_format, sys.stderr)
        _need_database(settings)
        with terminal.failing("no URL of a database", ValueError):
            target = database_url(sys.stdin.readline() if options.url == "-" else options.url)
        with terminal.bar("copying") as progress:
            copied = copying.copy(settings.database_url, target, self.schemas, self.transient, progress)
            counts = asyncio.run(copied)
        print(terminal.table(("TABLE", "ROWS"), [(name, count) for name, count in counts.items() if count]))
        print(f"{connection.described(target)}: complete; set DATABASE_URL to it and start the services")

    async def _bring_up_to_date(self, settings: Settings) -> None:
        """A copy may be of an older version, and services may be running."""
        database = await connection.connect(settings.database_url, self.schemas)
        await database.close()


def _new_file(settings: Settings) -> Path | None:
    """The file that SQLite would make, None where it is there or the database has none."""
    file = connection.file_of(settings.database_url)
    return None if file is None or file.exists() else file


def _need_database(settings: Settings) -> None:
    if file := _new_file(settings):
        raise Failure(
            f"there is no database at {file} yet: "
            "run this in the service's directory, or with its DATABASE_URL or STATE_DIR"
        )


def _tell_of(new: Path | None) -> None:
    """On stderr, since stdout may be for a script: a command in another directory than the service's makes a database
    that the service does not look at."""
    if new:
        print(f"made a new database at {new}", file=sys.stderr)


def add_serve(
    parser: argparse.ArgumentParser,
    commands: Commands,
    start: Callable[[str | None, int | None], None],
    meaning: str,
) -> None:
    """`serve`, which is also what happens without a command."""
    for one in (parser, commands.add_parser("serve", help=f"{meaning} (the default)")):
        one.add_argument("--host", help="the address to listen on (HOST)")
        one.add_argument("--port", type=int, help="the port to listen on (PORT)")
        add_reload(one)
        one.set_defaults(run=lambda options: start_by(options, partial(start, options.host, options.port)))


def add_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reload", action="store_true", help="start again when a Python file changes")


def start_by(options: argparse.Namespace, start: Callable[[], None]) -> None:
    if options.reload:
        reload.run(start)
    else:
        start()


def add_json(*parsers: argparse.ArgumentParser) -> None:
    for parser in parsers:
        parser.add_argument("--json", action="store_true", help="for scripts")


def text(argument: str) -> str:
    """An argument that a database can take."""
    if not argument.isprintable():  # a lone surrogate (surrogateescape) is not
        raise argparse.ArgumentTypeError("must be printable UTF-8")
    return argument


def positive(argument: str) -> int:
    """An argument that counts something."""
    if not (argument.isascii() and argument.isdigit() and len(argument) < 10) or int(argument) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(argument)


SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(argument: str) -> int:
    """An argument that says how long: `90`, `90s`, `15m`, `2h`, `3d`."""
    unit = argument[-1:] if argument[-1:].isalpha() else ""
    if unit not in SPANS:
        raise argparse.ArgumentTypeError("must be a time such as 90s, 15m, 2h or 3d")
    return positive(argument.removesuffix(unit)) * SPANS[unit]
