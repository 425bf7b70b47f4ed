"""The bodies of answers about intents."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from api.problems import Problem
from api.responses import ProblemDocument
from api.times import to_optional_rfc3339
from api.views import LegView, Units, make_leg_view
from db.reads import Delivery, Settled
from domain.outcomes import Outcome
from producers.intents import Delivered


class ReceiptView(BaseModel):
    """Where the intent stands on Kafka and, once settled, in the journal."""

    topic: str
    partition: int
    offset: int
    lane: int | None = None
    seq: int | None = None
    hash: str | None = Field(None, description="SHA-256 of the journal row, in hex.")


class DeliveryView(BaseModel):
    """Another delivery of the same intent, which moved nothing."""

    partition: int
    offset: int
    seq: int
    outcome: str
    hash: str


class IntentView(BaseModel):
    """An intent: pending with what is known, or posted or rejected for good."""

    intent_id: str
    status: Literal["pending", "posted", "rejected"]
    receipt: ReceiptView
    reason: str | None = Field(None, description="Why it was rejected: a reason of docs/OUTCOMES.md.")
    detail: str | None = None
    type: str | None = None
    idempotency_key: str | None = None
    legs: list[LegView] | None = Field(None, description="The legs as posted. Answers to a batch leave them out.")
    reverses: str | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    value_time: str | None = None
    booked_time: str | None = None
    delivery: DeliveryView | None = None


class BatchItemView(BaseModel):
    """What a single request would have been answered: its status, and the intent or the problem."""

    status: int
    intent_id: str | None = None
    intent: IntentView | None = None
    replayed: bool | None = None
    problem: ProblemDocument | None = None


class BatchView(BaseModel):
    """One item for each of the request, in order."""

    items: list[BatchItemView]


def make_location(intent_id: UUID, delivered: Delivered) -> str:
    """Return the URL of the intent. Its partition and offset tell a pending intent from one that was never sent."""
    return f"/v1/intents/{intent_id}?partition={delivered.partition}&offset={delivered.offset}"


def make_pending_view(intent_id: UUID, delivered: Delivered) -> dict[str, Any]:
    """Return, as JSON, an intent that Kafka has and the ledger has not settled."""
    receipt = {"topic": delivered.topic, "partition": delivered.partition, "offset": delivered.offset}
    return {"intent_id": intent_id, "status": "pending", "receipt": receipt}


def make_settled_view(settled: Settled, units: Units, delivery: Delivery | None = None) -> dict[str, Any]:
    """Return a settled intent as JSON; with `delivery` if that is not the delivery that settled the intent."""
    view: dict[str, Any] = {
        "intent_id": str(settled.intent_id),
        "status": settled.outcome.value,
        "receipt": {
            "topic": settled.source_topic,
            "partition": settled.lane,
            "offset": settled.source_offset,
            "lane": settled.lane,
            "seq": settled.seq,
            "hash": settled.hash.hex(),
        },
        "type": settled.type,
        "idempotency_key": settled.idempotency_key,
        "reverses": None if settled.reverses is None else str(settled.reverses),
        "reference": settled.reference,
        "metadata": settled.metadata,
        "value_time": to_optional_rfc3339(settled.value_time),
        "booked_time": to_optional_rfc3339(settled.booked_time),
    }
    if settled.outcome is Outcome.REJECTED:
        view |= {"reason": settled.reason, "detail": settled.detail}
    if settled.legs is not None:
        view["legs"] = [make_leg_view(leg, units) for leg in settled.legs]
    if delivery is not None and (delivery.lane, delivery.seq) != (settled.lane, settled.seq):
        view["delivery"] = {
            "partition": delivery.lane,
            "offset": delivery.offset,
            "seq": delivery.seq,
            "outcome": delivery.outcome.value,
            "hash": delivery.hash.hex(),
        }
    return view


def make_problem_item(problem: Problem) -> dict[str, Any]:
    """Return a batch item with a problem as JSON."""
    return {"status": problem.kind.status, "problem": problem.document()}
