"""Connections cut, refused, delayed and black-holed, between any two that speak to each other."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from ops.chaos.proxy import Proxy
from ops.chaos.scenarios.scenario import Scenario
from ops.chaos.trial import Trial

DELAY_SECONDS: Final = 0.2
DELAYED_SECONDS: Final = 2.0
REFUSED_SECONDS: Final = 2.0
BLACK_HOLE_SECONDS: Final = (5.0, 15.0)
"""Shorter and longer than a consumer's session (10 s) and a delivery's time (10 s)."""

Choose = Callable[[Trial], Proxy]


def _hold(seconds: float) -> None:
    """Let the fault last so long, under load: its length is what makes it this fault."""
    threading.Event().wait(seconds)


def trouble(choose: Choose, trial: Trial) -> None:
    """Cut twice, delayed for a while, refused for a while, and then black-holed."""
    proxy = choose(trial)
    try:
        for _ in range(2):
            trial.let_flow(100)
            trial.say("all connections are reset")
            proxy.cut()
        trial.let_flow(100)
        trial.say(f"each packet takes {DELAY_SECONDS} s longer")
        proxy.delay(DELAY_SECONDS)
        _hold(DELAYED_SECONDS)
        trial.say("connections are refused")
        proxy.refuse()
        _hold(REFUSED_SECONDS)
        proxy.pass_through()
        trial.let_flow(100)
        seconds = trial.random.uniform(*BLACK_HOLE_SECONDS)
        trial.say(f"packets vanish for {seconds:.0f} s")
        proxy.black_hole()
        _hold(seconds)
    finally:
        proxy.pass_through()


def _kafka(group: str, trial: Trial) -> Proxy:
    return trial.deployment.kafka[group]


def _postgres(group: str, trial: Trial) -> Proxy:
    return trial.deployment.postgres[group]


_WAYS: Final[tuple[tuple[str, str, Choose], ...]] = (
    ("posting-postgres", "workers and Postgres", partial(_postgres, "posting")),
    ("posting-kafka", "workers and Kafka", partial(_kafka, "posting")),
    ("api-kafka", "the API and Kafka", partial(_kafka, "api")),
    ("api-postgres", "the API and Postgres", partial(_postgres, "api")),
    ("proving-kafka", "relay and agents and Kafka", partial(_kafka, "proving")),
    ("proving-postgres", "relay and agents and Postgres", partial(_postgres, "proving")),
)

SCENARIOS: Final = tuple(
    Scenario(
        f"network-{name}",
        f"Connections between {people} may be cut, slow, refused or silent.",
        partial(trouble, choose),
    )
    for name, people, choose in _WAYS
)
