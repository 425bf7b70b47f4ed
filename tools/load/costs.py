"""The cost of a posting: measured processor time at the prices of tools/bench/cluster.py. Pure: no clock, no I/O."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tools.bench.cluster import (
    BROKER_USD,
    BROKER_VCPUS,
    KAFKA_COPIES,
    PLANNED_SHARE,
    POSTGRES_VCPU_USD,
    SERVICE_USD,
    SERVICE_VCPUS,
)
from tools.bench.processor_time import BENCH

GENERATOR: Final = "k6"
# With fewer postings, the cost of everything else that the processes do would dominate the figure.
POSTED_MIN: Final = 300
# Names of processes that work for the test, not for the ledger.
_OF_THE_TEST: Final = (BENCH, "postgres operator", "postgres others")


class Cost(NamedTuple):
    """The cost of a thousand postings."""

    processor_seconds: float
    usd: float


def vcpu_usd_per_hour(process: str) -> float:
    """Return the price of one vCPU of the process's machine type, in USD an hour; for Kafka, of all three copies."""
    if process.startswith("postgres"):
        return POSTGRES_VCPU_USD
    if process == "kafka":
        return KAFKA_COPIES * BROKER_USD / BROKER_VCPUS
    return SERVICE_USD / SERVICE_VCPUS


def of_the_ledger(processor_seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the processor seconds without the load generator and the processes that watch it."""
    return {
        name: seconds
        for name, seconds in processor_seconds.items()
        if name != GENERATOR and not name.startswith(_OF_THE_TEST)
    }


def cost_per_thousand(processor_seconds: Mapping[str, float], posted: int) -> Cost | None:
    """Return the processor time of a thousand postings and their cost on machines that are PLANNED_SHARE busy.

    Return None if fewer than POSTED_MIN were posted, or if no process of the ledger runs on this machine.
    """
    used = of_the_ledger(processor_seconds)
    if posted < POSTED_MIN or not used:
        return None
    thousands = posted / 1000
    usd = sum(seconds / 3600 * vcpu_usd_per_hour(name) for name, seconds in used.items()) / PLANNED_SHARE
    return Cost(sum(used.values()) / thousands, usd / thousands)
