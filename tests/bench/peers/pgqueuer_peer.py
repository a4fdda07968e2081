import asyncio
import sys

import asyncpg
from measuring import Jobs, measure
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.queries import Queries


async def main():
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=8) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        jobs = Jobs(lambda number: queries.enqueue("echo", str(number).encode()))
        queuer = PgQueuer(driver)

        @queuer.entrypoint("echo")
        async def echo(job):
            jobs.ended(int(job.payload))

        await measure(jobs, "pgqueuer", lambda: queuer.run(batch_size=32))


asyncio.run(main())
