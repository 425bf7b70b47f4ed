"""A receiver of webhooks on loopback, and the caller of attempts, for tests."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx

from db.connections import connect
from domain.effects import Effects
from domain.webhooks import SECOND
from streams import webhooks


class Received(NamedTuple):
    """One request that came."""

    headers: Mapping[str, str]
    body: bytes


class Inbox:
    """What came to a receiver, and the status that it answers."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.url = ""


@contextmanager
def receiving() -> Iterator[Inbox]:
    """Yield a running receiver."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            inbox.received.append(Received({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(inbox.status)
            for name, value in inbox.headers.items():
                self.send_header(name, value)
            answer = b"" if inbox.status == 204 else b"\xffsorry" + b"x" * 1000
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield inbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(request: webhooks.Request, now: int) -> webhooks.Answer:
    """Make one attempt, as the outside calls do: POST, no redirects; a lost connection is an answer without status."""
    try:
        found = httpx.post(request.url, content=request.body, headers=dict(request.headers), timeout=5)
    except httpx.TransportError as error:
        return webhooks.Answer(request.attempt, now, 1, None, type(error).__name__)
    asked = found.headers.get("retry-after")
    return webhooks.Answer(
        request.attempt,
        now,
        1,
        found.status_code,
        retry_after_seconds=int(asked) if asked else None,
        content=found.content,
    )


def deliver_due(dsn: str, now: int) -> tuple[int, Effects]:
    """Claim, send and settle one round of due deliveries; return how many attempts there were, and the effects."""
    with connect(dsn, "ledgerline_worker") as connection:
        claimed = webhooks.take_due(connection, now)
        connection.commit()
        requests = webhooks.prepare(connection, [(one.tenant, one.delivery_id) for one in claimed], now)
        connection.commit()
        answers = [send(request, now) for request in requests]
        effects = webhooks.settle(connection, answers, now, jitter=lambda: 0.0, lease_seconds=0)
        connection.commit()
    return len(answers), effects


def seconds_later(now: int, seconds: float) -> int:
    """Return a moved time in microseconds since 1970."""
    return now + int(seconds * SECOND)
