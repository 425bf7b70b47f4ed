"""The scenarios of chaos, each a promise and the fault that puts it to the test."""

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
