"""The workers' committed offsets in Kafka are deleted, set to the beginning, or set to the end."""

from collections.abc import Callable
from functools import partial
from typing import Final

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from runtime.kafka_positions import make_admin_client, read_topic_state, tell_group
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

REQUEST_SECONDS_MAX: Final = 30.0
Lie = Callable[[Trial, AdminClient, str], None]


def delete(_: Trial, admin: AdminClient, group: str) -> None:
    """Delete the consumer group, as Kafka does after offsets.retention.minutes."""
    admin.delete_consumer_groups([group])[group].result(REQUEST_SECONDS_MAX)


def to_beginning(trial: Trial, admin: AdminClient, group: str) -> None:
    """Reset the offsets as `kafka-consumer-groups --reset-offsets --to-earliest` does."""
    topic = trial.ledger.topics.intents
    tell_group(admin, group, topic, read_topic_state(admin, topic).low)


def to_end(trial: Trial, admin: AdminClient, group: str) -> None:
    """Reset the offsets as `kafka-consumer-groups --reset-offsets --to-latest` does, while unposted intents wait."""
    topic = trial.ledger.topics.intents
    tell_group(admin, group, topic, read_topic_state(admin, topic).high)


def believe_kafka(lie: Lie, trial: Trial) -> None:
    """Stop all workers, let intents pile up, change Kafka's offsets, and start the workers again."""
    trial.let_flow()
    trial.fleet.stop_all(trial.workers())
    aim = trial.load.counts["acknowledged"] + 200
    trial.wait_until(lambda: trial.load.counts["acknowledged"] >= aim, "intents pile up")
    admin = make_admin_client(trial.ledger.endpoints.kafka)
    group = trial.ledger.topics.group("posting")

    def is_empty() -> bool:
        try:
            described = admin.describe_consumer_groups([group])[group].result(REQUEST_SECONDS_MAX)
        except KafkaException:
            return False
        return bool(described.state == ConsumerGroupState.EMPTY)

    trial.wait_until(is_empty, f"the group {group} has no member")
    lie(trial, admin, group)
    trial.say(f"Kafka's offsets of {group}: {lie.__name__.replace('_', ' ')}")
    for worker in trial.workers():
        worker.start()


SCENARIOS: Final = tuple(
    Scenario(
        f"offsets-{name}",
        f"Kafka's offsets of the workers may be {what}: no intent is posted again, and none is left out.",
        partial(believe_kafka, lie),
    )
    for name, what, lie in (
        ("deleted", "deleted", delete),
        ("to-beginning", "reset to the beginning", to_beginning),
        ("to-end", "reset to the end", to_end),
    )
)
