"""Messages that no client of the API can send, straight to Kafka: unbalanced intents, and bytes that are no intents."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from confluent_kafka import KafkaError, Message, Producer

from domain.errors import LedgerlineError
from domain.intents import CREDIT, DEBIT, Intent, Leg, compute_intent_id
from domain.outcomes import QuarantineReason, Reason
from domain.topics import Topics
from producers.encoding import make_encoder
from producers.intents import make_record
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_latest_id, make_registry_client
from runtime.wire_format import FRAME, MAGIC

UNBALANCED: Final = 20
UNKNOWN_SCHEMA_ID: Final = 999_999_999
FLUSH_SECONDS_MAX: Final = 30.0


class Rogue(NamedTuple):
    """One message, and the outcome and the reason that it must get."""

    value: bytes
    outcome: str
    reason: str


class RogueError(LedgerlineError):
    """Kafka did not accept the demo's messages."""


def make_rogues(registry: SchemaRegistry, tenant: str) -> list[Rogue]:
    """Return unbalanced intents, and one message for each way in which bytes can fail to be an intent."""
    with make_registry_client(registry) as client:
        # The newest ids that there are: in an upgrade the ledger still has the schemas of the release before.
        intents_id = find_latest_id(client, "payments.intents-value")
        journal_id = find_latest_id(client, "ledger.journal-value")
    encode = make_encoder("payments.intents-value", intents_id)
    good = encode(make_record(_make_intent(tenant, "rogue:good")))
    stranger = make_record(_make_intent("nobody", "rogue:stranger"))
    impostor = make_record(_make_intent(tenant, "rogue:impostor")) | {"intent_id": str(UUID(int=7))}
    poison = {
        QuarantineReason.EMPTY: b"",
        QuarantineReason.BAD_MAGIC: b'{"type": "transfer", "amount": 12.5}',
        QuarantineReason.UNKNOWN_SCHEMA: FRAME.pack(MAGIC, UNKNOWN_SCHEMA_ID) + good[FRAME.size :],
        QuarantineReason.WRONG_SCHEMA: FRAME.pack(MAGIC, journal_id) + good[FRAME.size :],
        QuarantineReason.UNDECODABLE: good[: len(good) // 2],
        QuarantineReason.IDENTITY_MISMATCH: encode(impostor),
        QuarantineReason.UNKNOWN_TENANT: encode(stranger),
    }
    rogues = [Rogue(value, "quarantined", reason.value) for reason, value in poison.items()]
    for number in range(UNBALANCED):
        value = encode(make_record(_make_intent(tenant, f"rogue:unbalanced:{number}", more_minor=1)))
        rogues.append(Rogue(value, "rejected", Reason.UNBALANCED.value))
    return rogues


def _make_intent(tenant: str, key: str, more_minor: int = 0) -> Intent:
    legs = (
        Leg("external:treasury", DEBIT, 100_00 + more_minor, "USD"),
        Leg("merchants:anything", CREDIT, 100_00, "USD"),
    )
    accepted_time = time.time_ns() // 1000
    return Intent(compute_intent_id(tenant, key), tenant, key, "transfer", legs, None, None, "rogue", {}, accepted_time)


def send_rogues(kafka: Kafka, topics: Topics, rogues: Sequence[Rogue]) -> Counter[tuple[str, str]]:
    """Produce all messages, spread over the lanes; return the expected count by (outcome, reason)."""
    failures: list[str] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error.str())

    settings: dict[str, Any] = {**kafka.make_client_options(), "acks": "all", "enable.idempotence": True}
    producer = Producer(settings)
    for number, rogue in enumerate(rogues):
        producer.produce(topics.intents, rogue.value, key=f"rogue-{number}".encode(), on_delivery=delivered)
    left = producer.flush(FLUSH_SECONDS_MAX)
    if left or failures:
        raise RogueError(f"Kafka did not take {left + len(failures)} of {len(rogues)} messages: {failures[:1]}.")
    return Counter((rogue.outcome, rogue.reason) for rogue in rogues)
