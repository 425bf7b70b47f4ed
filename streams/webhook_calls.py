"""Webhooks over the outside calls: the handler of the kind `webhook`, and the clock's item that asks for attempts.

The retry plan is that of the deliveries (domain.webhooks), so a call is one attempt. A capture asks for the first call
of a delivery in its own transaction. The clock asks for all others: retries, replays, tests, and what waited while its
endpoint was disabled.
"""

import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from db import webhooks as db
from db.connections import Transaction
from domain.effects import Call, Effects
from domain.outside_calls import Answer, ClaimedCall, Failure, Meaning, Request, Result, RetryPlan, parse_retry_after
from domain.webhooks import is_success
from streams import webhooks
from streams.call_handlers import Defaults

NAME: Final = "webhooks.delivery"


class WebhookCalls(Defaults):
    """Makes and settles the attempts. A repeat is safe: receivers drop a `webhook-id` that they have."""

    plan = RetryPlan(())
    kept_seconds: float | None = 24 * 3600.0
    """Deliveries have what came of their attempts. Only a delivery that does not exist yet asks for a first call."""

    def prepare(self, transaction: Transaction, calls: Sequence[ClaimedCall]) -> Sequence[Request | None]:
        """Return the signed request of each call; None if its delivery is settled or its endpoint is disabled."""
        now = _get_now()
        wanted = [(call.tenant, UUID(call.data["delivery_id"])) for call in calls]
        made = {one.attempt.delivery_id: one for one in webhooks.prepare(transaction, wanted, now)}
        found = [made.get(delivery_id) for _, delivery_id in wanted]
        return [
            None if one is None else Request("POST", one.url, one.headers, one.body, one.timeout_seconds)
            for one in found
        ]

    def judge(self, call: ClaimedCall, found: Answer | Failure) -> Meaning:  # noqa: ARG002 - the protocol's
        """Return DONE for 2xx. All else is an attempt that failed: the plan of deliveries goes on from there."""
        is_done = isinstance(found, Answer) and is_success(found.status)
        return Meaning.DONE if is_done else Meaning.NOT_DONE

    def settle(self, transaction: Transaction, results: Sequence[Result]) -> Effects:
        """Store what came of the attempts. A call that was not wanted leaves its delivery to the clock."""
        now = _get_now()
        return webhooks.settle(transaction, [_make_answer(one, now) for one in results if one.is_wanted], now)


class DueDeliveries:
    """The clock's item: deliveries whose next attempt is due (streams.capabilities.Due)."""

    name = NAME

    def claim(self, transaction: Transaction, now: int, items_max: int) -> Sequence[db.Claimed]:
        """Return deliveries that are due, a few of each endpoint, locked, and leased until their calls are made."""
        return webhooks.take_due(transaction, now, items_max)

    def get_due_time(self, item: Any) -> int:  # noqa: ARG002 - the protocol's
        """Return the time now: a claim has moved the delivery's own time."""
        return _get_now()

    def act_all(self, transaction: Transaction, items: Sequence[db.Claimed], now: int) -> Effects:  # noqa: ARG002 - as above
        """Ask for a call for each delivery."""
        return Effects(
            calls=tuple(
                Call(
                    one.tenant, webhooks.KIND, f"{one.delivery_id}:{one.attempts}:{now}", str(one.endpoint_id),
                    {"delivery_id": str(one.delivery_id), "attempts": one.attempts},
                )
                for one in items
            )
        )  # fmt: skip

    def defer(self, transaction: Transaction, item: db.Claimed, until: int, reason: str) -> None:
        """Leave a delivery alone until a time."""
        db.put_off(transaction, item, until, reason)


def _make_answer(result: Result, now: int) -> webhooks.Answer:
    call, answer = result.call, result.answer
    attempt = webhooks.Attempt(
        call.tenant, UUID(call.data["delivery_id"]), UUID(call.destination), int(call.data["attempts"]) + 1
    )
    latency = result.latency_microseconds
    if answer is None:
        return webhooks.Answer(attempt, now - latency, latency, None, result.failure)
    asked = parse_retry_after(answer.retry_after, now)
    pause = None if asked is None else int(asked)
    return webhooks.Answer(attempt, now - latency, latency, answer.status, "", pause, answer.body)


def _get_now() -> int:
    return time.time_ns() // 1000
