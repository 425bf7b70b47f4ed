"""Metrics from the statistics that librdkafka reports on a producer every few seconds; see docs/METRICS.md."""

from collections.abc import Callable
from typing import Any, Final

import orjson
from prometheus_client import Gauge

STATISTICS_SECONDS: Final = 5
_MICROSECONDS: Final = 1_000_000

QUEUE: Final = Gauge(
    "ledgerline_kafka_producer_queue_messages",
    "Messages that wait in the producer until Kafka confirms them.",
    ["client"],
)
RTT: Final = Gauge(
    "ledgerline_kafka_producer_broker_rtt_seconds",
    "Mean time from a request to its answer, of the slowest broker.",
    ["client"],
)


def make_statistics_options(client: str) -> dict[str, Any]:
    """Return librdkafka's options for a producer that reports statistics under this name when it is polled.

    The owner must poll the producer for as long as it lives, because librdkafka keeps all reports that are not fetched.
    """
    return {"statistics.interval.ms": STATISTICS_SECONDS * 1000, "stats_cb": _make_shower(client)}


def _make_shower(client: str) -> Callable[[str], None]:
    queue, rtt = QUEUE.labels(client), RTT.labels(client)

    def show(text: str) -> None:
        told = orjson.loads(text)
        queue.set(told["msg_cnt"])
        answered = [broker["rtt"]["avg"] for broker in told["brokers"].values() if broker["rtt"]["cnt"]]
        rtt.set(max(answered, default=0) / _MICROSECONDS)

    return show
