"""A ledger with relays: compares the journal's topic with the journal's table."""

from typing import Any

from confluent_kafka import Consumer, TopicPartition

from db.relay import RelayStore
from domain.topics import Topics
from producers.relay import Relay
from producers.relay_core import RelayOptions
from producers.relay_positions import RelayPosition, read_relay_positions
from runtime.schemas import parse_own_schema, read_body
from tests.posting_bench import PostingBench, eventually, hash_of, read_partition
from tests.posting_model import pair, transfer
from tests.registered import find_encoders

RECORD_MEMBERS = (
    "lane", "seq", "previous_hash", "hash", "outcome", "reason", "detail", "tenant", "idempotency_key", "fingerprint",
    "type", "reference", "source_topic", "source_offset", "value_time", "booked_time",
)  # fmt: skip


class RelayBench:
    """Makes relays on a ledger, as the service makes them."""

    def __init__(self, bench: PostingBench, topics: Topics) -> None:
        self.bench = bench
        self.topics = topics
        self._encoders = find_encoders(bench.registry)
        self._made: list[Relay] = []
        self._watcher = Consumer({**bench.kafka.make_client_options(), "group.id": "watcher"})

    def relay(self, **options: Any) -> Relay:
        """Make another relay, not started yet."""
        made = Relay(RelayStore(self.bench.dsn), self._encoders, RelayOptions(self.bench.kafka, self.topics, **options))
        self._made.append(made)
        return made

    def close(self) -> None:
        """Close all relays and the watcher."""
        for made in self._made:
            made.close()
        self._watcher.close()

    def topic_records(self, lane: int = 0) -> list[dict[str, Any]]:
        """Return the records of a lane, as a read_committed reader gets them."""
        schema = parse_own_schema("ledger.journal-value")
        found = read_partition(self.bench.kafka, self.topics.journal, lane)
        records = [read_body(message.value(), schema) for message in found]
        for message, record in zip(found, records, strict=True):
            assert message.key() == (record["intent_id"].encode() if record["intent_id"] else None)
        return records

    def relayed(self, lane: int = 0) -> int:
        """Return how many records of the lane a read_committed reader gets."""
        return len(read_partition(self.bench.kafka, self.topics.journal, lane))

    def written(self) -> int:
        """Return the end of lane 0 in the topic. Markers and aborted records count. The query is cheap."""
        _, end = self._watcher.get_watermark_offsets(TopicPartition(self.topics.journal, 0), timeout=10)
        return int(end)

    def check(self) -> None:
        """Check that the topic has every record of the table once, in order and whole, and nothing else."""
        for lane in (0, 1):
            rows = list(self.bench.records(lane))
            # A commit is done when its coordinator has stored it. The partitions learn of it a moment later.
            eventually(lambda lane=lane, rows=rows: self.relayed(lane) >= len(rows), "what was committed can be read")
            out = self.topic_records(lane)
            assert [record["seq"] for record in out] == [row["seq"] for row in rows]
            for record, row in zip(out, rows, strict=True):
                for member in RECORD_MEMBERS:
                    assert record[member] == row[member], (lane, row["seq"], member)
                assert record["intent_id"] == (str(row["intent_id"]) if row["intent_id"] else None)
                assert record["reverses"] == (str(row["reverses"]) if row["reverses"] else None)
                assert record["metadata"] == (row["metadata"] or {})
                signs = {"debit": 1, "credit": -1}
                legs = [
                    (leg["account"], signs[leg["direction"]], leg["amount_minor"], leg["currency"])
                    for leg in record["legs"]
                ]
                assert legs == [
                    (leg["address"], leg["direction"], leg["amount_minor"], leg["currency"]) for leg in row["legs"]
                ]
                assert hash_of(row) == record["hash"]
            found = read_relay_positions(self.bench.kafka, self.topics.relay)
            assert found.get(lane, RelayPosition()) == (len(rows), rows[-1]["hash"] if rows else bytes(32))


def relay_all(relay: Relay) -> int:
    """Run rounds until nothing is left; return how many records were relayed."""
    total = 0
    while done := relay.round():
        total += done
    return total


def deposits(count: int, first: int = 0) -> list[Any]:
    """Return intents of one cent each."""
    return [transfer(f"k{n}", *pair("external:b", f"users:{n % 9}", 1)) for n in range(first, first + count)]
