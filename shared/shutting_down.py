"""What a request gets that is under way when the server has to stop."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import errors


class ShuttingDown:
    """Answers 503 where uvicorn cancels, and would answer 500: a body, say, that is still on its way."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def send_noted(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except asyncio.CancelledError:
            if is_started or scope["type"] != "http":
                raise
            problem = errors.Unavailable("shutting_down", "this process is stopping")
            await errors.response(problem, scope)(scope, receive, send)
