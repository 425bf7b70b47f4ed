"""kill -9 of the proving agents, which must forget nothing, see nothing twice and raise no false alarm."""

from functools import partial
from typing import Final

from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial


def kill_agent(name: str, trial: Trial) -> None:
    """The agent dies under load, whatever it is at, and once more while it comes up."""
    for _ in range(2):
        trial.let_flow(100)
        trial.say(f"kill -9 of {name}")
        trial.pick(name).kill()


SCENARIOS: Final = tuple(
    Scenario(
        f"{name}-killed",
        f"The {name} agent may die at any moment: it goes on where its store stands and raises no false break.",
        partial(kill_agent, name),
    )
    for name in ("reconciliation", "audit")
)
