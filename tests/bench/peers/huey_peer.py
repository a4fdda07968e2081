import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from huey import SqliteHuey
from measuring import Jobs, measure

huey = SqliteHuey(filename=sys.argv[1], fsync=True, results=False)
ended = None


@huey.task()
def echo(number):
    ended(number)


async def main():
    global ended
    threads = ThreadPoolExecutor(32)
    loop = asyncio.get_running_loop()
    jobs = Jobs(lambda number: loop.run_in_executor(threads, echo, number))
    ended = jobs.ended

    async def work():
        consumer = huey.create_consumer(workers=4, periodic=False)
        consumer.start()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(consumer.stop, graceful=True)

    await measure(jobs, "huey", work)


asyncio.run(main())
