"""The scenarios of chaos, each a promise and the fault that puts it to the test."""

from typing import Final, NamedTuple

from ops.chaos.scenarios import (
    agents,
    clock,
    crashes,
    database,
    network,
    offsets,
    outages,
    rebalances,
    relays,
    storm,
    tampering,
    topics,
)
from ops.chaos.scenarios.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *crashes.SCENARIOS,
    *outages.SCENARIOS,
    *relays.SCENARIOS,
    *network.SCENARIOS,
    *rebalances.SCENARIOS,
    *offsets.SCENARIOS,
    *database.SCENARIOS,
    *agents.SCENARIOS,
    *clock.SCENARIOS,
    *storm.SCENARIOS,
    *tampering.SCENARIOS,
    *topics.SCENARIOS,
)


class Regression(NamedTuple):
    """A seed with which a scenario found a bug; every whole run repeats it."""

    scenario: str
    seed: str
    found: str


REGRESSIONS: Final = (
    Regression(
        "commit-lost",
        "1/0",
        "workers made one another rejoin their group without end, and one left its lanes alone until its watchdog came",
    ),
)
