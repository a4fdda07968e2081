"""The load: wrk."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def post(body: str) -> str:
    """The script that posts one JSON body over and over."""
    return f'wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"; wrk.body = [==[{body}]==]'


@contextmanager
def wrk(url: str, connections: int, script: str, seconds: int, token: str = "") -> Iterator[subprocess.Popen[str]]:
    """A load that is under way. `script` is Lua."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        options = [f"-c{connections}", f"-d{seconds}s", "-t1", "--latency", "--timeout=30s", f"--script={file.name}"]
        options += [f"--header=Authorization: Bearer {token}"] if token else []
        with subprocess.Popen(["wrk", *options, url], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


class Load:
    """One run of wrk: requests a second that were not refused, and latencies in milliseconds."""

    def __init__(
        self, url: str, connections: int, script: str, seconds: int, token: str = "", *, may_refuse: bool = False
    ) -> None:
        with wrk(url, connections, script, seconds, token) as process:
            output, _ = process.communicate()
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        if (refused and not may_refuse) or "Socket errors" in output:
            raise SystemExit(f"the load met errors:\n{output}")
        self.per_second = float(found(r"Requests/sec:\s+([\d.]+)", output)[0])
        if refused:
            self.per_second *= 1 - int(refused[1]) / int(found(r"(\d+) requests in", output)[0])
        self.p50, self.p99 = (
            float(number) * MILLISECONDS[unit]
            for number, unit in (found(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", output) for percent in (50, 99))
        )


def found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"{pattern} is not in:\n{text}")
    return match.groups()
