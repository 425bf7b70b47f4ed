"""From intents to Kafka: settled idempotency keys are answered from the journal, the rest is published."""

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from api.intake import outdated
from api.problems import Kind, Problem, unavailable
from api.service import Service, database_problem
from db.connections import DatabaseError
from db.reads import Settled, settled_originals
from domain.fingerprint import fingerprint_of
from domain.intents import Intent
from domain.outcomes import Reason
from domain.screening import currency_fault
from producers.intents import Addressed, Delivered, PublishError, QueueFullError, drained_account
from runtime.tracing import Trace

Result = Settled | Delivered | Problem


def conflict_problem(intent_id: UUID) -> Problem:
    """Return the problem for an idempotency key that was used for another request."""
    return Problem(
        Kind.IDEMPOTENCY_CONFLICT,
        "This idempotency key was used for a request with another body: choose a new key.",
        intent_id=str(intent_id),
    )


def fingerprint(intent: Intent) -> bytes:
    """Return the fingerprint of what the intent asks; equal requests have equal fingerprints."""
    return fingerprint_of(
        intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference, intent.metadata
    )


def replayed(intent: Intent, settled: Settled) -> Settled | Problem:
    """Return the known outcome if the request is the same, else the problem of an idempotency conflict."""
    return settled if fingerprint(intent) == settled.fingerprint else conflict_problem(intent.intent_id)


def publish_problem(error: PublishError) -> Problem:
    """Return the problem for an intent that Kafka did not confirm; the topic may or may not have it."""
    kind = Kind.OVERLOADED if isinstance(error, QueueFullError) else Kind.KAFKA_UNAVAILABLE
    return unavailable(kind, f"{error} The same request with the same key may be sent again safely.")


async def _addressed(service: Service, tenant: str, intents: Sequence[Intent]) -> list[Addressed | Problem]:
    chart, units = service.chart(tenant), service.units(tenant)
    originals = [intent.reverses for intent in intents if intent.reverses is not None]
    settled: dict[UUID, str | None] | DatabaseError = {}
    if originals:
        try:
            settled = await service.postgres.ask(partial(settled_originals, service.pool, tenant, originals))
        except DatabaseError as error:  # a reversal's lane follows from its original, which is not known now
            settled = error
    addressed: list[Addressed | Problem] = []
    for intent in intents:
        fault = currency_fault(intent.legs, units)
        if fault is not None:
            addressed.append(Problem(Kind.UNKNOWN_CURRENCY, fault, reason=Reason.UNKNOWN_CURRENCY.value))
        elif intent.reverses is None:
            addressed.append(Addressed(intent, drained_account(intent.legs, chart)))
        elif isinstance(settled, DatabaseError):
            addressed.append(database_problem(settled))
        elif intent.reverses in settled:  # the original is settled, so posting's decision on the reversal is final
            addressed.append(Addressed(intent, settled[intent.reverses]))
        else:
            addressed.append(
                Problem(
                    Kind.ORIGINAL_NOT_POSTED,
                    f"Intent {intent.reverses} is not settled yet: try again once it is. The key is not used up.",
                    headers={"Retry-After": "1"},
                    reverses=str(intent.reverses),
                )
            )
    return addressed


async def _known(service: Service, tenant: str, intents: Sequence[Intent]) -> dict[UUID, Settled]:
    """Return the outcomes of those of the intents that are settled; none if Postgres is away or busy.

    Intents that are published without this look-up are safe: the posting worker settles each key once in any case.
    """
    service.books  # noqa: B018 - raises Problem until the books are loaded
    try:
        return await service.settled(tenant, [intent.intent_id for intent in intents])
    except DatabaseError:
        return {}


async def submit(service: Service, tenant: str, intents: Sequence[Intent], trace: Trace) -> list[Result]:
    """Publish the intents that are not settled yet; return one result for each intent, in order.

    A result is a known outcome, a delivery to Kafka, or a problem of that intent. Raise Problem, with nothing
    published, if the schema or the books are not known yet.
    """
    service.require_schema()
    looked_time = time.monotonic()
    known = await _known(service, tenant, intents)
    fault = await service.intake.fault(service.books)
    results: list[Result | None] = [
        replayed(intent, known[intent.intent_id]) if intent.intent_id in known else fault for intent in intents
    ]
    places = [place for place, result in enumerate(results) if result is None]
    addressed = await _addressed(service, tenant, [intents[place] for place in places])
    late = outdated(looked_time)
    ready: list[tuple[int, Addressed]] = []
    for place, found in zip(places, addressed, strict=True):
        if isinstance(found, Problem):
            results[place] = found
        elif late is not None:
            results[place] = late
        else:
            ready.append((place, found))
    delivered = await service.producer.publish_many([found for _, found in ready], trace)
    for (place, _), outcome in zip(ready, delivered, strict=True):
        results[place] = publish_problem(outcome) if isinstance(outcome, PublishError) else outcome
    if service.accept_times.is_watched:
        for (_, (intent, _)), outcome in zip(ready, delivered, strict=True):
            if isinstance(outcome, Delivered):
                service.accept_times.note(outcome.partition, outcome.offset, intent.accepted_time)
    final = [result for result in results if result is not None]
    _count(service, final)
    return final


def _count(service: Service, results: Sequence[Result]) -> None:
    counts: dict[str, int] = {}
    for result in results:
        name = "accepted"
        if isinstance(result, Settled):
            name = "replayed"
        elif isinstance(result, Problem):
            names = {
                Kind.IDEMPOTENCY_CONFLICT: "conflict",
                Kind.ORIGINAL_NOT_POSTED: "refused",
                Kind.UNKNOWN_CURRENCY: "refused",
            }
            name = names.get(result.kind, "failed")
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        service.metrics.intents(name).inc(count)
