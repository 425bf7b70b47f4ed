"""HEAD requests: every address with GET answers HEAD with the same headers and no body (RFC 9110, 9.3.2)."""

import asyncio

from starlette.types import Message, Receive, Scope, Send


def turn_into_get(scope: Scope, receive: Receive, send: Send) -> tuple[Scope, Receive, Send]:
    """Turn a HEAD request into a GET whose answer's body is dropped.

    Once the headers are sent, the route is told that the client has left, so an endless stream ends too.
    """
    answered = asyncio.Event()
    is_taken = False

    async def receive_once() -> Message:
        nonlocal is_taken
        if not is_taken:
            is_taken = True
            return await receive()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
        elif not answered.is_set():
            answered.set()
            await send({"type": "http.response.body"})

    return {**scope, "method": "GET"}, receive_once, send_head
