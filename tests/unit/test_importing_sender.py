"""The sender against an API that throttles, is away for a moment, or refuses: what it retries, and when it gives up."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from producers.importing.model import ImportingError
from producers.importing.sender import BatchSender, Fate, Patience

QUICK = Patience(attempts_max=4, retry_seconds=0.01)
POSTED = {"status": "posted", "receipt": {"partition": 1, "offset": 7}}
PENDING = {"status": "pending", "receipt": {"partition": 1, "offset": 7}}
Answer = tuple[int, dict[str, str], Any]


def items(*entries: dict[str, Any]) -> Answer:
    """Return the answer to a whole batch."""
    return 200, {}, {"items": list(entries)}


def problem(status: int, name: str, detail: str = "Not now.") -> dict[str, Any]:
    """Return the problem of one item."""
    return {"status": status, "problem": {"type": f"https://ledgerline.dev/problems/{name}", "detail": detail}}


@contextmanager
def api(*answers: Answer) -> Iterator[tuple[str, list[list[str]]]]:
    """Run a server that gives these answers in turn. Yield its URL and the keys of each request."""
    requests: list[list[str]] = []
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append([json.loads(line)["idempotency_key"] for line in body.splitlines()])
            status, headers, document = waiting.pop(0)
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: Any) -> None:
            """Print no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(url: str, keys: list[str], patience: Patience = QUICK) -> list[Any]:
    """Send one batch of items with these keys."""

    async def work() -> list[Any]:
        async with BatchSender(url, "llk_x_y", patience=patience) as sender:
            return [
                result
                for results in await sender.send_all([[json.dumps({"idempotency_key": key}).encode() for key in keys]])
                for result in results
            ]

    return asyncio.run(work())


def test_a_throttled_request_is_sent_again_after_the_time_that_the_api_says() -> None:
    busy = (429, {"Retry-After": "0"}, {"title": "Too many requests"})
    away = (503, {"Retry-After": "0"}, {"title": "Kafka did not confirm"})
    with api(busy, away, items({"status": 200, "intent": POSTED})) as (url, requests):
        (result,) = send(url, ["a"], Patience(attempts_max=3, retry_seconds=60, retry_seconds_max=60))
    assert result.fate is Fate.POSTED
    assert requests == [["a"]] * 3


def test_only_items_in_doubt_are_sent_again() -> None:
    first = items(
        {"status": 200, "intent": POSTED, "replayed": True},
        problem(503, "kafka-unavailable"),
        problem(422, "idempotency-conflict", "Another body."),
        problem(422, "unbalanced", "Debits differ."),
    )
    with api(first, items({"status": 200, "intent": POSTED})) as (url, requests):
        results = send(url, ["a", "b", "c", "d"])
    assert [(result.fate, result.replayed, result.reason) for result in results] == [
        (Fate.POSTED, True, ""),
        (Fate.POSTED, False, ""),
        (Fate.CONFLICT, False, "idempotency-conflict"),
        (Fate.REFUSED, False, "unbalanced"),
    ]
    assert requests == [["a", "b", "c", "d"], ["b"]]


def test_a_pending_item_stands_unless_its_outcome_is_waited_for() -> None:
    pending, posted = items({"status": 202, "intent": PENDING}), items({"status": 200, "intent": POSTED})
    with api(pending) as (url, requests):
        assert [result.fate for result in send(url, ["a"])] == [Fate.PENDING]
    with api(pending, posted) as (url, requests):
        patience = Patience(wait_seconds=1, attempts_max=3, retry_seconds=0.01)
        assert [result.fate for result in send(url, ["a"], patience)] == [Fate.POSTED]
    assert requests == [["a"], ["a"]]


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([(503, {}, {"detail": "Kafka did not confirm."})] * 4, "did not take a batch in 4 attempts: Kafka did not"),
        ([(401, {}, {"detail": "No valid API key."})], "refuses the batch with status 401: No valid API key."),
        ([(500, {}, {"title": "Something went wrong here"})], "status 500: Something went wrong here"),
    ],
)
def test_giving_up_is_one_sentence(answers: list[Answer], sentence: str) -> None:
    with api(*answers) as (url, requests), pytest.raises(ImportingError, match=sentence):
        send(url, ["a"])
    assert len(requests) == len(answers)


def test_an_api_that_is_away_is_one_sentence() -> None:
    with pytest.raises(ImportingError, match=r"did not take a batch in 4 attempts: the API at .* does not answer"):
        send("http://127.0.0.1:9", ["a"])
