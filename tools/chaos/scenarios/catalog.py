"""The chaos scenarios. Each has a promise and the fault that tests it."""

from typing import Final, NamedTuple

from tools.chaos.scenarios import (
    agents,
    capabilities,
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
from tools.chaos.scenarios.scenario import Scenario

KINDS: Final[dict[str, tuple[Scenario, ...]]] = {
    "crashes": crashes.SCENARIOS,
    "outages": outages.SCENARIOS,
    "relays": relays.SCENARIOS,
    "network": network.SCENARIOS,
    "rebalances": rebalances.SCENARIOS,
    "offsets": offsets.SCENARIOS,
    "database": database.SCENARIOS,
    "agents": agents.SCENARIOS,
    "clock": clock.SCENARIOS,
    "storm": storm.SCENARIOS,
    "tampering": tampering.SCENARIOS,
    "topics": topics.SCENARIOS,
    "capabilities": capabilities.SCENARIOS,
}
SCENARIOS: Final[tuple[Scenario, ...]] = tuple(scenario for kind in KINDS.values() for scenario in kind)


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
