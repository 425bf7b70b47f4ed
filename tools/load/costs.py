"""What a posting costs: processor time as measured, by the prices of tools/bench/cluster.py. Pure."""

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
# Of fewer postings the figure would be that of everything else that the processes do.
POSTED_MIN: Final = 300
# What works for the test, not for the ledger.
_OF_THE_TEST: Final = (BENCH, "postgres operator", "postgres others")


class Cost(NamedTuple):
    """Of a thousand postings."""

    processor_seconds: float
    usd: float


def vcpu_usd_per_hour(process: str) -> float:
    """The price of a core of the kind of machine that such a process runs on; Kafka's three copies are in it."""
    if process.startswith("postgres"):
        return POSTGRES_VCPU_USD
    if process == "kafka":
        return KAFKA_COPIES * BROKER_USD / BROKER_VCPUS
    return SERVICE_USD / SERVICE_VCPUS


def of_the_ledger(processor_seconds: Mapping[str, float]) -> dict[str, float]:
    """Without the generator of the load and whoever watches it."""
    return {
        name: seconds
        for name, seconds in processor_seconds.items()
        if name != GENERATOR and not name.startswith(_OF_THE_TEST)
    }


def cost_per_thousand(processor_seconds: Mapping[str, float], posted: int) -> Cost | None:
    """What a thousand postings took and would cost on machines that are planned to be PLANNED_SHARE busy.

    None where fewer than POSTED_MIN were posted, or nothing of the ledger runs on this machine.
    """
    used = of_the_ledger(processor_seconds)
    if posted < POSTED_MIN or not used:
        return None
    thousands = posted / 1000
    usd = sum(seconds / 3600 * vcpu_usd_per_hour(name) for name, seconds in used.items()) / PLANNED_SHARE
    return Cost(sum(used.values()) / thousands, usd / thousands)
