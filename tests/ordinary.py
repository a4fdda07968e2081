"""Tasks of authors who know nothing of this service: what works in any Python works in them."""

import asyncio
import contextlib
import decimal
import io
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from only_post_svc import Context, task

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")
LEVEL: ContextVar[str] = ContextVar("LEVEL", default="unset")
pools: list[Any] = []

log = logging.getLogger("author.jobs")


@task("pid")
def pid() -> int:
    return os.getpid()


@task("pid.async")
async def pid_async() -> int:
    return os.getpid()


@task("popen.terminate", timeout=5)
def popen_terminate() -> int:
    process = subprocess.Popen(["sleep", "60"])
    process.terminate()
    return process.wait()


@task("process.terminate", timeout=5)
def process_terminate() -> int | None:
    process = FORK.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


@task("process.spawn", timeout=10)
def process_spawn() -> list[int]:
    with SPAWN.Pool(1) as pool:
        return pool.map(abs, [-1, -2])


@task("pool", timeout=5)
def pool() -> list[int]:
    with FORK.Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


@task("pool.kept", timeout=5)
def pool_kept() -> int:
    """A pool of the module's, which every run uses."""
    if not pools:
        pools.append(ProcessPoolExecutor(1, mp_context=FORK))
    return int(pools[0].submit(os.getpid).result())


@task("subprocess.async", timeout=5)
async def subprocess_async() -> int:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.terminate()
    return await process.wait()


@task("dispositions", timeout=10)
def dispositions() -> str:
    """Of SIGTERM, SIGINT and SIGUSR1, in a program that it starts."""
    code = "import signal; print(*(signal.getsignal(n) is not signal.SIG_IGN for n in (15, 2, 10)))"
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@task("environment")
def environment() -> dict[str, str]:
    return dict(os.environ)


@task("spy")
def spy() -> list[str]:
    """Which files of its parent it can read."""
    readable = []
    for name in ("environ", "mem", "maps", "fd/1"):
        with contextlib.suppress(OSError):
            os.close(os.open(f"/proc/{os.getppid()}/{name}", os.O_RDONLY))
            readable.append(name)
    return readable


@task("spy.program")
def spy_program() -> int:
    """The same by a program that it starts."""
    return subprocess.run(["cat", f"/proc/{os.getppid()}/environ"], stdout=subprocess.DEVNULL, check=False).returncode


@task("signal.40", timeout=5)
def signal_40() -> None:
    os.kill(os.getpid(), 40)


@task("fork.return", timeout=5)
def fork_return() -> str:
    pid = os.fork()
    if pid == 0:
        return "child"
    return f"parent of {os.waitpid(pid, 0)[1]}"


@task("fork.raise", timeout=5)
def fork_raise() -> str:
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the copy")
    return f"parent of {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


@task("fork.return.async", timeout=5)
async def fork_return_async() -> str:
    pid = os.fork()
    if pid == 0:
        return "child"
    return f"parent of {(await asyncio.to_thread(os.waitpid, pid, 0))[1]}"


@task("orphan", timeout=5)
def orphan(setsid: bool = False) -> int:
    """Leave a process without a parent behind: its id."""
    script = f"{'setsid' if setsid else ''} sleep 300 > /dev/null & echo $!"
    return int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout)


@task("orphan.exit", timeout=5)
def orphan_exit(path: str) -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"], start_new_session=True)
    Path(path).write_text(str(process.pid))
    os._exit(1)


@task("zombies", timeout=5)
def zombies() -> int:
    """How many children of this process have ended without being waited for."""
    states = []
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        states.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
    return states.count("Z")


@task("thread.hang", timeout=60)
async def thread_hang(path: str) -> None:
    Path(path).write_text("")
    await asyncio.to_thread(time.sleep, 3600)


@task("thread.many", timeout=60)
async def thread_many(path: str) -> None:
    """Use up the threads of the default executor."""
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, time.sleep, 3600) for _ in range(40)]
    Path(path).write_text("")
    await asyncio.gather(*calls)


@task("thread.quick", timeout=5)
async def thread_quick() -> str:
    return await asyncio.to_thread(lambda: "ok")


@task("thread.speak", timeout=1)
async def thread_speak(*, context: Context) -> None:
    """Leave a thread behind that goes on speaking of this run."""
    await asyncio.to_thread(_speak, context)


def _speak(context: Context) -> None:
    while True:
        context.progress(0.5, "left behind")
        context.checkpoint("left behind")
        log.info("spoken")
        time.sleep(0.15)


@task("say", timeout=30)
def say(word: str, then: str = "", path: str = "") -> None:
    _say(word)
    if then == "exit":
        os._exit(1)
    while then == "hang" and not Path(path).exists():
        time.sleep(0.02)


