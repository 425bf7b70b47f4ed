"""kill -9 of the relay around its Kafka transaction, and two relays with one transactional id."""

from functools import partial
from typing import Final

from runtime.faults import FAULT_POINTS
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

FENCED: Final = "Another relay took over"


def kill_relay(point: str, trial: Trial) -> None:
    """Kill the relay at the fault point, twice."""
    for _ in range(2):
        trial.let_flow(100)
        trial.strike(trial.fleet["relay"], point)


def two_relays(trial: Trial) -> None:
    """Start a second relay with the same transactional id beside the first."""
    second = trial.deployment.instance(trial.ledger, "relay", 1)
    trial.let_flow()
    second.start()
    try:
        trial.say("a second relay of the same instance starts")
        logs = [*trial.fleet["relay"], second]
        trial.wait_until(
            lambda: any(FENCED in relay.text_of_logs() for relay in logs), "one of the two relays is locked out"
        )
        trial.let_flow()
    finally:
        second.stop()


SCENARIOS: Final = (
    *(
        Scenario(
            f"relay-killed-{point}",
            f"The relay may die when {meaning}: readers get each record once.",
            partial(kill_relay, point),
        )
        for point, meaning in FAULT_POINTS["relay"].items()
    ),
    Scenario(
        "two-relays",
        "If two relays have the same id, Kafka locks one of them out; readers get each record once.",
        two_relays,
    ),
)
