"""Webhooks: capture what happened as deliveries, make the requests of attempts, and take the answers.

The functions are plain: they get a transaction and know neither Kafka nor HTTP. `capture` runs in the transaction that
moves the position of the part `webhooks`, so each message is captured once. An attempt is claimed, sent outside any
transaction, and settled in a second one: it is made at least once, with the same `webhook-id` each time.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from prometheus_client import Counter, Gauge

from db import webhooks as db
from db.connections import Transaction
from domain.effects import Call, Effects
from domain.events import EVENT_NAMESPACE, Event
from domain.webhook_wishes import WishIndex
from domain.webhooks import (
    EXCERPT_BYTES_MAX,
    SECOND,
    TIMEOUT_SECONDS,
    Message,
    compute_next_time,
    find_disabling_reason,
    is_success,
    make_headers,
)
from runtime.metrics import show_age

KIND: Final = "webhook"
FAMILY: Final = "notification"
NOTICE: Final = "WebhookDisabled"
LEASE_SECONDS: Final = 600
"""How long a delivery with a call is left alone: longer than a call may wait, so that it rarely gets a second one."""
CLAIMED_MAX: Final = 200
ENDPOINT_CLAIMED_MAX: Final = 10
ERROR_CHARACTERS_MAX: Final = 200

DELIVERIES: Final = Counter(
    "ledgerline_webhooks_attempts", "Attempts at deliveries, by result: delivered, retried or failed.", ("result",)
)
CAPTURED: Final = Counter("ledgerline_webhooks_captured", "Deliveries that were captured.")
WAITING: Final = Gauge("ledgerline_webhooks_waiting", "Deliveries that are neither delivered nor failed.")
OLDEST: Final = Gauge(
    "ledgerline_webhooks_oldest_seconds", "How long the oldest delivery has waited for its first attempt."
)
DISABLED: Final = Gauge("ledgerline_webhooks_disabled_endpoints", "Endpoints that the worker disabled.")


class Attempt(NamedTuple):
    """Which attempt at which delivery."""

    tenant: str
    delivery_id: UUID
    endpoint_id: UUID
    number: int
    """From 1."""


class Request(NamedTuple):
    """One attempt, as it goes out: POST, no redirects, 2xx only."""

    attempt: Attempt
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_seconds: float


class Answer(NamedTuple):
    """What came of an attempt."""

    attempt: Attempt
    attempted_time: int
    """Microseconds since 1970."""
    latency_microseconds: int
    status: int | None
    """None if no answer came."""
    error: str = ""
    """Why none came, such as `timeout`."""
    retry_after_seconds: int | None = None
    content: bytes = b""
    """The beginning of the answer's body."""


class Capture:
    """Captures messages for the endpoints that want them. It keeps the table of endpoints in memory."""

    def __init__(self, lease_seconds: int = LEASE_SECONDS) -> None:
        """`lease_seconds`: how long the calls that `__call__` asks for have; 0 if nobody makes these calls."""
        self._lease = lease_seconds * SECOND
        self._version: int | None = None
        self._by_tenant: dict[str, WishIndex[db.Subscriber]] = {}

    def __call__(self, transaction: Transaction, messages: Iterable[Message], now: int) -> Effects:
        """Store the deliveries of messages, and ask for their calls. Without endpoints this is one read of a number."""
        if not self.refresh(transaction):
            return Effects()
        wanted = [
            (message, one)
            for message in messages
            if message.tenant in self._by_tenant
            for one in self._by_tenant[message.tenant].find(message)
        ]
        if not wanted:
            return Effects()
        ordered = {one.endpoint_id for _, one in wanted if one.ordered}
        if ordered:
            # An answer that settles the delivery before must see the new one, or the new one must see it settled.
            db.lock_endpoints(transaction, sorted(ordered))
        unique = {(message.tenant, message.message_id): message for message, _ in wanted}
        db.add_messages(transaction, list(unique.values()), now)
        deliveries = [
            db.NewDelivery(make_delivery_id(one.endpoint_id, message, ""), one.endpoint_id, message, "", one.ordered)
            for message, one in wanted
        ]
        ready = db.add_deliveries(transaction, deliveries, now, now + self._lease)
        CAPTURED.inc(len(deliveries))
        return Effects(calls=make_calls(ready))

    def refresh(self, transaction: Transaction) -> bool:
        """Read the table of endpoints again if it has changed; return whether there are endpoints."""
        version = db.read_version(transaction)
        if version == self._version:
            return bool(self._by_tenant)
        # The rows are read after the number, so they are as new as it, or newer: then the next batch reads them again.
        found: dict[str, list[db.Subscriber]] = {}
        for one in db.read_subscribers(transaction):
            found.setdefault(one.tenant, []).append(one)
        self._by_tenant = {
            tenant: WishIndex((one.wish, one) for one in subscribers) for tenant, subscribers in found.items()
        }
        self._version = version
        return bool(self._by_tenant)


def make_delivery_id(endpoint_id: UUID, message: Message, series: str) -> UUID:
    """Return the id of a delivery, which follows from what is delivered where, and in which series of attempts."""
    return uuid5(EVENT_NAMESPACE, f"webhook\x00{endpoint_id}\x00{message.tenant}\x00{message.message_id}\x00{series}")


