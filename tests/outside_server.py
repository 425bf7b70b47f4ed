"""A real HTTP(S) server of the world outside, for tests of outside calls; it runs in a thread, on loopback."""

import asyncio
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


class OutsideServer:
    """Answers by the path's first part: `script` (next of `answers`), `slow`, `drop`, `redirect`, `large`, else 200.

    `seen` has (monotonic time, path, idempotency key) of each request.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, slow_seconds: float = 3.0) -> None:
        self._tls = tls
        self.slow_seconds = slow_seconds
        self.seen: list[tuple[float, str, str]] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.connections: set[int] = set()
        self.port = 0

    @property
    def keys(self) -> Counter[str]:
        """How often each key came."""
        return Counter(key for _, _, key in self.seen)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((time.monotonic(), request.path, request.headers.get("Idempotency-Key", "")))
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername")[1])
        await request.read()
        match request.path.split("/")[1]:
            case "script":
                status, headers = self.answers.popleft() if self.answers else (200, {})
                return web.Response(status=status, headers=headers, text="scripted")
            case "slow":
                await asyncio.sleep(self.slow_seconds)
            case "drop" if request.transport is not None:
                request.transport.abort()
            case "redirect":
                return web.Response(status=302, headers={"Location": f"https://localhost:{self.port}/ok"})
            case "large":
                return web.Response(body=b"x" * 1_000_000)
        return web.Response(text="done")

    async def _serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await stop.wait()
        await runner.cleanup()

    @contextmanager
    def running(self) -> Iterator["OutsideServer"]:
        """Serve until the block ends."""
        started, stop = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(started, stop),))
        thread.start()
        try:
            assert started.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()
