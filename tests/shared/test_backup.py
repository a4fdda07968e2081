"""A copy is whole, has all that was acknowledged before, and goes back in one piece or not at all."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from shared.cli.backup import back_up, restore
from shared.cli.terminal import Failure
from shared.database import Database
from tests.processes import ROOT, eventually
from tests.shared.engines import Engine
from tests.shared.notes import SCHEMA, add

FILLING = "INSERT INTO filling SELECT randomblob(4000) FROM generated"
GENERATED = "WITH RECURSIVE generated (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM generated WHERE n < 4000)"

# Writes until it is told to stop, and says each id once it is on disk.
WRITER = """
async def main(engine):
    database = await engine.connect()
    loop = asyncio.get_running_loop()
    stop = loop.run_in_executor(None, sys.stdin.readline)
    number = 0
    while not stop.done():
        await database.write(lambda tx: add(tx, f"{number:08d}"))
        print(f"{number:08d}", flush=True)
        number += 1
    await database.close()
    print("closed", flush=True)
"""

# Writes a note for each line that it is sent, and says so once it is on disk.
ANSWERING = """
async def main(engine):
    database = await engine.connect()
    while note := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print(await database.write(lambda tx: add(tx, note)), flush=True)
    await database.close()
"""


def nothing(done: int, total: int) -> None:
    """No progress is shown."""


@pytest.fixture
def home(tmp_path: Path) -> Engine:
    """A SQLite database with a note and megabytes beside it, which take a copy several steps."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "0001.sql").write_text(SCHEMA)
    engine = Engine("sqlite", f"sqlite:///{tmp_path / 'notes.db'}", tmp_path)
    fill(engine)
    return engine


def fill(engine: Engine, *notes: str) -> None:
    async def work(database: Database) -> None:
        def unit(tx: Any) -> None:
            tx.run("CREATE TABLE IF NOT EXISTS filling (bytes BLOB)")
            tx.run(f"INSERT INTO filling {GENERATED} SELECT randomblob(4000) FROM generated")
            for note in notes or ("first",):
                add(tx, note)

        await database.write(unit)

    engine.run(work)


def file_of(engine: Engine) -> Path:
    return engine.directory / "notes.db"


def schemas(engine: Engine) -> dict[str, Path]:
    return {"notes": engine.directory / "schema"}


