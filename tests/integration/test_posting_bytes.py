"""Bytes that are no intent: each gets a row and is kept byte for byte, the lane goes on, the relay publishes them."""

import io
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.schema_registry import Schema

from db.relay import RelayStore
from domain.topics import Topics
from ops.embedded.ports import pick_free
from producers.relay import Relay, RelayEncoders
from producers.relay_core import RelayOptions
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import SchemaError, make_registry_client, parse_own_schema, read_body, read_schema_text
from runtime.settings import Settings
from streams.fenced import Message
from tests.posting_bench import PostingBench, eventually, read_partition, record_of
from tests.posting_model import script

FRAME = struct.Struct(">bI")
GOOD = record_of(script("good external:b>users:1 9")[0])


@pytest.fixture
def relay(settings: Settings, topics: Topics, bench: PostingBench) -> Iterator[Relay]:
    """Yield a started relay of both lanes."""
    encoders = RelayEncoders.find_registered(bench.registry)
    made = Relay(RelayStore(bench.dsn), encoders, RelayOptions(bench.kafka, topics))
    made.start()
    yield made
    made.close()


def relayed_quarantine(bench: PostingBench, relay: Relay, lane: int = 0) -> list[dict[str, Any]]:
    """Relay everything, and return the records of a lane in payments.quarantine."""
    while relay.round():
        pass
    schema = parse_own_schema("payments.quarantine-value")
    (wanted,) = bench.rows("SELECT count(*) AS rows FROM ledger.quarantine WHERE lane = %s", lane)

    def read() -> tuple[list[Any]] | None:
        """Read what is committed. The partition learns of a commit a moment after the relay."""
        messages = read_partition(bench.kafka, bench.topics.quarantine, lane)
        return (messages,) if len(messages) >= wanted["rows"] else None

    (found,) = eventually(read, "what was committed can be read")
    assert [message.key() for message in found] == [read_body(message.value(), schema)["key"] for message in found]
    return [read_body(message.value(), schema) for message in found]


def schema_id_of(bench: PostingBench, subject: str, text: str, kind: str) -> int:
    """Register a schema, and return its id."""
    with make_registry_client(bench.registry) as registry:
        return int(registry.register_schema(subject, Schema(text, kind)))


def foreign_values(bench: PostingBench) -> list[tuple[bytes | None, str]]:
    """Return values, each with the reason of its quarantine."""
    good = bench.encode(GOOD)
    with make_registry_client(bench.registry) as registry:
        journal_id = registry.get_latest_version("ledger.journal-value").schema_id
    prefix = bench.topics.prefix
    protobuf_id = schema_id_of(
        bench, f"{prefix}proto", 'syntax = "proto3"; message Gift { string to = 1; }', "PROTOBUF"
    )
    string_id = schema_id_of(bench, f"{prefix}string", '"string"', "AVRO")
    # The right name in another namespace, and the right name with fields that cannot be read as ours.
    other_id = schema_id_of(
        bench, f"{prefix}other", '{"type":"record","name":"PaymentIntent","namespace":"theirs","fields":[]}', "AVRO"
    )
    alike = (
        '{"type":"record","name":"PaymentIntent","namespace":"ledgerline.payments","fields":'
        '[{"name":"legs","type":"double"},{"name":"intent_id","type":"string"}]}'
    )
    alike_id = schema_id_of(bench, f"{prefix}alike", alike, "AVRO")
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(alike)), {"legs": 1.5, "intent_id": "x"})
    return [
        (None, "empty"),
        (b"", "empty"),
        (b"\x00\x00\x00", "bad_magic"),
        (b"\x01" + good[1:], "bad_magic"),
        (b'{"type": "transfer"}', "bad_magic"),
        (FRAME.pack(0, 2_000_000_000) + good[5:], "unknown_schema"),
        (FRAME.pack(0, 4_000_000_000) + good[5:], "unknown_schema"),
        (FRAME.pack(0, 0) + good[5:], "unknown_schema"),
        (FRAME.pack(0, journal_id) + good[5:], "wrong_schema"),
        (FRAME.pack(0, protobuf_id) + good[5:], "wrong_schema"),
        (FRAME.pack(0, string_id) + good[5:], "wrong_schema"),
        (FRAME.pack(0, other_id), "wrong_schema"),
        (FRAME.pack(0, alike_id) + body.getvalue(), "wrong_schema"),
        (good[:-4], "undecodable"),
        (good + b"\x00", "undecodable"),
        (good[:5] + b"\xff" * 40, "undecodable"),
        (bench.encode({**GOOD, "intent_id": "no uuid"}), "undecodable"),
        (bench.encode({**GOOD, "idempotency_key": "another"}), "identity_mismatch"),
        (bench.encode({**GOOD, "tenant": ""}), "identity_mismatch"),
        (bench.encode({**GOOD, "idempotency_key": ""}), "identity_mismatch"),
        (bench.encode({**GOOD, "idempotency_key": "a\x00b"}), "identity_mismatch"),
        (bench.encode(record_of(script("stranger/good external:b>users:1 9")[0])), "unknown_tenant"),
    ]


