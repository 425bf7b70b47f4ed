"""From intents to Kafka: settled idempotency keys are answered from the journal, the rest is published."""

import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from api.console.latency import AcceptTimes
from api.database import Database
from api.intake import Intake, find_outdated_problem
from api.known_books import KnownBooks
from api.metrics import Metrics
from api.outcomes import Outcomes
from api.problems import Kind, Problem, make_database_problem, make_unavailable_problem
from db.connections import DatabaseError
from db.reads import Settled, find_originals
from domain.fingerprint import compute_fingerprint
from domain.intents import Intent
from domain.outcomes import Reason
from domain.screening import find_currency_fault
from producers.intents import Addressed, Delivered, PublishError, QueueFullError, find_drained_account
from runtime.tracing import Trace

Result = Settled | Delivered | Problem

_COUNTED_AS: Final = {
    Kind.IDEMPOTENCY_CONFLICT: "conflict",
    Kind.ORIGINAL_NOT_POSTED: "refused",
    Kind.UNKNOWN_CURRENCY: "refused",
}
"""Kinds of problem -> the result in the metric; all others count as failed."""


def make_conflict_problem(intent_id: UUID) -> Problem:
    """Return the problem for an idempotency key that was used for another request."""
    return Problem(
        Kind.IDEMPOTENCY_CONFLICT,
        "This idempotency key was used for a request with another body: choose a new key.",
        intent_id=str(intent_id),
    )


def compute_intent_fingerprint(intent: Intent) -> bytes:
    """Return the fingerprint of what the intent asks; equal requests have equal fingerprints."""
    return compute_fingerprint(
        intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference, intent.metadata
    )


def judge_repeat(intent: Intent, settled: Settled) -> Settled | Problem:
    """Return the known outcome if the request is the same, else the problem of an idempotency conflict."""
    return (
        settled
        if compute_intent_fingerprint(intent) == settled.fingerprint
        else make_conflict_problem(intent.intent_id)
    )


def publish_problem(error: PublishError) -> Problem:
    """Return the problem for an intent that Kafka did not confirm; the topic may or may not have it."""
    kind = Kind.OVERLOADED if isinstance(error, QueueFullError) else Kind.KAFKA_UNAVAILABLE
    return make_unavailable_problem(kind, f"{error} The same request with the same key may be sent again safely.")


def _find_original_problem(original_id: UUID) -> Problem:
    return Problem(
        Kind.ORIGINAL_NOT_POSTED,
        f"Intent {original_id} is not settled yet: try again once it is. The key is not used up.",
        headers={"Retry-After": "1"},
        reverses=str(original_id),
    )


class Submission:
    """The way of intents to Kafka, for one API process."""

    def __init__(
        self,
        database: Database,
        books: KnownBooks,
        outcomes: Outcomes,
        intake: Intake,
        accept_times: AcceptTimes,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._books = books
        self._outcomes = outcomes
        self._intake = intake
        self._accept_times = accept_times
        self._intents = metrics.intents

    async def submit(self, tenant: str, intents: Sequence[Intent], trace: Trace) -> list[Result]:
        """Publish the intents that are not settled yet; return one result for each intent, in order.

        A result is a known outcome, a delivery to Kafka, or a problem of that intent. Raise Problem, with nothing
        published, if the schema or the books are not known yet.
        """
        self._intake.require_schema()
        looked_time = time.monotonic()
        known = await self._find_known(tenant, intents)
        fault = await self._intake.fault(self._books.frame)
        results: list[Result | None] = [
            judge_repeat(intent, known[intent.intent_id]) if intent.intent_id in known else fault for intent in intents
        ]
        places = [place for place, result in enumerate(results) if result is None]
        addressed = await self._find_addresses(tenant, [intents[place] for place in places])
        late = find_outdated_problem(looked_time)
        ready: list[tuple[int, Addressed]] = []
        for place, found in zip(places, addressed, strict=True):
            if isinstance(found, Problem):
                results[place] = found
            elif late is not None:
                results[place] = late
            else:
                ready.append((place, found))
        delivered = await self._intake.producer.publish_many([found for _, found in ready], trace)
        for (place, _), outcome in zip(ready, delivered, strict=True):
            results[place] = publish_problem(outcome) if isinstance(outcome, PublishError) else outcome
        if self._accept_times.is_watched:
            for (_, (intent, _)), outcome in zip(ready, delivered, strict=True):
                if isinstance(outcome, Delivered):
                    self._accept_times.note(outcome.partition, outcome.offset, intent.accepted_time)
        final = [result for result in results if result is not None]
        self._count(final)
        return final

    async def _find_known(self, tenant: str, intents: Sequence[Intent]) -> dict[UUID, Settled]:
        """Return the outcomes of those of the intents that are settled; none if Postgres is away or busy.

        Intents that are published without this look-up are safe: the posting worker settles each key once in any case.
        """
        self._books.frame  # noqa: B018 - raises Problem until the books are loaded
        try:
            return await self._outcomes.find_settled(tenant, [intent.intent_id for intent in intents])
        except DatabaseError:
            return {}

    async def _find_addresses(self, tenant: str, intents: Sequence[Intent]) -> list[Addressed | Problem]:
        """Return each intent with the account that chooses its lane, or the problem for which it has none."""
        chart, units = self._books.chart(tenant), self._books.units(tenant)
        originals = [intent.reverses for intent in intents if intent.reverses is not None]
        settled: dict[UUID, str | None] | DatabaseError = {}
        if originals:
            try:
                settled = await self._database.ask(lambda pool: find_originals(pool, tenant, originals))
            except DatabaseError as error:  # a reversal's lane follows from its original, which is not known now
                settled = error
        addressed: list[Addressed | Problem] = []
        for intent in intents:
            fault = find_currency_fault(intent.legs, units)
            if fault is not None:
                addressed.append(Problem(Kind.UNKNOWN_CURRENCY, fault, reason=Reason.UNKNOWN_CURRENCY.value))
            elif intent.reverses is None:
                addressed.append(Addressed(intent, find_drained_account(intent.legs, chart)))
            elif isinstance(settled, DatabaseError):
                addressed.append(make_database_problem(settled))
            elif intent.reverses in settled:  # the original is settled, so posting's decision on the reversal is final
                addressed.append(Addressed(intent, settled[intent.reverses]))
            else:
                addressed.append(_find_original_problem(intent.reverses))
        return addressed

    def count_refused(self, count: int) -> None:
        """Count intents that were refused for their shape, before they were submitted."""
        self._intents("refused").inc(count)

    def _count(self, results: Sequence[Result]) -> None:
        counts: dict[str, int] = {}
        for result in results:
            name = "accepted"
            if isinstance(result, Settled):
                name = "replayed"
            elif isinstance(result, Problem):
                name = _COUNTED_AS.get(result.kind, "failed")
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            self._intents(name).inc(count)
