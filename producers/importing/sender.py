"""Post prepared items through POST /v1/intents/batch: a few requests at once, with retries after 429 and 503.

A repeat posts nothing twice, because every item has its idempotency key. So every item in doubt is simply sent again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import httpx
import orjson

from producers.importing.model import ImportingError

BATCH_ITEMS_MAX: Final = 1000
RETRY_STATUSES: Final = frozenset({429, 503})
_SENTENCE_CHARACTERS_MAX: Final = 300


class Fate(StrEnum):
    """What the API says of one item."""

    POSTED = "posted"
    REJECTED = "rejected"
    PENDING = "pending"
    """Kafka has the item. Its outcome is unknown, because the request did not wait, or not long enough."""
    CONFLICT = "conflict"
    """Its key was used for other content before."""
    REFUSED = "refused"
    """The API did not take it; nothing was sent to Kafka and the key is not used up."""


class ItemResult(NamedTuple):
    """The last answer to one item."""

    fate: Fate
    replayed: bool = False
    """An earlier request settled the item, so this one posted nothing."""
    reason: str = ""
    detail: str = ""
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Patience:
    """How long the sender waits and how often it tries; every attempt of a request counts."""

    wait_seconds: float = 0
    """The wait for outcomes in each request (Prefer: wait); 0: do not wait."""
    attempts_max: int = 12
    retry_seconds: float = 0.5
    """The pause before the second attempt. It doubles with each further attempt; a Retry-After header replaces it."""
    retry_seconds_max: float = 10
    request_seconds_max: float = 60


class BatchSender:
    """Sends requests of up to 1,000 items over a few connections; use it as an asynchronous context manager."""

    def __init__(self, api_url: str, api_key: str, *, connections: int = 4, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._gate = asyncio.Semaphore(connections)
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/x-ndjson"}
        if self._patience.wait_seconds:
            headers["Prefer"] = f"wait={self._patience.wait_seconds:g}"
        self._client = httpx.AsyncClient(
            base_url=api_url,
            headers=headers,
            timeout=self._patience.request_seconds_max + self._patience.wait_seconds,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self.retries = 0
        """The number of repeats of a request."""

    async def __aenter__(self) -> "BatchSender":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def send_all(
        self, batches: Sequence[Sequence[bytes]], on_answered: Callable[[int], None] = lambda _items: None
    ) -> list[list[ItemResult]]:
        """Send every batch, each a list of JSON objects. Return the results in the same order.

        `on_answered` is called with the number of items of each finished batch. Raise ImportingError if the API does
        not take a request after all attempts, or refuses it with a status that is not retried.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._send_guarded(batch, on_answered)) for batch in batches]
        except ExceptionGroup as failed:
            # The first failure cancels the other batches. People need to read only that one.
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _send_guarded(self, batch: Sequence[bytes], on_answered: Callable[[int], None]) -> list[ItemResult]:
        async with self._gate:
            results = await self.send(batch)
        on_answered(len(batch))
        return results

    async def send(self, batch: Sequence[bytes]) -> list[ItemResult]:
        """Send one batch until every item has a final answer, or the attempts are used up.

        Raise ImportingError if an item has no answer by then.
        """
        if len(batch) > BATCH_ITEMS_MAX:
            raise ValueError(f"A batch has at most {BATCH_ITEMS_MAX} items, not {len(batch)}.")
        results: list[ItemResult | None] = [None] * len(batch)
        open_places = list(range(len(batch)))
        retry_after: float | None = None
        trouble = ""
        for attempt in range(self._patience.attempts_max):
            if attempt:
                self.retries += 1
                await self._pause(attempt, retry_after)
            answer = await self._send_request([batch[place] for place in open_places])
            if isinstance(answer, _Trouble):
                trouble, retry_after = answer.sentence, answer.retry_after_seconds
                continue
            for place, item in zip(open_places, answer, strict=True):
                results[place] = item
            open_places = [place for place in open_places if self._is_open(results[place])]
            if not open_places:
                break
            retry_after = None
            trouble = next(
                (f": {found.detail}" for place in open_places if (found := results[place]) and found.detail), ""
            )
        done = [result for result in results if result is not None]
        if len(done) < len(batch):
            raise ImportingError(f"The API did not take a batch in {self._patience.attempts_max} attempts: {trouble}")
        return done

    def _is_open(self, result: ItemResult | None) -> bool:
        """Return whether an item must be sent again: it was not taken yet, or its outcome is still awaited."""
        if result is None or result.reason == "retry":
            return True
        return result.fate is Fate.PENDING and self._patience.wait_seconds > 0

    async def _pause(self, attempt: int, retry_after: float | None) -> None:
        doubled = self._patience.retry_seconds * 2 ** min(attempt - 1, 10)
        await asyncio.sleep(min(retry_after if retry_after is not None else doubled, self._patience.retry_seconds_max))

    async def _send_request(self, lines: Sequence[bytes]) -> "list[ItemResult] | _Trouble":
        try:
            response = await self._client.post("/v1/intents/batch", content=b"\n".join(lines))
        except httpx.TransportError:
            return _Trouble(f"the API at {self._client.base_url} does not answer.", None)
        if response.status_code in RETRY_STATUSES:
            return _Trouble(_make_sentence(response), _retry_after(response))
        if response.status_code != 200:
            raise ImportingError(
                f"The API refuses the batch with status {response.status_code}: {_make_sentence(response)}"
            )
        return [_make_result(item) for item in orjson.loads(response.content)["items"]]


class _Trouble(NamedTuple):
    """The failure of a whole request that may succeed later."""

    sentence: str
    retry_after_seconds: float | None


def _make_result(item: dict[str, Any]) -> ItemResult:
    problem = item.get("problem")
    if problem is not None:
        kind = str(problem.get("type", "")).rpartition("/")[2]
        detail = str(problem.get("detail") or problem.get("title") or "")
        if item["status"] in RETRY_STATUSES:
            return ItemResult(Fate.REFUSED, reason="retry", detail=detail)
        return ItemResult(Fate.CONFLICT if kind == "idempotency-conflict" else Fate.REFUSED, reason=kind, detail=detail)
    intent = item["intent"]
    receipt = intent["receipt"]
    return ItemResult(
        Fate(intent["status"]),
        replayed=bool(item.get("replayed")),
        reason=intent.get("reason") or "",
        detail=intent.get("detail") or "",
        partition=receipt["partition"],
        offset=receipt["offset"],
    )


def _make_sentence(response: httpx.Response) -> str:
    """Return what a problem document says, or the start of any other answer."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text[:_SENTENCE_CHARACTERS_MAX] or f"status {response.status_code}"
    detail = document.get("detail") or document.get("title") if isinstance(document, dict) else None
    return str(detail or f"status {response.status_code}")[:_SENTENCE_CHARACTERS_MAX]


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, in either of its forms (RFC 9110, 10.2.3); None without one."""
    text = response.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