def test_each_has_its_row_and_its_bytes_and_the_lane_goes_on(bench: PostingBench, relay: Relay) -> None:
    values = foreign_values(bench)
    # A good intent stands before and after each bad value, to show that none is lost beside a bad one.
    keys = iter(range(1000))
    expected = ["posted"]
    bench.send(bench.transfer(f"{next(keys)}", "external:b", "users:1", 1))
    for value, reason in values:
        bench.send_bytes(value, key=b"\xff\x00key", headers=[("traceparent", b"\xff\x00"), ("none", None)])
        bench.send(bench.transfer(f"{next(keys)}", "external:b", "users:1", 1))
        expected += [reason, "posted"]
    assert bench.post() == expected
    assert bench.balance("users:1") == -len(values) - 1
    kept = bench.rows("SELECT * FROM ledger.quarantine ORDER BY seq")
    assert [row["value"] for row in kept] == [value for value, _ in values]
    assert {row["key"] for row in kept} == {b"\xff\x00key"}
    assert {str(row["headers"]) for row in kept} == {"[['traceparent', 'ff00'], ['none', None]]"}
    named = bench.rows(
        "SELECT DISTINCT tenant, intent_id, idempotency_key, type, reference FROM ledger.journal"
        " WHERE outcome = 'quarantined'"
    )
    assert [set(row.values()) for row in named] == [{None}], "what no one can be told to have asked names no one"
    bench.verify()

    out = relayed_quarantine(bench, relay)
    assert [(record["value"], record["reason"]) for record in out] == values
    assert [record["source_offset"] for record in out] == list(range(1, 2 * len(values), 2))
    assert {record["key"] for record in out} == {b"\xff\x00key"}
    assert out[0]["headers"] == [{"name": "traceparent", "value": b"\xff\x00"}, {"name": "none", "value": None}]
    assert all(record["detail"] for record in out)


def test_a_value_as_large_as_the_broker_takes_is_kept_and_relayed(bench: PostingBench, relay: Relay) -> None:
    """A producer's largest default record must fit the quarantine topic together with the fields that it gets there."""
    largest = b"\x01" + b"x" * (1_000_000 - 200)
    bench.send_bytes(largest, key=b"k" * 50)
    bench.send_bytes(None, key=b"k" * 999_000)
    bench.send(bench.transfer("next", "external:b", "users:1", 1))
    assert bench.post() == ["bad_magic", "empty", "posted"]
    out = relayed_quarantine(bench, relay)
    assert [(len(record["key"]), record["value"]) for record in out] == [(50, largest), (999_000, None)]
    bench.verify()


