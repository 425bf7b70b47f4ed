"""kill -9 of the agents behind the journal. They skip no record, count none twice and raise no false break."""

from functools import partial
from typing import Final

from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial


def kill_agent(name: str, trial: Trial) -> None:
    """Kill the agent under load, at any point of its work, and once more while it starts."""
    for _ in range(2):
        trial.let_flow(100)
        trial.say(f"kill -9 of {name}")
        trial.pick(name).kill()


SCENARIOS: Final = (
    *(
        Scenario(
            f"{name}-killed",
            f"The {name} agent may die at any moment: it continues from its own offsets and raises no false break.",
            partial(kill_agent, name),
        )
        for name in ("reconciliation", "audit")
    ),
    Scenario(
        "capability-worker-killed",
        "The worker of the capabilities may die at any moment: posting and proof do not wait for it.",
        partial(kill_agent, "worker"),
    ),
)
