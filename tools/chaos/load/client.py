"""One client of the API. It sends its content at a fixed rate, and retries unanswered intents under the same key."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx
import orjson

from domain.intents import compute_intent_id
from tools.chaos.load.content import Content, Item, Request
from tools.chaos.load.record import Record

SENDERS: Final = 4
"""Concurrent requests of one client."""

# Longer than the API's own timeout for Kafka, 10 s, after which it answers with an error.
_TIMEOUT: Final = httpx.Timeout(15.0, connect=3.0)
_PAUSE_SECONDS: Final = 0.05
_PAUSE_SECONDS_MAX: Final = 1.0
_RETRY_AFTER_SECONDS_MAX: Final = 2.0
_BEHIND_SECONDS_MAX: Final = 0.5
_TRIES_UNPOSTED_MAX: Final = 5
_UNPOSTED_SECONDS: Final = 1.0
_REFUSED_KINDS: Final = {"unbalanced", "malformed"}
# A correct intent may get these refusals, because of the outcome of another intent.
_REFUSALS: Final = {"idempotency-conflict", "original-not-posted"}


@dataclass(frozen=True)
class Control:
    """The events that pause and end the load."""

    running: threading.Event = field(default_factory=threading.Event)
    """While cleared, clients send no new intents."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Once set, clients send no new intents, but still retry unanswered ones."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Once set, clients stop retrying as well."""


class _Deferred(NamedTuple):
    """A reversal whose original is not posted yet."""

    at: float
    item: Item
    tries: int


class Client:
    """A client whose threads run from `start` until `Control` ends them; `join` waits for them."""

    def __init__(
        self,
        name: str,
        content: Content,
        record: Record,
        control: Control,
        *,
        api_urls: Callable[[], Sequence[str]],
        api_key: str,
        tenant: str,
        intents_per_second: float,
    ) -> None:
        self._content = content
        self._record = record
        self._control = control
        self._api_urls = api_urls
        self._tenant = tenant
        self._seconds_for_each = 1 / intents_per_second
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._deferred: deque[_Deferred] = deque()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=2 * SENDERS),
            trust_env=False,
        )
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(SENDERS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self, deadline: float) -> bool:
        """Wait for the threads until `deadline` (time.monotonic()). Return whether they have ended."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ------------------------------------------------------------------------------------------ in the threads

    def _run(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                request, tries = work
                self._record.count("retried" if tries else "sent", len(request.items))
                self._settle(request, tries)
        except Exception as error:  # noqa: BLE001 - Load.finish raises it in the owner's thread
            self._record.note_wrong(f"A sender of the load failed: {error!r}.")

    def _next_work(self) -> tuple[Request, int] | None:
        """Wait until the next request is due. Return it and how often it was refused for now; None at the end.

        Requests that an outage delayed are not made up for: the rate stays the same.
        """
        self._control.running.wait()
        with self._lock:
            is_last = self._control.stopping.is_set()
            if self._control.abandoned.is_set():
                self._record.count("unanswered", len(self._deferred))
                self._deferred.clear()
            if self._deferred and (is_last or self._deferred[0].at <= time.monotonic()):
                _, item, tries = self._deferred.popleft()
                return Request((item,), item.turn), tries
            if is_last:
                return None
            request = self._content.next_request()
            at = max(self._next_at, time.monotonic() - _BEHIND_SECONDS_MAX)
            self._next_at = at + len(request.items) * self._seconds_for_each
        if self._control.stopping.wait(max(0.0, at - time.monotonic())):
            return self._next_work()  # deferred intents come before the end
        return request, 0

    def _settle(self, request: Request, tries: int) -> None:
        """Send a request, then its unanswered intents, until each has a final answer or the load is abandoned."""
        attempt = 0
        while True:
            open_items, retry_after_seconds = self._attempt(request, attempt, tries)
            if not open_items:
                return
            growing = min(_PAUSE_SECONDS * 2 ** min(attempt, 8), _PAUSE_SECONDS_MAX)
            pause = growing if retry_after_seconds is None else min(retry_after_seconds, _RETRY_AFTER_SECONDS_MAX)
            if self._control.abandoned.wait(pause):
                self._record.count("unanswered", len(open_items))
                return
            attempt += 1
            self._record.count("retried", len(open_items))
            request = request._replace(items=tuple(open_items))

    def _attempt(self, request: Request, attempt: int, tries: int) -> tuple[list[Item], float | None]:
        """Send once. Return the intents to send again, and the seconds to wait if the API gave Retry-After."""
        urls = self._api_urls()
        if not urls:
            return list(request.items), None
        try:
            response = self._send(urls[(request.turn + attempt) % len(urls)], request)
        except httpx.TransportError as error:
            self._record.count(f"trouble {type(error).__name__}")
            return list(request.items), None
        open_items: list[Item] = []
        for item, (status, document) in zip(request.items, self._answers(request, response), strict=True):
            if status == 429 or status >= 500:
                self._record.count(f"trouble {status}")
                open_items.append(item)
            elif status == 409 and tries < _TRIES_UNPOSTED_MAX and not self._control.stopping.is_set():
                with self._lock:
                    self._deferred.append(_Deferred(time.monotonic() + _UNPOSTED_SECONDS, item, tries + 1))
            else:
                self._take(item, status, document)
        return open_items, _retry_after_seconds(response)

    def _send(self, url: str, request: Request) -> httpx.Response:
        if not request.is_batch:
            (item,) = request.items
            headers = {"Content-Type": "application/json", "Idempotency-Key": item.idempotency_key}
            return self._http.post(f"{url}/v1/intents", content=item.body, headers=headers)
        lines = [item.line for item in request.items]
        if request.is_ndjson:
            content, kind = b"\n".join(lines), "application/x-ndjson"
        else:
            content, kind = b"[" + b",".join(lines) + b"]", "application/json"
        return self._http.post(f"{url}/v1/intents/batch", content=content, headers={"Content-Type": kind})

    def _answers(self, request: Request, response: httpx.Response) -> list[tuple[int, dict[str, Any]]]:
        """Return status and document of each intent. One answer for a whole batch counts for each of its items."""
        if response.status_code >= 500:  # the body may be the HTTP server's own, and no JSON
            return [(response.status_code, {})] * len(request.items)
        document = orjson.loads(response.content)
        if request.is_batch and response.status_code == 200:
            return [(item["status"], item.get("intent") or item["problem"]) for item in document["items"]]
        return [(response.status_code, document)] * len(request.items)

    def _take(self, item: Item, status: int, document: dict[str, Any]) -> None:
        """Record a final answer."""
        place = f"{item.kind} {item.idempotency_key}: {status}"
        if status in (200, 202):
            if item.kind in _REFUSED_KINDS:
                self._record.note_wrong(f"{place}, though it is no intent.")
            if document["intent_id"] != str(compute_intent_id(self._tenant, item.idempotency_key)):
                self._record.note_wrong(f"{place}, but the intent's id {document['intent_id']} is not the key's.")
            receipt = document["receipt"]
            self._record.acknowledge(item, receipt["partition"], receipt["offset"], document["status"])
            return
        problem = str(document["type"]).rpartition("/")[2]
        self._record.count(f"refused {status}")
        if problem not in _REFUSALS and not (item.kind in _REFUSED_KINDS and status == 422):
            self._record.note_wrong(f"{place} {problem}: {document.get('detail')}")


def _retry_after_seconds(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