def notes(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [note for (note,) in connection.execute("SELECT id FROM note ORDER BY id")]


def copy_of(engine: Engine, name: str = "copy.db") -> Path:
    file = engine.directory / name
    back_up(engine.url, file, nothing, force=False)
    return file


def put_back(engine: Engine, file: Path, *, force: bool = True) -> None:
    restore(engine.url, file, schemas(engine), nothing, force=force)


@pytest.fixture
def writer(home: Engine) -> Iterator["subprocess.Popen[str]"]:
    process = home.start(WRITER)
    yield process
    process.kill()
    process.communicate()


def test_a_copy_has_every_write_that_was_acknowledged_before_and_holds_up_none(home: Engine) -> None:
    with home.start(ANSWERING) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def write(note: str) -> None:
            stdin.write(f"{note}\n")
            stdin.flush()
            assert stdout.readline() == f"{note}\n"

        before = [f"before {number}" for number in range(20)]
        for note in before:
            write(note)
        file = home.directory / "copy.db"
        back_up(home.url, file, lambda done, total: write(f"meanwhile {done}"), force=False)
        stdin.close()
    assert notes(file) == sorted([*before, "first"])
    meanwhile = [note for note in notes(file_of(home)) if note.startswith("meanwhile")]
    assert len(meanwhile) > 3


def test_many_copies_beside_a_writer_harm_nothing(home: Engine, writer: "subprocess.Popen[str]") -> None:
    assert writer.stdin is not None and writer.stdout is not None
    seen = [writer.stdout.readline().strip()]
    for number in range(5):
        file = copy_of(home, f"copy{number}.db")
        assert set(seen) <= set(notes(file))
        seen += [writer.stdout.readline().strip() for _ in range(20)]
    writer.stdin.write("stop\n")
    writer.stdin.flush()
    acknowledged = {*seen, *writer.stdout.read().split()} - {"closed"}
    assert acknowledged <= set(notes(file_of(home)))


def test_a_copy_is_one_file_for_its_owner_only(home: Engine) -> None:
    before = set(home.directory.iterdir())
    file = copy_of(home)
    assert set(home.directory.iterdir()) - before == {file}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT id FROM note").fetchall() == [("first",)]
        assert set(home.directory.iterdir()) - before == {file}  # open, it still has no -wal beside it


def test_what_was_written_and_not_yet_checkpointed_is_in_the_copy(home: Engine) -> None:
    async def work(database: Database) -> None:
        await database.write(lambda tx: add(tx, "in the WAL"))
        assert (home.directory / "notes.db-wal").stat().st_size
        copy_of(home)

    home.run(work)
    assert notes(home.directory / "copy.db") == ["first", "in the WAL"]


def test_progress_goes_up_to_all_of_it(home: Engine) -> None:
    seen: list[tuple[int, int]] = []
    back_up(home.url, home.directory / "copy.db", lambda *step: seen.append(step), force=False)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 4000


def test_a_file_that_is_there_is_written_over_only_when_told(home: Engine) -> None:
    file = home.directory / "copy.db"
    file.write_text("something dear")
    with pytest.raises(Failure, match="--force"):
        back_up(home.url, file, nothing, force=False)
    assert file.read_text() == "something dear"
    back_up(home.url, file, nothing, force=True)
    assert notes(file) == ["first"]


def test_a_copy_never_goes_through_a_symbolic_link(home: Engine) -> None:
    dear, link = home.directory / "dear", home.directory / "copy.db"
    dear.write_text("something dear")
    link.symlink_to(dear)
    with pytest.raises(Failure, match="symbolic link"):
        back_up(home.url, link, nothing, force=True)
    assert dear.read_text() == "something dear"


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock", "-journal"])
def test_a_copy_never_goes_over_the_database_or_a_part_of_it(home: Engine, suffix: str) -> None:
    (home.directory / "link").symlink_to(home.directory)
    for file in (home.directory / f"notes.db{suffix}", home.directory / "link" / f"notes.db{suffix}"):
        with pytest.raises(Failure, match="part of the database"):
            back_up(home.url, file, nothing, force=True)
        with pytest.raises(Failure, match="part of the database"):
            put_back(home, file)
    assert notes(file_of(home)) == ["first"]


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_copy_never_goes_beside_what_sqlite_would_take_for_a_part_of_it(home: Engine, suffix: str) -> None:
    stray = home.directory / f"copy.db{suffix}"
    stray.write_text("of another database")
    with pytest.raises(Failure, match=suffix):
        copy_of(home)
    assert not (home.directory / "copy.db").exists()


def test_where_no_copy_can_be_written_nothing_is_left(home: Engine) -> None:
    before = set(home.directory.iterdir())
    with pytest.raises(Failure, match="No such file"):
        back_up(home.url, home.directory / "nowhere" / "copy.db", nothing, force=False)
    assert set(home.directory.iterdir()) == before


def spoil(file: Path) -> None:
    """As a bad disk does: the second half is gone, which is nothing but filling."""
    half = file.stat().st_size // 2
    with file.open("r+b") as opened:
        opened.seek(half)
        opened.write(b"\xff" * half)


def test_a_damaged_database_makes_no_copy(home: Engine) -> None:
    spoil(file_of(home))
    before = set(home.directory.iterdir())
    with pytest.raises(Failure, match=r"damaged|malformed"):
        copy_of(home)
    assert set(home.directory.iterdir()) - before <= {home.directory / f"notes.db{part}" for part in ("-wal", "-shm")}


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no database"):
        back_up(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "copy.db", nothing, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ann:hunter2@host/db", "pg_"),
        ("postgres://ann:hunter2@host/db", "pg_"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_what_has_no_file_is_said_and_never_the_url(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(Failure, match=said) as first:
        back_up(url, tmp_path / "copy.db", nothing, force=True)
    with pytest.raises(Failure, match=said) as second:
        restore(url, tmp_path / "copy.db", {}, nothing, force=True)
    assert "hunter2" not in f"{first.value} {second.value}"


def test_a_copy_goes_where_no_database_is(home: Engine) -> None:
    file = copy_of(home)
    for part in home.directory.glob("notes.db*"):
        part.unlink()
    put_back(home, file, force=False)
    assert notes(file_of(home)) == ["first"]


def test_a_copy_goes_in_the_place_of_a_database_only_when_told(home: Engine) -> None:
    file = copy_of(home)
    fill(home, "second")
    with pytest.raises(Failure, match="--force"):
        put_back(home, file, force=False)
    assert notes(file_of(home)) == ["first", "second"]
    put_back(home, file)
    assert notes(file_of(home)) == ["first"]


def test_whoever_has_the_database_open_sees_the_copy_and_writes_on(home: Engine) -> None:
    file = copy_of(home)

    async def work(database: Database) -> list[Any]:
        await database.write(lambda tx: add(tx, "second"))
        put_back(home, file)
        seen = await database.read(lambda tx: tx.all("SELECT id FROM note"))
        await database.write(lambda tx: add(tx, "third"))
        return seen

    assert home.run(work) == [("first",)]
    assert notes(file_of(home)) == ["first", "third"]


def test_a_restore_beside_a_writer_loses_what_the_copy_has_not_and_harms_nothing(
    home: Engine, writer: "subprocess.Popen[str]"
) -> None:
    assert writer.stdin is not None and writer.stdout is not None
    file = copy_of(home)
    for _ in range(20):
        writer.stdout.readline()
    for _ in range(3):
        put_back(home, file)
    while len(notes(file_of(home))) < 5:
        writer.stdout.readline()
    writer.stdin.write("stop\n")
    writer.stdin.flush()
    acknowledged = writer.stdout.read().split()[:-1]
    *numbers, first = notes(file_of(home))
    assert first == "first"
    newest = int(acknowledged[-1])
    assert numbers == [f"{number:08d}" for number in range(int(numbers[0]), newest + 1)]  # no hole up to the last


KILLED = """
import os, signal, sys
from pathlib import Path
from shared.cli.backup import restore
def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
restore(sys.argv[1], Path(sys.argv[2]), {"notes": Path(sys.argv[3])}, die, force=True)
"""


def test_a_restore_that_is_killed_half_way_changes_nothing(home: Engine) -> None:
    file = copy_of(home)
    fill(home, "second")
    arguments = [home.url, str(file), str(home.directory / "schema")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env={"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert notes(file_of(home)) == ["first", "second"]


def test_a_damaged_copy_is_refused_and_nothing_changes(home: Engine) -> None:
    file = copy_of(home)
    fill(home, "second")
    spoil(file)
    with pytest.raises(Failure, match=r"damaged|malformed"):
        put_back(home, file)
    for content in (b"", b"no database " * 1000):
        file.write_bytes(content)
        with pytest.raises(Failure, match="no copy"):
            put_back(home, file)
    file.unlink()
    with pytest.raises(Failure, match="unable to open"):
        put_back(home, file)
    assert not file.exists()
    assert notes(file_of(home)) == ["first", "second"]


def test_a_copy_of_another_service_is_refused(home: Engine) -> None:
    file = copy_of(home)
    with pytest.raises(Failure, match="no copy of this service"):
        restore(home.url, file, {"others": home.directory / "schema"}, nothing, force=True)


def test_a_copy_from_a_newer_version_is_refused(home: Engine) -> None:
    newer = home.directory / "schema" / "0002.sql"
    newer.write_text("CREATE TABLE more (id TEXT);\n")
    fill(home, "second")
    file = copy_of(home)
    newer.unlink()
    with pytest.raises(Failure, match="newer version"):
        put_back(home, file)


def test_a_database_that_is_damaged_beyond_opening_is_moved_away_by_somebody_who_knows(home: Engine) -> None:
    file = copy_of(home)
    file_of(home).write_bytes(b"no database " * 1000)
    with pytest.raises(Failure, match="move it"):
        put_back(home, file)
    file_of(home).rename(home.directory / "broken")
    put_back(home, file, force=False)
    assert notes(file_of(home)) == ["first"]


def test_a_database_that_is_damaged_inside_is_mended_by_a_copy(home: Engine) -> None:
    file = copy_of(home)
    spoil(file_of(home))
    put_back(home, file)
    assert notes(file_of(home)) == ["first"]


def test_a_writer_that_does_not_know_the_lock_is_not_waited_for_for_ever(home: Engine) -> None:
    file = copy_of(home)
    with closing(sqlite3.connect(file_of(home), isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(Failure, match="locked"):
            put_back(home, file)


def test_the_copy_of_a_copy_that_went_back_is_the_same(home: Engine) -> None:
    file = copy_of(home)
    put_back(home, file)
    assert notes(copy_of(home, "again.db")) == notes(file)
    assert os.path.getsize(file) == os.path.getsize(home.directory / "again.db")


def is_waited_for(engine: Engine) -> bool:
    """Whether a process or thread waits for the lock of whoever writes."""
    inode = os.stat(f"{file_of(engine)}-lock").st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def test_a_copy_waits_for_a_writing_service_before_it_reads_and_before_it_closes(home: Engine) -> None:
    steps: list[int] = []

    def step(done: int, total: int) -> None:
        if not steps:
            held.enter_context(home.held())  # a writer that comes while it copies
        steps.append(done)

    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        with home.held():
            copying = pool.submit(back_up, home.url, home.directory / "copy.db", step, force=False)
            eventually(lambda: is_waited_for(home) or copying.done())
            assert not (copying.done() or steps)
        eventually(lambda: len(steps) > 1 and (is_waited_for(home) or copying.done()))
        assert not copying.done()
        held.close()
        copying.result(10)
    assert notes(home.directory / "copy.db") == ["first"]


def test_a_restore_waits_for_a_writing_service(home: Engine) -> None:
    file = copy_of(home)
    fill(home, "later")
    with ThreadPoolExecutor(1) as pool:
        with home.held():
            restoring = pool.submit(put_back, home, file)
            eventually(lambda: is_waited_for(home) or restoring.done())
            assert not restoring.done()
            assert notes(file_of(home)) == ["first", "later"]
        restoring.result(10)
    assert notes(file_of(home)) == ["first"]
