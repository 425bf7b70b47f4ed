"""kill -9 of Kafka, Postgres and the registry, and COMMITs with an unknown outcome."""

from functools import partial
from typing import Final

from ops.embedded.part import Part
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

FIRED_SECONDS_MAX: Final = 30.0
AWAY: Final = "The schema registry cannot be reached"


def _restart(part: Part, trial: Trial) -> None:
    trial.say(f"kill -9 of {part.name}")
    part.kill()
    part.start()
    trial.say(f"{part.name} is back")


def kill_kafka(trial: Trial) -> None:
    """Kill the broker and start it again."""
    trial.let_flow()
    _restart(trial.deployment.stack.kafka, trial)


def kill_postgres(trial: Trial) -> None:
    """Kill the database server in the middle of its work; it recovers from its log."""
    trial.let_flow()
    _restart(trial.deployment.stack.postgres, trial)


def kill_registry(trial: Trial) -> None:
    """Kill the registry, and restart a worker and an API process while it is down."""
    registry = trial.deployment.stack.registry
    trial.let_flow()
    trial.say("kill -9 of the registry, then of a worker and of an API process, which need it at their start")
    worker = trial.workers()[0]
    registry.kill()
    worker.kill()
    trial.fleet["api"][0].kill()
    # Do not wait for more postings: a message with an unknown schema id blocks its lane at every worker.
    asked = worker.text_of_logs().count(AWAY)
    trial.wait_until(lambda: worker.text_of_logs().count(AWAY) > asked + 2, "the new worker asks for schemas in vain")
    registry.start()
    trial.say("the registry is back")


def kill_postgres_in_commit(trial: Trial) -> None:
    """Kill the database server in the instant in which a worker's COMMIT reaches it."""
    postgres = trial.deployment.stack.postgres
    trial.let_flow()
    fired = trial.deployment.postgres["posting"].on_pattern(b"COMMIT", postgres.kill)
    trial.wait_until(fired.is_set, "a worker commits", FIRED_SECONDS_MAX)
    trial.wait_until(lambda: not postgres.is_running(), "Postgres is dead", FIRED_SECONDS_MAX)
    trial.say("kill -9 of Postgres as a COMMIT arrived")
    postgres.start()


def lose_commit(before: bool, trial: Trial) -> None:
    """Cut the connection before Postgres gets a COMMIT, or before the worker gets its answer; three times."""
    for _ in range(3):
        trial.let_flow(100)
        fired = trial.deployment.postgres["posting"].cut_at(b"COMMIT", before=before)
        trial.wait_until(fired.is_set, "a worker commits", FIRED_SECONDS_MAX)
        trial.say("a COMMIT was lost" if before else "a COMMIT's answer was lost")


SCENARIOS: Final = (
    Scenario(
        "kafka-killed", "Kafka may crash: the intents that it acknowledged are posted when it is back.", kill_kafka
    ),
    Scenario("postgres-killed", "Postgres may crash: the workers wait, and continue from its offsets.", kill_postgres),
    Scenario(
        "postgres-killed-in-commit",
        "Postgres may crash during a COMMIT: the worker reads the lane's offset to learn whether it committed.",
        kill_postgres_in_commit,
    ),
    Scenario(
        "commit-lost", "If a COMMIT never reached Postgres, the next try posts its batch.", partial(lose_commit, True)
    ),
    Scenario(
        "commit-answer-lost",
        "If the answer to a COMMIT was lost, its batch is not posted a second time.",
        partial(lose_commit, False),
    ),
    Scenario(
        "registry-killed",
        "The registry may be away: messages of known schemas are decoded, and none is quarantined because of it.",
        kill_registry,
    ),
)
