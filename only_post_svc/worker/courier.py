"""Sends webhooks: several at once, fewer to each host, so that a slow receiver does not delay the others."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from only_post_svc import failures, hints, lookup, webhooks
from only_post_svc.failures import FailureRow
from only_post_svc.lookup import TaskRow
from only_post_svc.models.tasks import fetched_json
from only_post_svc.settings import Settings
from only_post_svc.webhooks import GONE, Hands, Webhook
from only_post_svc.worker.delivery import Failed, Post, deliver
from shared import VERSION
from shared.database import Database
from shared.lasting_secrets import lasting_secrets
from shared.loops import Loops
from shared.settings import Secret

HANDS = 32  # deliveries at once
OF_A_HOST = 4
OF_A_SLOW_HOST = 1  # one whose last delivery failed
MAX_SLOW = 1000  # hosts that are remembered
LOOK_SECONDS = 5.0

log = logging.getLogger(__name__)

Deliver = Callable[[Post], Awaitable[int]]


class Courier:
    """Does nothing until it hears of a webhook, from a hint or from the worker's look at the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._secrets: list[Secret] = []  # once something was signed
        self._deliver: Deliver = partial(deliver, receivers=settings.receivers)
        self._with_traceback = settings.app_env == "development"
        self._due = asyncio.Event()
        self._is_needed = False
        self._unheard: list[str] = []  # topics with many hints, to subscribe to once there is a webhook
        self._in_flight: dict[asyncio.Task[None], str] = {}
        self._slow: dict[str, None] = {}
        self._after = ""

    def start(self, loops: Loops) -> None:
        self._database.subscribe(hints.NOTIFY, lambda about: self.note_pending(True))
        self._unheard = [hints.ENDED, hints.CANCELLED]
        loops.start(self._send_due, at=self._due)

    def stop(self) -> None:
        for sending in self._in_flight:
            sending.cancel()

    def note_pending(self, is_pending: bool) -> None:
        """Whether the worker has seen a webhook in the database that is still to be sent."""
        self._is_needed = is_pending
        if is_pending:
            while self._unheard:
                self._database.subscribe(self._unheard.pop(), self._take_ended)
            self._due.set()

    def _take_ended(self, task_id: str) -> None:
        if self._is_needed:
            self._due.set()

    async def _send_due(self) -> None:
        while self._is_needed:
            self._due.clear()  # what is heard from here on may be too late for the look
            seconds = await self._database.read(webhooks.seconds_to_next)
            if seconds is None or seconds > LOOK_SECONDS:
                return
            if seconds > 0:
                await self._until_due(seconds)
            elif not await self._take():
                return  # until a delivery under way has ended

    async def _until_due(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            pass

    async def _take(self) -> bool:
        """Whether there may be more to take."""
        hands = HANDS - len(self._in_flight)
        if hands == 0:
            return False
        in_flight = list(self._in_flight.values())
        free = Hands(in_flight, self._slow, OF_A_HOST, OF_A_SLOW_HOST)
        before = self._after
        taken, self._after = await self._database.write(lambda tx: webhooks.take(tx, before, hands, free))
        tasks = await self._tasks([webhook.task_id for webhook in taken])
        for webhook in taken:
            if webhook.task_id in tasks:
                sending = asyncio.create_task(self._send(webhook, tasks[webhook.task_id]))
                self._in_flight[sending] = webhook.host
                sending.add_done_callback(self._done)
        return bool(taken or before)

    async def _tasks(self, task_ids: list[str]) -> dict[str, TaskRow]:
        if not task_ids:
            return {}
        ended = await self._database.read(partial(lookup.find_ended, task_ids=task_ids))
        return {task.id: task for task in ended}

    def _done(self, sending: asyncio.Task[None]) -> None:
        del self._in_flight[sending]
        if not sending.cancelled() and (error := sending.exception()):
            # It is taken again once its `next_at` is over.
            log.warning("webhook.not_noted", extra={"reason": repr(error)})
        self._due.set()

    async def _send(self, webhook: Webhook, task: TaskRow) -> None:
        started = time.monotonic()
        error, is_final = None, False
        try:
            failed_runs = await self._database.read(lambda tx: failures.of(tx, task.id)) if task.has_failures else []
            status = await self._deliver(await self._post(webhook, task, failed_runs))
            if not 200 <= status < 300:
                error, is_final = f"answered {status}", status == GONE
        except Failed as failed:
            error = str(failed)
        self._note_speed(webhook.host, is_slow=error is not None)
        await self._database.write(lambda tx: webhooks.note(tx, webhook, error, is_final=is_final))
        seconds = round(time.monotonic() - started, 3)
        extra = {"task_id": webhook.task_id, "host": webhook.host, "attempt": webhook.attempts + 1, "seconds": seconds}
        if error is None:
            log.info("webhook.sent", extra=extra)
        else:
            log.warning("webhook.failed", extra={**extra, "reason": error})

    async def _post(self, webhook: Webhook, task: TaskRow, failed: list[FailureRow]) -> Post:
        if not self._secrets:
            lasting = await lasting_secrets(self._database, self._settings)
            self._secrets = webhooks.signing_secrets(self._settings.webhook_secret, lasting)
        told = fetched_json(task._replace(notify=None), failed, with_traceback=self._with_traceback)
        body, now = told.encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"only_post/{VERSION}",
            "webhook-id": webhook.message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": webhooks.signature(self._secrets, webhook.message_id, now, body),
        }
        if webhook.traceparent is not None:
            headers["traceparent"] = webhook.traceparent
        return Post(webhook.url, headers, body)

    def _note_speed(self, host: str, *, is_slow: bool) -> None:
        self._slow.pop(host, None)
        if is_slow:
            self._slow[host] = None
            if len(self._slow) > MAX_SLOW:
                del self._slow[next(iter(self._slow))]
