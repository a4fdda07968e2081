"""What every peer is asked to do. Runs in an environment that has the peer and nothing of ours."""

import asyncio
import importlib.metadata
import json
import statistics
import time

SECONDS = 4
TRIPS = 100


class Jobs:
    def __init__(self, submit):
        """`submit(number)` is awaited; `ended(number)` has to be called by the job."""
        self.submit = submit
        self.loop = asyncio.get_running_loop()
        self.waiting = {}

    def ended(self, number):
        self.loop.call_soon_threadsafe(self._let_go, number)

    def _let_go(self, number):
        if waiting := self.waiting.pop(number, None):
            waiting.set_result(None)

    async def run(self, number):
        self.waiting[number] = end = self.loop.create_future()
        await self.submit(number)
        await end

    async def a_second(self, act, connections):
        """How many `act(number)` get done in a second."""
        count, ends = 0, time.monotonic() + SECONDS

        async def client(first):
            nonlocal count
            number = first
            while time.monotonic() < ends:
                await act(number)
                count += 1
                number += connections

        await asyncio.gather(*(client(first) for first in range(connections)))
        return count / SECONDS

    async def round_trip_ms(self):
        taken = []
        for number in range(TRIPS):
            await asyncio.sleep(0.02)
            started = time.monotonic()
            await self.run(-1 - number)
            taken.append(time.monotonic() - started)
        return statistics.median(taken) * 1000


async def measure(jobs, package, start_worker):
    """`start_worker()` gives a coroutine that runs jobs until it is cancelled. Prints a line of JSON."""
    submits = await jobs.a_second(jobs.submit, 32)
    worker = asyncio.create_task(start_worker())
    await jobs.run(-TRIPS - 1)  # behind all that was submitted
    runs = await jobs.a_second(jobs.run, 16)
    round_trip_ms = await jobs.round_trip_ms()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    version = importlib.metadata.version(package)
    print(json.dumps({"version": version, "submits": submits, "runs": runs, "round_trip_ms": round_trip_ms}))
