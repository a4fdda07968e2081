"""A worker elsewhere: claims tasks over HTTP, runs them in threads, renews their leases and reports how they ended."""

import json
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shared.client import ClientError, pause_after

CLAIM_WAIT_SECONDS = 4.0  # SIGTERM waits for it, and foreman kills after 5
RENEW_SECONDS = 5.0  # a lease is 30 seconds unless the operator said otherwise
MAX_MESSAGE = 2000

log = logging.getLogger(__name__)

Post = Callable[..., dict[str, Any]]
Run = dict[str, Any]  # as /api/claim describes it


class PullWorker:
    """`post(path, body, wait=0)` sends a request and gives its answer; `functions` by task type take the payload's
    members as arguments."""

    def __init__(
        self,
        post: Post,
        functions: Mapping[str, Callable[..., Any]],
        concurrency: int,
        stop: threading.Event,
        *,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._post = post
        self._functions = functions
        self._concurrency = concurrency
        self._runs: dict[str, Run] = {}
        self._free = threading.Semaphore(concurrency)
        self._stop = stop
        self._renew_seconds = renew_seconds
        self._is_done = threading.Event()

    def run(self) -> None:
        """Until SIGTERM, SIGINT or the stop event; then waits for the tasks that are running."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
        renewing = threading.Thread(target=self._renew_all, daemon=True)
        renewing.start()
        try:
            with ThreadPoolExecutor(self._concurrency) as pool:
                while not self._stop.is_set():
                    for run in self._claim():
                        pool.submit(self._work, run)
        finally:
            self._is_done.set()

    def _claim(self) -> list[Run]:
        """Waits for a free place, and claims as many tasks as there are free places."""
        if not self._free.acquire(timeout=1):
            return []
        places = 1
        while places < self._concurrency and self._free.acquire(blocking=False):
            places += 1
        claimed: list[Run] = []
        asked_at = time.monotonic()
        try:
            wanted = {"types": list(self._functions), "limit": places, "wait": CLAIM_WAIT_SECONDS}
            claimed = self._post("/api/claim", wanted, wait=CLAIM_WAIT_SECONDS)["items"]
        except ClientError as error:
            log.warning("claim failed: %s", error)
        for _ in range(places - len(claimed)):
            self._free.release()
        if not claimed:
            self._stop.wait(pause_after(asked_at, CLAIM_WAIT_SECONDS))
        return claimed

    def _work(self, run: Run) -> None:
        self._runs[run["lease"]] = run
        try:
            ended = {"task_id": run["task_id"], "lease": run["lease"], **self._ending(run)}
            self._post("/api/finish", {"runs": [ended]})
        except ClientError as error:
            log.warning("task %s could not be finished: %s", run["task_id"], error)  # its lease runs out
        finally:
            self._runs.pop(run["lease"], None)
            self._free.release()

    def _ending(self, run: Run) -> dict[str, Any]:
        try:
            result = self._functions[run["type"]](**run["payload"])
            json.dumps(result, allow_nan=False)  # a result that is not JSON fails the task
            return {"result": result}
        except BaseException as error:  # SystemExit too: the pool would swallow it, and the lease be renewed on and on
            log.error("task %s failed\n%s", run["task_id"], traceback.format_exc())
            return {"error": {"message": str(error)[:MAX_MESSAGE], "type": type(error).__name__}, "retry": True}

    def _renew_all(self) -> None:
        while not self._is_done.wait(self._renew_seconds):
            runs = [{"task_id": run["task_id"], "lease": run["lease"]} for run in list(self._runs.values())]
            try:
                if runs:
                    self._post("/api/renew", {"runs": runs})
            except ClientError as error:
                log.warning("leases could not be renewed: %s", error)
