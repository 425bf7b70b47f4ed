"""The relay copies the journal from Postgres to ledger.journal, each record exactly once for read_committed readers.

The facts of the books' frame go to ledger.frame in the same transactions, each before the records that name its
account. producers.relay_core has what all relays do.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter, Gauge

from db.relay import RelayStore
from domain.effects import ORIGIN_HEADER, OWN_KEY_START, find_origin
from producers.deploy import QUARANTINED_BYTES_MAX
from producers.encoding import Encoder, make_encoder
from producers.relay_core import BATCH_BYTES_SPARE, Outgoing, RelayOptions, TransactionalRelay
from producers.relay_facts import Facts, list_fact_pages, show_facts_relayed
from producers.relay_positions import RelayAhead, RelayPosition
from producers.relay_traces import RelayTraces
from runtime import tracing
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client
from runtime.tracing import Span

RELAYED: Final = Counter("ledgerline_relay_records", "Journal records handed to Kafka.", ["outcome"])
LAG_RECORDS: Final = Gauge("ledgerline_relay_lag_records", "Journal records not yet relayed.", ["lane"])
LAG_SECONDS: Final = Gauge(
    "ledgerline_relay_lag_seconds", "Age of the lane's first journal record that is not yet relayed.", ["lane"]
)


@dataclass(frozen=True)
class RelayEncoders:
    """The encoders from records to framed Avro, one for each kind of record."""

    journal: Encoder
    quarantined: Encoder
    position: Encoder
    fact: Encoder

    @classmethod
    def find_registered(cls, registry: SchemaRegistry) -> "RelayEncoders":
        """Make the encoders with the schema ids that the registry holds. Raise SchemaError if one is missing."""
        with make_registry_client(registry) as client:
            subjects = ("ledger.journal-value", "payments.quarantine-value", "ledger.relay-value", "ledger.frame-value")
            return cls(*(make_encoder(subject, find_registered_id(client, subject)) for subject in subjects))


class Relay(TransactionalRelay[dict[str, Any]]):
    """Relays the journal of one instance's lanes."""

    name = "relay"
    lag_records = LAG_RECORDS
    lag_seconds = LAG_SECONDS
    _store: RelayStore

    def __init__(self, store: RelayStore, encoders: RelayEncoders, options: RelayOptions, **core: Any) -> None:
        """`core`: keyword arguments of TransactionalRelay."""
        super().__init__(store, encoders.position, options, **core)
        self.positions_topic = options.topics.relay
        self._encoders = encoders
        self._traces = RelayTraces(store, options.topics.journal, options.instance, options.instances)

    def round(self) -> int:
        """Relay all facts, and at most one transaction of posted records. Return the number of records."""
        self._get_producer().poll(0)  # calls the statistics callback
        standing = self._store.lanes(self._options.instance, self._options.instances)
        pages = list_fact_pages(self._store, [lane for lane in standing if lane.lane < 0], self._relayed)
        for read_page in pages[:-1]:
            self._relay(read_page(), {}, None)
        facts = pages[-1]() if pages else {}
        pending = self._read_pending([lane for lane in standing if lane.lane >= 0])
        if not facts and not any(pending.values()):
            return 0
        self._fault("read")
        relayed = {lane: (records[0]["seq"], records[-1]["seq"] + 1) for lane, records in pending.items() if records}
        with self._traces.follow(relayed) as span:
            self._relay(facts, pending, span)
        return sum(map(len, pending.values()))

    def _relay(self, facts: Facts, pending: dict[int, list[dict[str, Any]]], span: Span | None) -> None:
        """Relay facts and records in one transaction."""
        last = {lane: records[-1] for lane, records in (*facts.items(), *pending.items()) if records}
        positions = {lane: RelayPosition(record["seq"] + 1, record["hash"]) for lane, record in last.items()}
        self._transact(self._make_outgoing(facts, pending, span), positions)
        show_facts_relayed(facts)
        for records in pending.values():
            for outcome, number in Tally(record["outcome"] for record in records).items():
                RELAYED.labels(outcome).inc(number)

    def _make_outgoing(
        self, facts: Facts, pending: dict[int, list[dict[str, Any]]], span: Span | None
    ) -> Iterator[Outgoing]:
        """Yield facts, then records. The first record of each lane carries the span's traceparent."""
        for told in facts.values():
            for fact in told:
                yield Outgoing(self._options.topics.frame, 0, None, self._encoders.fact(fact))
        for records in pending.values():
            headers = None if span is None else {tracing.TRACEPARENT: span.traceparent.encode()}
            for record in records:
                key = record["intent_id"].encode() if record["intent_id"] else None
                value = self._encoders.journal(record)
                idempotency_key = record["idempotency_key"]
                if idempotency_key is not None and idempotency_key.startswith(OWN_KEY_START):
                    headers = {**(headers or {}), ORIGIN_HEADER: find_origin(idempotency_key)}
                yield Outgoing(self._options.topics.journal, record["lane"], key, value, headers)
                headers = None
                if record["outcome"] == "quarantined":
                    yield self._make_quarantined(record)

    def _make_quarantined(self, record: dict[str, Any]) -> Outgoing:
        headers = [
            {"name": name, "value": None if value is None else bytes.fromhex(value)}
            for name, value in record["raw_headers"] or []
        ]
        quarantined = {**record, "key": record["raw_key"], "value": record["raw_value"], "headers": headers}
        value = self._encoders.quarantined(quarantined)
        key = record["raw_key"]
        if len(value) + len(key or b"") > QUARANTINED_BYTES_MAX - 2 * BATCH_BYTES_SPARE:
            # The message passed the broker compressed. Uncompressed it would not pass, and the relay must go on.
            detail = f"{record['detail']} Its {len(value)} bytes are too many for this topic: Postgres has them."
            key = None
            value = self._encoders.quarantined(
                {**quarantined, "detail": detail, "key": None, "value": None, "headers": []}
            )
        return Outgoing(self._options.topics.quarantine, record["lane"], key, value)

    def _read(self, lane: int, from_here: RelayPosition, rows_max: int) -> list[dict[str, Any]]:
        records = self._store.records(lane, from_here.next_seq, rows_max)
        if records and records[0]["previous_hash"] != from_here.head:
            raise RelayAhead(
                f"The lane {lane} was relayed up to {from_here.next_seq} with another hash than the ledger has: restore"
                f" the ledger from {self._options.topics.journal} first."
            )
        return records

    def _get_time(self, row: dict[str, Any]) -> int:
        return int(row["booked_time"])

    def _make_ahead_error(self, lane: int, relayed_seq: int, next_seq: int) -> RelayAhead:
        return RelayAhead(
            f"The lane {lane} was relayed up to {relayed_seq}, but the ledger has it up to {next_seq}: restore the"
            f" ledger from {self._options.topics.journal} first."
        )
