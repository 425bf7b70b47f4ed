"""Workers that join and leave every few seconds."""

from typing import Final

from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

TURNS: Final = 5
POSTED_BETWEEN: Final = 300


def come_and_go(trial: Trial) -> None:
    """Let workers join, stop and crash, each time soon after the last rebalance."""
    guests = [trial.deployment.instance(trial.ledger, "posting", number) for number in (2, 3)]
    running: list[int] = []
    try:
        for _ in range(TURNS):
            number = trial.random.randrange(len(guests))
            if number in running:
                trial.say(f"{guests[number].label} leaves")
                guests[number].stop()
                running.remove(number)
            else:
                trial.say(f"{guests[number].label} joins")
                guests[number].start()
                running.append(number)
            if trial.random.random() < 0.4:
                leaver = trial.pick("posting")
                trial.say(f"kill -9 of {leaver.label}")
                leaver.kill()
            trial.let_flow(POSTED_BETWEEN)
    finally:
        trial.fleet.stop_all(guests)


SCENARIOS: Final = (
    Scenario("rebalances", "Workers may stop and start as often as they like, in order or by a crash.", come_and_go),
)
