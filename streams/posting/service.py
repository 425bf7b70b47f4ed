"""The posting worker: the poster as a Faust agent."""

from dataclasses import replace
from functools import partial
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from db.posting import PostingStore
from domain.errors import LedgerlineError
from streams.decode import IntentDecoder
from streams.fenced import AgentOptions, run_agent
from streams.posting.poster import Poster, Source

KAFKA_SECONDS_MAX: Final = 10.0


class KafkaAway(LedgerlineError):
    """The broker did not answer."""


def describe_source(bootstrap: str, topic: str) -> Source:
    """The topic's id, and the offsets that each partition has; KafkaAway where the broker is silent."""
    try:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=KAFKA_SECONDS_MAX)[topic].result()
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "ledgerline-describe", "enable.auto.commit": False}
        )
        try:
            offsets = {
                partition.id: consumer.get_watermark_offsets(
                    TopicPartition(topic, partition.id), timeout=KAFKA_SECONDS_MAX
                )
                for partition in described.partitions
            }
        finally:
            consumer.close()
    except KafkaException as error:
        raise KafkaAway(f"Kafka at {bootstrap} does not tell of the topic {topic}: {error}.") from error
    return Source(
        topic,
        str(described.topic_id),
        {number: low for number, (low, _) in offsets.items()},
        {number: high for number, (_, high) in offsets.items()},
    )


def serve(options: AgentOptions, *, dsn: str, registry_url: str) -> None:
    """Post the lanes of `options.topic` until told to stop; blocks. Outages are waited out."""
    store = PostingStore(dsn)
    describe = partial(describe_source, options.bootstrap, options.topic)
    poster = Poster(store, IntentDecoder(registry_url), describe)
    try:
        run_agent(poster, replace(options, prepare=poster.prepare))
    finally:
        store.close()
