"""Kafka: is every partition available, what is the throughput, and how long do requests take?"""

from typing import Final

from ops.grafana.frame import Page, Variable
from ops.grafana.money import TITLE, money
from ops.grafana.panels import GREEN, RED, ZERO_IS_SAFE, Placed, Query, Says, falling, graph, stat
from ops.grafana.promql import OURS, PACE, rate

_KAFKA: Final = 'job="kafka"'
_CHOSEN: Final = f'{_KAFKA}, topic=~"$topic"'
_TOPIC_METRICS: Final = "kafka_server_brokertopicmetrics"

TOPIC: Final = Variable("topic", "Topic", f"{_TOPIC_METRICS}_messagesin_total{{{_KAFKA}}}", "topic")


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="kafka",
        title="Ledgerline: Kafka",
        text="The brokers by their JMX exporter, and Kafka as our own clients meet it.",
        rows={
            TITLE: money(),
            "Brokers": _brokers(),
            "Topics": _topics(),
            "Requests": _requests(),
            "Our clients": _clients(),
        },
        variables=(TOPIC,),
    )


def _brokers() -> list[Placed]:
    replica, controller = "kafka_server_replicamanager", "kafka_controller_kafkacontroller"
    return [
        stat(
            "Brokers that answer",
            Query(f"sum(up{{{_KAFKA}}})"),
            Says(
                "Brokers that Prometheus reaches. Without Kafka the API answers 503, and takes nothing it could lose.",
                alerts=("LedgerlineKafkaDown",),
            ),
            unit="none",
            steps=falling(1),
        ),
        stat(
            "Active controllers",
            Query(f"sum({controller}_activecontrollercount{{{_KAFKA}}})"),
            Says(
                "Exactly one, over all brokers.",
                alerts=("LedgerlineKafkaDown",),
            ),
            unit="none",
            steps=((None, RED), (1, GREEN), (2, RED)),
        ),
        stat(
            "Partitions offline",
            Query(f"max({controller}_offlinepartitionscount{{{_KAFKA}}})"),
            Says(
                "Partitions without a leader: a lane among them takes nothing in.",
                alerts=("LedgerlineKafkaPartitionsOffline",),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Under-replicated",
            Query(f"sum({replica}_underreplicatedpartitions{{{_KAFKA}}})"),
            Says(
                "Partitions with fewer replicas in step than they should have.",
                alerts=("LedgerlineKafkaUnderReplicated",),
            ),
            unit="none",
            steps=((None, RED), (0, GREEN), (1, RED)),
        ),
        stat(
            "Below min.insync",
            Query(f"sum({replica}_underminisrpartitioncount{{{_KAFKA}}})"),
            Says(
                "Partitions that refuse writes, as too few replicas are in step for acks=all.",
                alerts=("LedgerlineKafkaBelowMinIsr",),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
        ),
        stat(
            "Request handlers idle",
            Query(f"min(kafka_server_kafkarequesthandlerpool_requesthandleravgidle_ratio{{{_KAFKA}}})"),
            Says("The part of their time in which the busiest broker's request handlers had nothing to do."),
            unit="percentunit",
            steps=falling(0.1, 0.3),
            decimals=0,
        ),
    ]


def _topics() -> list[Placed]:
    def of(what: str) -> Query:
        return Query(f"sum by (topic) (rate({_TOPIC_METRICS}_{what}_total{{{_CHOSEN}}}[{PACE}]))", "{{topic}}")

    return [
        graph(
            "Messages in",
            of("messagesin"),
            Says("Messages a second by topic. payments.intents and ledger.journal should look alike."),
            unit="mps",
            width=6,
        ),
        graph("Bytes in", of("bytesin"), Says("Bytes a second from producers, compressed."), unit="Bps", width=6),
        graph("Bytes out", of("bytesout"), Says("Bytes a second to consumers, compressed."), unit="Bps", width=6),
        graph(
            "Size on disk",
            Query(f"sum by (topic) (kafka_log_log_size{{{_CHOSEN}}})", "{{topic}}"),
            Says("Bytes of each topic, all partitions and replicas. ledger.journal is kept for ever, intents 30 days."),
            unit="bytes",
            width=6,
        ),
    ]


def _requests() -> list[Placed]:
    time = "kafka_network_requestmetrics_totaltimems"
    return [
        graph(
            "Time of requests, 99 of 100",
            Query(f'max by (request) ({time}{{{_KAFKA}, quantile="0.99"}})', "{{request}}"),
            Says(
                "From a request's arrival to its answer at the slowest broker. Produce waits for all replicas in step; "
                "a fetch waits for data, up to half a second, and that is as it should be."
            ),
            unit="ms",
        ),
        graph(
            "Replicas that fell out of step, and came back",
            [
                Query(f"sum(rate(kafka_server_replicamanager_isrshrinks_total{{{_KAFKA}}}[{PACE}]))", "fell out"),
                Query(f"sum(rate(kafka_server_replicamanager_isrexpands_total{{{_KAFKA}}}[{PACE}]))", "came back"),
            ],
            Says("Changes a second of the sets of replicas in step. Outside of a restart there should be none."),
            unit="cps",
            flat_at_zero=True,
        ),
        graph(
            "Heap of the brokers",
            Query(
                f'sum by (instance) (jvm_memory_used_bytes{{{_KAFKA}, area="heap"}})',
                "{{instance}}",
            ),
            Says("Memory of the Java heap in use."),
            unit="bytes",
        ),
    ]


def _clients() -> list[Placed]:
    return [
        graph(
            "Round trips of our producers",
            Query(f"max by (client) (ledgerline_kafka_producer_broker_rtt_seconds{{{OURS}}})", "{{client}}"),
            Says("From librdkafka's own statistics: the slowest broker of each producer."),
            unit="s",
            width=6,
        ),
        graph(
            "Messages not yet acknowledged",
            Query(f"sum by (client) (ledgerline_kafka_producer_queue_messages{{{OURS}}})", "{{client}}"),
            Says("Messages in the queues of our producers."),
            unit="none",
            width=6,
        ),
        graph(
            "Records not yet processed",
            Query(
                f"sum by (agent) (max by (agent, partition) (ledgerline_agent_lag_records{{{OURS}}}))",
                "{{agent}}",
            ),
            Says("What each agent has not processed of its topic, over all partitions, by its own count in Postgres."),
            unit="short",
            width=6,
        ),
        graph(
            "End of payments.intents",
            Query(
                rate(f'kafka_log_log_logendoffset{{{_KAFKA}, topic="payments.intents"}}', by="partition"),
                "lane {{partition}}",
            ),
            Says("Offsets a second by which each lane of payments.intents grows: is the load spread over the lanes?"),
            unit="mps",
            width=6,
        ),
    ]
