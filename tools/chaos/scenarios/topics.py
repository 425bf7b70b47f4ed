"""The intents topic is deleted and created again with the same name: the workers must refuse it, not skip intents."""

from typing import Final

from confluent_kafka.admin import AdminClient

from producers.deploy import Replication, make_topics
from runtime.kafka_positions import make_admin_client, read_topic_state
from tools.chaos.instance import ChaosError
from tools.chaos.ledger import LANES
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

REQUEST_SECONDS_MAX: Final = 30.0
SENTENCES: Final = ("restore the old topic", "restore the topic before posting goes on", "restore the old one")


def make_anew(trial: Trial) -> None:
    """Delete the topic, create it again and fill it beyond the lanes' next offsets.

    Each worker must exit with one of SENTENCES, and again after its restart. Raise ChaosError if a lane has moved.
    """
    trial.let_flow()
    trial.load.pause()
    trial.wait_quiet()  # any posting from now on would be of the new topic
    admin: AdminClient = make_admin_client(trial.ledger.endpoints.kafka)
    topic = trial.ledger.topics.intents
    before = {worker.label: worker.restarts for worker in trial.workers()}
    trial.say(f"{topic} is deleted and made again")
    admin.delete_topics([topic])[topic].result(REQUEST_SECONDS_MAX)
    trial.wait_until(lambda: topic not in admin.list_topics(timeout=REQUEST_SECONDS_MAX).topics, "it is gone")
    posted = trial.ledger.next_offsets()
    make_topics(trial.ledger.endpoints.kafka, trial.ledger.topics, LANES, Replication())
    trial.load.resume()
    trial.wait_until(
        lambda: all(
            any(sentence in worker.text_of_logs() for sentence in SENTENCES)
            and worker.restarts > before[worker.label] + 1
            for worker in trial.workers()
        ),
        "each worker refuses, and refuses again when it is started again",
    )
    trial.wait_until(
        lambda: min(read_topic_state(admin, topic).high.values()) > max(posted.values()),
        "the new topic has outgrown the lanes",
    )
    now = trial.ledger.next_offsets()
    if now != posted:
        raise ChaosError(f"The workers posted from a topic that is another one: lanes from {posted} to {now}.")


SCENARIOS: Final = (
    Scenario(
        "topic-made-anew",
        "If payments.intents was deleted and made again, the workers refuse it in one sentence and post nothing.",
        make_anew,
        own_ledger=True,
        recovers=False,
    ),
)
