"""Headers that a middleware adds to an answer."""

from collections.abc import Sequence

from starlette.types import Message, Send


def adding(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """A `send` that adds these headers to the answer's own."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_with_headers
