"""What a larger cluster would do and cost: arithmetic on what `make bench` measured here. Computed, never measured.

The prices are Amazon's for us-east-1, on demand, as they were told in the middle of 2026. They change: check them.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

from tools.bench.figures import Figure

POSTINGS_PER_SECOND: Final = 50_000
# What of a core is planned to be used, so that bursts, sweeps and a lost machine find room.
PLANNED_SHARE: Final = 0.6
BATCH_INTENTS: Final = 5000
# Of a standby in another zone that has the commit too before it counts.
COMMIT_SECONDS: Final = 0.005
# Larger than the bench's own: with headers, and with content that does not compress.
INTENT_BYTES: Final = 400
JOURNAL_BYTES: Final = 400
# Rows to Postgres and back, for the worker, the relay and the provers together.
SQL_BYTES: Final = 3000
KAFKA_COPIES: Final = 3
TOPIC_READERS: Final = 2
INTENTS_KEPT_MONTHS: Final = 1

SERVICE_VCPUS: Final = 4
SERVICE_USD: Final = 0.145  # c7g.xlarge, an hour
POSTGRES_VCPU_USD: Final = 2 * 0.0843  # db.m7g with a standby in another zone (Multi-AZ), an hour and vCPU
POSTGRES_SIZES: Final = (4, 8, 16, 32, 64)
BROKER_VCPUS: Final = 2
BROKER_USD: Final = 0.204  # kafka.m7g.large, an hour
POSTGRES_GB_MONTH_USD: Final = 2 * 0.115  # gp3 with its standby's
KAFKA_GB_MONTH_USD: Final = 0.10
ZONE_GB_USD: Final = 0.02  # between zones: a cent to send, a cent to receive
OTHER_ZONES: Final = 2 / 3  # the share of traffic whose other end is in another of three zones


class Costs(NamedTuple):
    """What one posting takes, as measured by the bench."""

    processor_us: Mapping[str, float]
    """Of the whole loop, and of the API for one intent in a batch: by the name of the process."""
    disk_bytes: float
    wal_bytes: float

    def of(self, *beginnings: str) -> float:
        """The sum of those processes whose names begin like this."""
        return sum(used for name, used in self.processor_us.items() if name.startswith(beginnings))


class Line(NamedTuple):
    """One kind of machine: what one posting costs it, how many there are, and what they cost."""

    name: str
    processor_us: float
    vcpus: float
    """As planned: with room for bursts."""
    machines: str
    usd_per_hour: float


def measured_costs(figures: Sequence[Figure]) -> Costs | None:
    """What the figures of a run say of one posting; None where the loop, HTTP or the disk was not measured."""
    details: dict[str, Mapping[str, Any]] = {figure.key: figure.detail for figure in figures}
    if not {"loop", "http_batch", "disk_per_posting"} <= details.keys():
        return None
    used = dict(details["loop"]["processor_us_per_intent"])
    used["api"] = details["http_batch"]["processor_us_per_intent"]["api"]
    (disk,) = (figure.ours for figure in figures if figure.key == "disk_per_posting")
    return Costs(used, disk, details["disk_per_posting"]["wal_bytes_each"])


def vcpus(processor_us: float) -> float:
    """How many cores POSTINGS_PER_SECOND of so much processor time need, as planned."""
    return POSTINGS_PER_SECOND * processor_us / 1e6 / PLANNED_SHARE


def lanes(costs: Costs) -> int:
    """Lanes that are enough: one writes at a time, in batches whose steps are all taken one after the other."""
    batch_seconds = BATCH_INTENTS * (costs.of("worker") + costs.of("postgres posting")) / 1e6 + COMMIT_SECONDS
    return ceil(POSTINGS_PER_SECOND * batch_seconds / BATCH_INTENTS / PLANNED_SHARE)


def plan(costs: Costs) -> list[Line]:
    """The machines for POSTINGS_PER_SECOND, all stages included."""
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
    """The plan and what follows from it, as Markdown."""
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