@task("say.async", timeout=30)
async def say_async(word: str, then: str = "", path: str = "") -> None:
    _say(word)
    while then == "hang" and not Path(path).exists():
        await asyncio.sleep(0.02)


def _say(word: str) -> None:
    print(f"printed {word}")
    print(f"complained {word}", file=sys.stderr)
    log.info("informed %s", word)
    log.warning("warned %s", word)
    warnings.warn(f"advised {word}", stacklevel=1)
    subprocess.run(["echo", f"echoed {word}"], check=True)
    try:
        raise KeyError(word)
    except KeyError:
        log.exception("failed %s", word)


@task("say.thread", timeout=5)
async def say_thread(word: str) -> None:
    await asyncio.to_thread(print, f"threaded {word}")


@task("mess", timeout=10)
def mess(directory: str) -> None:
    """Change all that a process has one of, and leave it so."""
    LEVEL.set("messed")
    decimal.getcontext().prec = 3
    os.chdir(directory)
    os.umask(0o777)
    os.environ["MESS"] = "1"
    os.environ.pop("PATH")
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGALRM else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    signal.alarm(1)
    signal.setitimer(signal.ITIMER_PROF, 0.3)
    sys.stdout = sys.stderr = io.StringIO()
    socket.setdefaulttimeout(0.001)
    sys.setrecursionlimit(5000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@task("mess.async", timeout=10)
async def mess_async(directory: str) -> None:
    mess(directory)


@task("look", timeout=10)
def look() -> dict[str, Any]:
    """What mess() has changed, and the process that this is."""
    umask = os.umask(0)
    os.umask(umask)
    seen = {
        "variable": LEVEL.get(),
        "precision": decimal.getcontext().prec,
        "directory": os.getcwd(),
        "umask": umask,
        "mess": os.environ.get("MESS"),
        "path": "PATH" in os.environ,
        "locale": locale.setlocale(locale.LC_ALL),
        "hangup": str(signal.getsignal(signal.SIGHUP)),
        "term": str(signal.getsignal(signal.SIGTERM)).partition(" at ")[0],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "stdout": type(sys.stdout).__name__,
        "timeout": socket.getdefaulttimeout(),
        "recursion": sys.getrecursionlimit(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    time.sleep(1.2)  # an alarm that was left would kill it
    return {"pid": os.getpid(), "seen": seen}


@task("spoil", timeout=10)
def spoil() -> int:
    """Change what no process can put back: it runs slower from now on."""
    os.nice(1)
    return os.getpid()


@task("leave.tasks", timeout=10)
async def leave_tasks(path: str) -> None:
    async def left() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            Path(path).write_text("cancelled")
            raise

    asyncio.create_task(left(), name="left-behind")
    await asyncio.sleep(0)


@task("leave.stubborn", timeout=10)
async def leave_stubborn() -> int:
    async def left() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    asyncio.create_task(left())
    await asyncio.sleep(0)
    return os.getpid()


@task("clean.up", timeout=60)
def clean_up(path: str, seconds: float = 0) -> None:
    """Wait to be stopped, and take a while to clean up."""
    Path(path).write_text("running")
    try:
        time.sleep(3600)
    finally:
        time.sleep(seconds)
        Path(path).write_text("cleaned up")


@task("clean.up.async", timeout=60)
async def clean_up_async(path: str, seconds: float = 0) -> None:
    Path(path).write_text("running")
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(seconds)
        Path(path).write_text("cleaned up")


@task("stop.at.leisure", timeout=60)
def stop_at_leisure(path: str, seconds: float) -> str:
    """Come to an end by itself, some time after it is asked to."""
    Path(path).write_text("running")
    try:
        time.sleep(3600)
    except BaseException:
        time.sleep(seconds)
    return "finished"


@task("count.down", timeout=60)
def count_down(until: int, path: str = "", *, context: Context) -> dict[str, Any]:
    """Go one step further in every attempt, from where the last one has come to."""
    step = (context.saved or 0) + 1
    context.checkpoint(step)
    if path:
        Path(path).write_text(str(step))
        time.sleep(3600)
    if step < until:
        os._exit(1)
    return {"step": step, "attempt": context.attempt}


@task("checkpoint.bad", timeout=10)
def checkpoint_bad(*, context: Context) -> list[str]:
    refused = []
    for value in (object(), float("nan"), "x" * 2_000_000):
        try:
            context.checkpoint(value)
        except (TypeError, ValueError) as error:
            refused.append(type(error).__name__)
    return refused


@task("context", timeout=10)
def shown(*, context: Context) -> dict[str, Any]:
    return {"caller": context.caller, "key": context.key, "traceparent": context.traceparent, "saved": context.saved}


@task("divide", timeout=10)
def divide(by: int) -> float:
    return 1 / by
