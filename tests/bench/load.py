"""The load (wrk), and what the kernel says of a process."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = int(os.environ.get("BENCH_SECONDS", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
IDLE_SECONDS = 10
SETTLE_SECONDS = 3  # for what the load has left behind
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load:
    """One run of wrk: requests a second, and latencies in milliseconds. `script` is Lua."""

    def __init__(self, url: str, connections: int, script: str = "", *, token: str = "") -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            options = [
                f"-c{connections}",
                f"-d{SECONDS}s",
                "-t1",
                "--latency",
                "--timeout=30s",
                f"--script={file.name}",
            ]
            options += [f"--header=Authorization: Bearer {token}"] if token else []
            output = subprocess.check_output(["wrk", *options, url], text=True)
        if "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(f"the load met errors:\n{output}")
        self.per_second = float(found(r"Requests/sec:\s+([\d.]+)", output)[0])
        self.p50, self.p99 = (
            float(number) * UNITS[unit]
            for number, unit in (found(rf"{percent}%\s+([\d.]+)(us|ms|s)", output) for percent in (50, 99))
        )


@contextmanager
def storm(url: str, connections: int, script: str) -> Iterator[None]:
    """A load that goes on beside another one, whatever it is answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        options = [f"-c{connections}", "-d600s", "-t1", "--timeout=30s", f"--script={file.name}"]
        process = subprocess.Popen(["wrk", *options, url], stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"{pattern} is not in:\n{text}")
    return match.groups()


def post(body: str) -> str:
    """The script that posts one JSON body over and over."""
    return f'wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"; wrk.body = [==[{body}]==]'


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(found(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def row(what: str, value: str, ratio: float | None = None) -> None:
    print(f"{what:<64}{value:>14}{'' if ratio is None else f'{ratio:>8.2f}'}", flush=True)


def idle_rows(pids: dict[str, int]) -> None:
    time.sleep(SETTLE_SECONDS)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(IDLE_SECONDS)
    for name, pid in pids.items():
        percent = (cpu_seconds(pid) - before[name]) / IDLE_SECONDS * 100
        row(f"  {name}: idle CPU % / RSS MB", f"{percent:.1f} / {rss_mb(pid):.0f}")