def make_calls(ready: Iterable[db.Stored]) -> tuple[Call, ...]:
    """Return the outside calls of deliveries that wait for no other."""
    return tuple(
        Call(
            one.tenant,
            KIND,
            str(one.delivery_id),
            str(one.endpoint_id),
            {"delivery_id": str(one.delivery_id), "attempts": 0},
        )
        for one in ready
    )


def take_due(transaction: Transaction, now: int, items_max: int = CLAIMED_MAX) -> list[db.Claimed]:
    """Return deliveries that are due, a few of each endpoint, so that a dead endpoint takes nobody else's turn."""
    return db.take_due(transaction, now, now + LEASE_SECONDS * SECOND, items_max, ENDPOINT_CLAIMED_MAX)


def prepare(transaction: Transaction, deliveries: Sequence[tuple[str, UUID]], now: int) -> list[Request]:
    """Return the requests of the next attempts at deliveries (tenant and id of each), signed at `now`."""
    return [
        Request(
            Attempt(one.tenant, one.delivery_id, one.endpoint_id, one.attempts + 1), one.url,
            make_headers(one.secrets, one.message_id, one.body, now), one.body, TIMEOUT_SECONDS,
        )
        for one in db.prepare(transaction, deliveries)
    ]  # fmt: skip


def settle(
    transaction: Transaction,
    answers: Sequence[Answer],
    now: int,
    jitter: Callable[[], float] = random.random,
    lease_seconds: int = LEASE_SECONDS,
) -> Effects:
    """Store what came of attempts: delivered, a next time by the plan, or failed. Disable endpoints that are dead.

    Return the calls of deliveries that waited for these, and the notices of disabled endpoints.
    """
    if not answers:
        return Effects()
    # First, and in order: a capture of the same ordered endpoint comes whole before this, or whole after it.
    endpoints = db.lock_endpoints(transaction, sorted({answer.attempt.endpoint_id for answer in answers}))
    tried = [_make_tried(answer, now, jitter()) for answer in answers]
    changed = db.settle(transaction, tried, now)
    known = {one.delivery_id for one in changed}
    for one in tried:
        if one.delivery_id in known:
            DELIVERIES.labels("retried" if one.state == "waiting" else one.state).inc()
    ended = [one for one in changed if one.state != "waiting"]
    ready = db.start_held(transaction, ended, now + lease_seconds * SECOND) if ended else []
    fresh = [answer for answer in answers if answer.attempt.delivery_id in known]
    return Effects(events=_judge_endpoints(transaction, endpoints, fresh, now), calls=make_calls(ready))


def _make_tried(answer: Answer, now: int, jitter: float) -> db.Tried:
    attempt = answer.attempt
    next_time = None
    state = "delivered"
    if not is_success(answer.status):
        next_time = compute_next_time(attempt.number, now, jitter, answer.retry_after_seconds)
        state = "failed" if next_time is None else "waiting"
    excerpt = answer.content[:EXCERPT_BYTES_MAX].decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    error = answer.error or ("" if state == "delivered" else f"The endpoint answered {answer.status}.")
    return db.Tried(
        attempt.tenant, attempt.delivery_id, attempt.number, answer.attempted_time, answer.status,
        error[:ERROR_CHARACTERS_MAX], answer.latency_microseconds, excerpt, state, next_time,
    )  # fmt: skip


def _judge_endpoints(
    transaction: Transaction, endpoints: Sequence[db.LockedEndpoint], answers: Sequence[Answer], now: int
) -> tuple[Event, ...]:
    """Note since when endpoints fail, and disable those that are dead; return the notices."""
    events = []
    for endpoint in endpoints:
        own = [answer for answer in answers if answer.attempt.endpoint_id == endpoint.endpoint_id]
        if not own:
            continue
        succeeded = any(is_success(answer.status) for answer in own)
        first_time = min(answer.attempted_time for answer in own)
        since = None if succeeded else endpoint.failing_since or first_time
        if since != endpoint.failing_since:
            db.note_failing(transaction, endpoint.tenant, endpoint.endpoint_id, since)
        reasons = (find_disabling_reason(answer.status, since, now) for answer in own if not is_success(answer.status))
        reason = next(filter(None, reasons), None)
        if reason is not None:
            number = db.note_disabled(transaction, endpoint.tenant, endpoint.endpoint_id, reason, now)
            if number is not None:
                events.append(make_notice(endpoint.tenant, endpoint.endpoint_id, number, reason, now))
    return tuple(events)


def make_notice(tenant: str, endpoint_id: UUID, number: int, reason: str, now: int) -> Event:
    """Return the event by which people learn that an endpoint was disabled. Its aggregate counts the notices."""
    data = {"endpoint_id": str(endpoint_id), "reason": reason}
    return Event(FAMILY, NOTICE, tenant, f"webhooks:{endpoint_id}:notices", number, data, now)


def show_metrics(transaction: Transaction) -> db.Measured:
    """Set the gauges, and return what they show."""
    found = db.read_measures(transaction)
    WAITING.set(found.waiting)
    show_age(OLDEST, None if found.oldest_time is None else found.oldest_time / SECOND)
    DISABLED.set(found.disabled)
    return found


def remove_old(transaction: Transaction, now: int, kept_days: int) -> int:
    """Delete messages that are settled and older than `kept_days`, with their deliveries; return how many messages."""
    return db.remove_old(transaction, now - kept_days * 86_400 * SECOND)
