"""The monthly cost of ops/terraform: `python -m tools.terraform_costs` prints README.md's table. Computed only.

Machines and volumes have the prices of tools/bench/cluster.py. The other prices stand here: they are from memory, for
the same region, and small in comparison.
"""

import sys
from typing import Final, NamedTuple

from tools.bench.cluster import (
    BROKER_USD,
    KAFKA_GB_MONTH_USD,
    POSTGRES_GB_MONTH_USD,
    POSTGRES_VCPU_USD,
    SERVICE_USD,
)

HOURS: Final = 730  # hours of a month, as Amazon counts them
BROKERS: Final = 3
ZONES: Final = 3

CONTROL_PLANE_USD: Final = 0.10  # EKS, per hour
NAT_GATEWAY_USD: Final = 0.045  # per hour; its traffic costs extra and is not counted
SECRET_MONTH_USD: Final = 0.40
SECRETS: Final = 14
KEY_MONTH_USD: Final = 1.0
ALARM_MONTH_USD: Final = 0.10
ALARMS: Final = 6


class Size(NamedTuple):
    """The values of variables.tf that make one size."""

    nodes: int
    postgres_vcpus: int
    postgres_gb: int
    broker_gb: int


# `small` has the defaults of variables.tf, without the maximum number of nodes.
SIZES: Final = {"small": Size(3, 4, 400, 250), "medium": Size(6, 16, 2000, 1000)}


def lines(size: Size) -> dict[str, float]:
    """Return the cost by part, in USD a month."""
    return {
        "nodes, c7g.xlarge": size.nodes * SERVICE_USD * HOURS,
        "Postgres, db.m7g with a standby": size.postgres_vcpus * POSTGRES_VCPU_USD * HOURS,
        "Postgres' volumes": size.postgres_gb * POSTGRES_GB_MONTH_USD,
        "brokers, kafka.m7g.large": BROKERS * BROKER_USD * HOURS,
        "brokers' volumes": BROKERS * size.broker_gb * KAFKA_GB_MONTH_USD,
        "EKS": CONTROL_PLANE_USD * HOURS,
        "NAT gateways": ZONES * NAT_GATEWAY_USD * HOURS,
        "secrets, key, alarms": SECRETS * SECRET_MONTH_USD + KEY_MONTH_USD + ALARMS * ALARM_MONTH_USD,
    }


def table() -> str:
    """Return a Markdown table with a column for each size."""
    sizes = {name: lines(size) for name, size in SIZES.items()}
    head = [f"| USD a month | {' | '.join(sizes)} |", f"|---|{'--:|' * len(sizes)}"]
    parts = next(iter(sizes.values()))
    rows = [f"| {part} | {' | '.join(f'{found[part]:,.0f}' for found in sizes.values())} |" for part in parts]
    total = f"| **all** | {' | '.join(f'**{sum(found.values()):,.0f}**' for found in sizes.values())} |"
    return "\n".join((*head, *rows, total))


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
