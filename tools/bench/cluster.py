"""Size and cost of a larger cluster, computed from the figures of `make bench` on this machine. Never measured.

The prices are Amazon's on-demand prices for us-east-1 from the middle of 2026. They change: check them.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

from tools.bench.figures import Figure

POSTINGS_PER_SECOND: Final = 50_000
# The planned load of a core. The rest is room for bursts, sweeps and a lost machine.
PLANNED_SHARE: Final = 0.6
BATCH_INTENTS: Final = 5000
# With a synchronous standby in another zone: a commit counts only after the standby has it.
COMMIT_SECONDS: Final = 0.005
# Larger than the bench's intents: with headers, and with content that does not compress.
INTENT_BYTES: Final = 400
JOURNAL_BYTES: Final = 400
# Rows to and from Postgres for one posting, for the worker, the relay and the provers together.
SQL_BYTES: Final = 3000
KAFKA_COPIES: Final = 3
TOPIC_READERS: Final = 2
INTENTS_KEPT_MONTHS: Final = 1

SERVICE_VCPUS: Final = 4
SERVICE_USD: Final = 0.145  # c7g.xlarge, per hour
POSTGRES_VCPU_USD: Final = 2 * 0.0843  # db.m7g with a standby in another zone (Multi-AZ), per hour and vCPU
POSTGRES_SIZES: Final = (4, 8, 16, 32, 64)
BROKER_VCPUS: Final = 2
BROKER_USD: Final = 0.204  # kafka.m7g.large, per hour
POSTGRES_GB_MONTH_USD: Final = 2 * 0.115  # gp3, for the primary and its standby
KAFKA_GB_MONTH_USD: Final = 0.10
ZONE_GB_USD: Final = 0.02  # between zones: a cent to send, a cent to receive
OTHER_ZONES: Final = 2 / 3  # the share of traffic to another one of three zones


class Costs(NamedTuple):
    """The resources that one posting uses, as measured by the bench."""

    processor_us: Mapping[str, float]
    """By process: microseconds for each intent in the whole loop, and of the API for each intent in a batch."""
    disk_bytes: float
    wal_bytes: float

    def of(self, *beginnings: str) -> float:
        """Return the processor microseconds of all processes whose names begin with one of these texts."""
        return sum(used for name, used in self.processor_us.items() if name.startswith(beginnings))


class Line(NamedTuple):
    """One line of the plan: the processor time of one posting, the machines and their cost."""

    name: str
    processor_us: float
    vcpus: float
    """The planned number, with room for bursts."""
    machines: str
    usd_per_hour: float


def measured_costs(figures: Sequence[Figure]) -> Costs | None:
    """Return the costs of one posting from the figures of a run; None if the loop, HTTP or the disk is missing."""
    details: dict[str, Mapping[str, Any]] = {figure.key: figure.detail for figure in figures}
    if not {"loop", "http_batch", "disk_per_posting"} <= details.keys():
        return None
    used = dict(details["loop"]["processor_us_per_intent"])
    used["api"] = details["http_batch"]["processor_us_per_intent"]["api"]
    (disk,) = (figure.ours for figure in figures if figure.key == "disk_per_posting")
    return Costs(used, disk, details["disk_per_posting"]["wal_bytes_each"])


def vcpus(processor_us: float) -> float:
    """Return the planned number of vCPUs for POSTINGS_PER_SECOND, if one posting uses so much processor time."""
    return POSTINGS_PER_SECOND * processor_us / 1e6 / PLANNED_SHARE


def lanes(costs: Costs) -> int:
    """Return the number of lanes that is enough. A lane posts one batch at a time, and its steps run in sequence."""
    batch_seconds = BATCH_INTENTS * (costs.of("worker") + costs.of("postgres posting")) / 1e6 + COMMIT_SECONDS
    return ceil(POSTINGS_PER_SECOND * batch_seconds / BATCH_INTENTS / PLANNED_SHARE)


def plan(costs: Costs) -> list[Line]:
    """Return the machines for POSTINGS_PER_SECOND, including all stages."""
    services = {
        "API, batches": costs.of("api"),
        "posting workers": costs.of("worker"),
        "relay": costs.of("relay"),
        "reconciliation": costs.of("reconciliation"),
        "audit": costs.of("audit"),
    }
    total_us = sum(services.values())
    count = max(3, ceil(vcpus(total_us) / SERVICE_VCPUS))
    postgres_us = costs.of("postgres")
    size = next((size for size in POSTGRES_SIZES if size >= vcpus(postgres_us)), POSTGRES_SIZES[-1])
    kafka_us = KAFKA_COPIES * costs.of("kafka")
    brokers = max(3, ceil(vcpus(kafka_us) / BROKER_VCPUS))
    return [
        *(Line(name, each, vcpus(each), "", 0.0) for name, each in services.items()),
        Line("together", total_us, vcpus(total_us), f"{count} x c7g.xlarge", count * SERVICE_USD),
        Line(
            "Postgres, with a standby",
            postgres_us,
            vcpus(postgres_us),
            f"db.m7g, {size} vCPU",
            size * POSTGRES_VCPU_USD,
        ),
        Line("Kafka", kafka_us, vcpus(kafka_us), f"{brokers} x kafka.m7g.large", brokers * BROKER_USD),
    ]


def cluster_text(costs: Costs) -> str:
    """Return the plan and its consequences as Markdown."""
    lines = plan(costs)
    rows = [
        f"| {line.name} | {line.processor_us:,.0f} | {line.vcpus:.1f} | {line.machines} |"
        f" {f'{line.usd_per_hour:.2f}' if line.usd_per_hour else ''} |"
        for line in lines
    ]
    usd_per_hour = sum(line.usd_per_hour for line in lines)
    million = usd_per_hour / (POSTINGS_PER_SECOND * 3600 / 1e6)
    zone = ((1 + TOPIC_READERS) * (INTENT_BYTES + JOURNAL_BYTES) + SQL_BYTES) / 1e3 * OTHER_ZONES * ZONE_GB_USD
    kept_postgres = costs.disk_bytes / 1e3 * POSTGRES_GB_MONTH_USD
    kept_journal = JOURNAL_BYTES / 1e3 * KAFKA_COPIES * KAFKA_GB_MONTH_USD
    kept_intents = INTENT_BYTES / 1e3 * KAFKA_COPIES * KAFKA_GB_MONTH_USD * INTENTS_KEPT_MONTHS
    commit_ms = COMMIT_SECONDS * 1000
    megabytes = POSTINGS_PER_SECOND / 1e6
    written = (INTENT_BYTES + JOURNAL_BYTES) * megabytes
    broker = written * (2 * KAFKA_COPIES - 1 + TOPIC_READERS) / 3
    return "\n".join(
        (
            f"For {POSTINGS_PER_SECOND:,} postings a second:",
            "",
            "| part | processor, us each | vCPUs | machines | USD an hour |",
            "|---|--:|--:|---|--:|",
            *rows,
            f"| all | | | | {usd_per_hour:.2f} |",
            "",
            f"- **Lanes**: {lanes(costs)} or more. In one, a batch of {BATCH_INTENTS:,} takes the worker's processor"
            f" time and Postgres' one after the other, and {commit_ms:.0f} ms to commit.",
            f"- **fsync**: {4 * POSTINGS_PER_SECOND / BATCH_INTENTS:.0f} commits a second with full batches: posting,"
            f" relay, reconciliation and audit. {commit_ms:.0f} ms shared by a batch are"
            f" {commit_ms / BATCH_INTENTS * 1000:.0f} us for each posting, which limits nothing; shared by a"
            f" hundred they would be {commit_ms / 100 * 1000:.0f} us.",
            f"- **Postgres' log**: {costs.wal_bytes:,.0f} bytes each are {costs.wal_bytes * megabytes:,.0f} MB/s to the"
            " disk and to the standby. One stream, it is likely what a single Postgres runs out of first.",
            f"- **Network**: {written:,.0f} MB/s are produced to Kafka. With {KAFKA_COPIES} copies and two readers of"
            f" each topic each of three brokers carries {broker:,.0f} MB/s, in and out.",
            "",
            "| for a million postings | USD |",
            "|---|--:|",
            f"| machines that are busy all day | {million:.3f} |",
            f"| the same where the day's mean is a tenth of its peak | {10 * million:.2f} |",
            f"| traffic between zones | {zone:.3f} |",
            f"| kept in Postgres, each month | {kept_postgres:.3f} |",
            f"| kept on `ledger.journal`, each month | {kept_journal:.3f} |",
            f"| kept on `payments.intents`, once | {kept_intents:.3f} |",
        )
    )
