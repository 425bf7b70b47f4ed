"""Endpoints of webhooks for the bench: `python -m tools.bench.receiver`, a process of its own.

The path says what an endpoint does: `/slow/...` answers after SLOW_SECONDS, all others answer 204 at once. GET /seen
returns, and forgets, the latencies of the answers so far, from the record's time in the body to its arrival.
"""

import asyncio
import sys
import time
from datetime import datetime
from typing import Final

import orjson
from aiohttp import web

SLOW_SECONDS: Final = 10.0


class Receiver:
    """Keeps the latency of each request, in milliseconds, apart for slow endpoints and for the others."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {"fast": [], "slow": []}

    async def take(self, request: web.Request) -> web.Response:
        """Take a webhook's request."""
        body = orjson.loads(await request.read())
        latency_ms = (time.time() - datetime.fromisoformat(body["time"]).timestamp()) * 1000
        is_slow = request.path.startswith("/slow/")
        self._seen["slow" if is_slow else "fast"].append(latency_ms)
        if is_slow:
            await asyncio.sleep(SLOW_SECONDS)
        return web.Response(status=204)

    async def show(self, _request: web.Request) -> web.Response:
        """Return the latencies, and forget them."""
        seen, self._seen = self._seen, {"fast": [], "slow": []}
        return web.Response(body=orjson.dumps(seen), content_type="application/json")


def main() -> None:
    """Serve on a free port of loopback; write the port to standard output."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_get("/seen", receiver.show)
    app.router.add_post("/{path:.*}", receiver.take)

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
