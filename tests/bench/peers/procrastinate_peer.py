import asyncio
import sys

from measuring import Jobs, measure
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=sys.argv[1], max_size=8))


async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        jobs = Jobs(lambda number: echo.defer_async(number=number))

        @app.task(name="echo")
        async def echo(number):
            jobs.ended(number)
            return number

        def work():
            return app.run_worker_async(concurrency=32, install_signal_handlers=False, listen_notify=True)

        await measure(jobs, "procrastinate", work)


asyncio.run(main())
