"""The child process, fed by hand; and the frames that it is fed with."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from only_post_svc.registry import BUILTIN
from only_post_svc.settings import Settings
from only_post_svc.worker import linux
from only_post_svc.worker.children import Child
from only_post_svc.worker.frames import HEAD, Frame, Unpacker, pack
from only_post_svc.worker.runner import NICENESS, Options, command
from tests.processes import ROOT, TASKS, eventually


def told(run: str, type: str, attempt: int = 1) -> dict[str, Any]:
    """What a child is told of a run."""
    about = {"caller": "", "key": None, "traceparent": None, "saved": None, "deadline": time.time() + 60}
    return {"run": run, "task_id": f"task of {run}", "type": type, "attempt": attempt, **about}


class ByHand:
    """A runner, and this side of its channel."""

    def __init__(self, directory: Path, parent: int = 0) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(10)
        self.frames: list[Frame] = []
        self.unpacker = Unpacker(2**20)
        options = Options(
            parent=parent or os.getpid(),
            path=[str(ROOT), *sys.path],
            modules=[BUILTIN, TASKS],
            memory_bytes=1024**3,
            socket=theirs.fileno(),
            max_result_bytes=1000,
        )
        with theirs:
            self.popen = subprocess.Popen(
                command(options),
                cwd=directory,
                env={"PATH": os.environ["PATH"]},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def send(self, message: dict[str, Any], payload: Any = None) -> None:
        self.channel.sendall(pack(message, json.dumps(payload or {}).encode()))

    def start(self, run: str, type: str, payload: Any = None, attempt: int = 1) -> None:
        self.send(told(run, type, attempt), payload)

    def next(self) -> Frame:
        """What it says next."""
        while not self.frames:
            data = self.channel.recv(65536)
            assert data, "it has closed the channel"
            self.frames += self.unpacker.feed(data)
        return self.frames.pop(0)

    def end(self) -> Frame:
        """The next ending; progress on the way is passed over."""
        while "end" not in (frame := self.next())[0]:
            pass
        return frame

    def close(self) -> None:
        self.channel.close()
        self.popen.kill()
        self.popen.wait()


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[ByHand]:
    runner = ByHand(tmp_path)
    assert runner.next() == ({"ready": True}, b"")
    yield runner
    runner.close()


def test_a_run_ends_with_its_result_as_bytes(runner: ByHand) -> None:
    runner.start("r1", "text.stats", {"text": "a b", "top": 0})
    message, result = runner.end()
    assert json.loads(result)["words"] == 2
    assert message.pop("rss_bytes") > 1024**2
    assert message == {"end": "r1"}


def test_a_run_that_raises_ends_with_its_error(runner: ByHand) -> None:
    for run, type, can_retry in (("r1", "raise", True), ("r2", "fail", False)):
        runner.start(run, type, {"message": "why"})
        message, result = runner.end()
        assert (message["end"], message["error"]["message"]) == (run, "why")
        assert message.get("can_retry", True) == can_retry
        assert result == b""


def test_a_type_that_it_does_not_know_is_an_error_of_that_run(runner: ByHand) -> None:
    runner.start("r1", "no.such")
    assert runner.end()[0]["error"]["code"] == "task_error"
    runner.start("r2", "echo")
    assert "error" not in runner.end()[0]


def test_a_result_above_the_limit_stays_here(runner: ByHand) -> None:
    runner.start("r1", "echo", {"x": "y" * 1000})
    message, result = runner.end()
    assert (message["error"]["code"], message["can_retry"], result) == ("result_too_large", False, b"")


def test_async_runs_go_side_by_side(runner: ByHand) -> None:
    runner.start("slow", "sleep", {"seconds": 60})
    runner.start("quick", "echo", {"n": 1})
    assert runner.end()[0]["end"] == "quick"


def test_one_async_run_is_stopped_and_its_neighbour_is_not(runner: ByHand) -> None:
    runner.start("stopped", "sleep", {"seconds": 60})
    runner.start("other", "sleep", {"seconds": 0.3})
    runner.send({"stop": "stopped"})
    assert runner.end()[0]["error"]["type"] == "CancelledError"
    message, _ = runner.end()
    assert message["end"] == "other" and "error" not in message


def test_a_run_that_is_stopped_before_its_first_step_ends_all_the_same(runner: ByHand) -> None:
    run = told("r1", "sleep")
    runner.channel.sendall(pack(run, b'{"seconds": 60}') + pack({"stop": "r1"}))
    assert runner.end()[0]["end"] == "r1"
    runner.start("idle", "echo")
    runner.end()
    runner.start("busy", "sleep", {"seconds": 60})
    runner.channel.sendall(pack({**run, "run": "r2"}, b'{"seconds": 60}') + pack({"stop": "r2"}))
    assert runner.end()[0]["end"] == "r2"


def test_a_def_run_is_stopped_by_the_signal_and_the_process_goes_on(runner: ByHand, tmp_path: Path) -> None:
    runner.start("r1", "progress", {"path": str(tmp_path / "never")})
    assert runner.next()[0]["progress"] == "r1"
    runner.popen.send_signal(signal.SIGUSR1)
    message, _ = runner.end()
    assert (message["end"], message["error"]["type"], message["progress"]["message"]) == ("r1", "Stopped", "half")
    runner.start("r2", "echo")
    assert runner.end()[0]["end"] == "r2"


def test_a_def_gets_the_process_from_the_event_loop_and_gives_it_back(runner: ByHand) -> None:
    for number, type in enumerate(("echo", "text.stats", "echo", "echo", "text.stats")):
        runner.start(f"r{number}", type, {"text": "a b"})
        message, _ = runner.end()
        assert (message["end"], "error" in message) == (f"r{number}", False)


def test_the_signal_between_runs_does_nothing(runner: ByHand) -> None:
    runner.popen.send_signal(signal.SIGUSR1)
    runner.start("r1", "echo", {"n": 1})
    assert runner.end()[1] == b'{"n":1}'


def test_asked_by_the_signal_it_names_the_run_that_has_the_event_loop(runner: ByHand) -> None:
    runner.start("r1", "sleep", {"seconds": 60})
    runner.start("r2", "zoo.spin.async")
    runner.start("r3", "sleep", {"seconds": 60})

    def asked() -> bool:
        runner.popen.send_signal(signal.SIGUSR1)
        try:
            return runner.next()[0] == {"holding": "r2"}
        except TimeoutError:  # it had not begun
            return False

    runner.channel.settimeout(0.1)
    eventually(asked)


def test_a_stop_of_the_whole_host_is_left_to_the_coordinator(runner: ByHand) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        runner.popen.send_signal(number)
    runner.start("r1", "echo")
    assert runner.end()[0]["end"] == "r1"


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_when_the_channel_is_closed(runner: ByHand, busy: bool) -> None:
    if busy:
        runner.start("r1", "sleep", {"seconds": 60})
        runner.start("r2", "echo")
        runner.end()
    runner.channel.close()
    assert runner.popen.wait(5) == 0


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    orphan = ByHand(tmp_path, parent=1)
    try:
        assert orphan.popen.wait(10) == -signal.SIGKILL
    finally:
        orphan.close()


def test_it_gives_way_to_the_process_that_answers(runner: ByHand) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, runner.popen.pid) == min(own + NICENESS, 19)


def test_what_modules_print_is_no_part_of_the_types(tmp_path: Path) -> None:
    source = "import os\nos.write(1, b'noise')\nfrom only_post_svc import task\ntask('loud')(lambda: 1)\n"
    (tmp_path / "loud.py").write_text(source)
    done = subprocess.run(
        command(Options(os.getpid(), [str(tmp_path), str(ROOT), *sys.path], ["loud"], memory_bytes=1024**3)),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert "loud" in [entry["type"] for entry in json.loads(done.stdout)["types"]]
    assert b"noise" in done.stderr


@contextlib.contextmanager
def no_thread_to_be_had() -> Iterator[None]:
    before = threading.stack_size(2**50)
    try:
        yield
    finally:
        threading.stack_size(before)


@contextlib.contextmanager
def no_directory(directory: Path) -> Iterator[None]:
    gone = directory / "gone"
    gone.mkdir()
    with contextlib.chdir(directory):
        os.chdir(gone)
        gone.rmdir()
        yield


@pytest.mark.parametrize("lacks", ["a thread", "its directory"])
def test_a_child_that_can_not_be_started_leaves_nothing_behind(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    settings, events = Settings.from_env({}, makes_files=False), cast(Any, None)

    def there() -> tuple[int, list[int]]:
        return len(os.listdir("/proc/self/fd")), linux.children()

    async def work() -> None:
        before = there()
        with no_thread_to_be_had() if lacks == "a thread" else no_directory(tmp_path):
            with pytest.raises((RuntimeError, FileNotFoundError)):
                Child(settings, events)
            assert there() == before

    asyncio.run(work())


FRAMES: list[Frame] = [({"run": "ü"}, b"\x00\xff"), ({}, b""), ({"end": 1}, b"x" * 500)]


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_frames_come_out_as_they_went_in_however_they_are_cut(size: int) -> None:
    sent = b"".join(pack(*frame) for frame in FRAMES)
    unpacker = Unpacker(1000)
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert [frame for piece in pieces for frame in unpacker.feed(piece)] == FRAMES


@pytest.mark.parametrize(
    "data",
    [HEAD.pack(0xFFFFFFFF, 0), HEAD.pack(2, 999) + b"{}", HEAD.pack(5, 0) + b"[1,2]", HEAD.pack(2, 0) + b"{x"],
    ids=["a head of 4 GB", "a blob above the limit", "no object", "no JSON"],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(Unpacker(1000).feed(data))