def test_what_only_compression_brought_through_the_broker_stays_in_postgres(bench: PostingBench, relay: Relay) -> None:
    bomb = bytes([1]) * 9_000_000
    sender = Producer(
        {**bench.kafka.make_client_options(), "message.max.bytes": 20_000_000, "compression.type": "gzip"}
    )
    sender.produce(bench.topics.intents, bomb, partition=0)
    assert sender.flush(30) == 0
    bench.send(bench.transfer("next", "external:b", "users:1", 1))
    assert bench.post() == ["bad_magic", "posted"]
    assert bench.rows("SELECT value FROM ledger.quarantine")[0]["value"] == bomb
    (record,) = relayed_quarantine(bench, relay)
    assert record["value"] is None
    assert "bytes are too many for this topic: Postgres has them." in record["detail"]
    bench.verify()


def test_ten_megabytes_are_refused_by_the_producer(bench: PostingBench) -> None:
    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        bench.send_bytes(b"\x00" * 10_000_000)
    bench.send(bench.transfer("next", "external:b", "users:1", 1))
    assert bench.post() == ["posted"]


def test_a_header_whose_name_has_a_nul_is_kept_readably(bench: PostingBench) -> None:
    """librdkafka cannot send such a header, but other clients can; Postgres' JSON cannot hold a NUL."""
    made = bench.batch([b"\x01garbage", *script("f external:b>users:1 9")])
    headers = [("a\x00b", b"\x00"), ("\N{MONEY BAG}", None)]
    messages = [message._replace(headers=headers) for message in made.messages if isinstance(message, Message)]
    bench.poster.handle([made._replace(messages=messages)])
    assert bench.fates() == ["bad_magic", "posted"]
    kept = bench.rows("SELECT headers FROM ledger.quarantine")
    assert kept == [{"headers": [["a\N{SYMBOL FOR NULL}b", "00"], ["\N{MONEY BAG}", None]]}]
    bench.verify()


@pytest.mark.parametrize("ids", [1, 300])
def test_rubbish_does_not_slow_a_lane_down(bench: PostingBench, ids: int) -> None:
    """The registry is asked about schema ids that nobody registered, but that does not take seconds for each."""
    rubbish = [FRAME.pack(0, 1_900_000_000 + number % ids) + b"body" for number in range(600)]
    started_at = time.monotonic()
    assert bench.post_now(rubbish + script("f external:b>users:1 9")) == ["unknown_schema"] * 600 + ["posted"]
    assert time.monotonic() - started_at < 20
    bench.verify()


def test_an_id_that_was_unknown_is_asked_about_again(bench: PostingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.decode.REFUSED_SECONDS", 0.0)
    with make_registry_client(bench.registry) as registry:
        next_id = max(registry.get_latest_version(name).schema_id for name in registry.get_subjects()) + 1
    text = read_schema_text("payments.intents-value").replace("A command:", f"A command ({bench.topics.prefix}):")
    value = FRAME.pack(0, next_id) + bench.encode(GOOD)[5:]
    assert bench.post_now([value]) == ["unknown_schema"]
    # Other tests may register in between, so the ids may differ; the new id must be read although one was refused.
    new_id = schema_id_of(bench, f"{bench.topics.prefix}new", text, "AVRO")
    assert bench.post_now([FRAME.pack(0, new_id) + bench.encode(GOOD)[5:]]) == ["posted"]


def test_a_registry_that_is_away_is_an_outage_not_a_verdict(bench: PostingBench) -> None:
    away = bench.new_poster(registry=SchemaRegistry(f"http://127.0.0.1:{pick_free()}"))
    bench.send(GOOD)
    (batch,) = bench.fetch()
    with pytest.raises(SchemaError, match="cannot be reached"):
        away.handle([batch])
    assert bench.fates() == []
    assert bench.post() == ["posted"]
    bench.verify()


def test_a_registry_without_our_own_schema_says_nothing_about_others(bench: PostingBench) -> None:
    """Such a registry was emptied, or the URL is that of another server, which answers 404 to everything."""
    url = bench.registry.url.replace("/apis/ccompat/v7", "/apis/nothing/here")
    mistaken = bench.new_poster(registry=SchemaRegistry(url))
    (batch,) = [bench.batch([GOOD])]
    with pytest.raises(SchemaError):
        mistaken.handle([batch])
    assert bench.fates() == []
    bench.poster.handle([batch])
    assert bench.fates() == ["posted"]
