"""One long run of one worker: its memory, the growth of its cost with the journal, and the disk space of a posting."""

from statistics import median
from typing import Final, NamedTuple

from ops.embedded.stack import Endpoints
from tools.bench.disk import disk_bytes, each_of, wal_bytes
from tools.bench.figures import Figure, growth
from tools.bench.ledger import BenchLedger, bench_ledger
from tools.bench.loads import opening, random_load
from tools.bench.posting import WARM_INTENTS, Report
from tools.bench.processor_time import microseconds_each, used_since
from tools.bench.rounds import ROUND_INTENTS, standing_still, warm_up

MEMORY_MB_MAX: Final = 300.0
GROWTH_PERCENT_MAX: Final = 15.0
DISK_BYTES_MAX: Final = 600.0
WINDOWS_MAX: Final = 50


class Window(NamedTuple):
    """The cost of one part of the run."""

    rows: int
    """Rows of the journal at the end of the window."""
    per_second: float
    worker_bytes: int
    """The worker's largest resident memory until the end of the window."""
    processor_us: dict[str, float]
    """Processor microseconds for each intent."""

    @property
    def posting_us(self) -> float:
        """Processor microseconds of the worker and its Postgres backend: they do not depend on other load."""
        return sum(used for name, used in self.processor_us.items() if name in ("worker 1", "postgres posting"))


def measure_endurance(endpoints: Endpoints, rows: int, report: Report) -> list[Figure]:
    """Post `rows` transfers between random accounts into an empty journal, in windows of equal size."""
    with bench_ledger(endpoints) as ledger:
        wal_begun = wal_bytes(ledger.dsn)
        windows = _run(ledger, rows, report)
        wal_each = (wal_bytes(ledger.dsn) - wal_begun) / ledger.sent
        disk = disk_bytes(ledger.dsn, "ledger")
    costs = [window.posting_us for window in windows]
    return [
        Figure(
            "worker_memory",
            f"largest memory of a worker, {ledger.sent:,} intents",
            windows[-1].worker_bytes / 1e6,
            "MB",
            MEMORY_MB_MAX,
            is_ceiling=True,
            detail={"windows": [(window.rows, window.worker_bytes) for window in windows]},
        ),
        Figure(
            "cost_growth",
            f"growth of posting's processor time, 0 to {ledger.sent:,} rows",
            growth(costs) * 100,
            "%",
            GROWTH_PERCENT_MAX,
            is_ceiling=True,
            detail={
                "windows": [window._asdict() for window in windows],
                "posting_us_median": median(costs),
                "rate_growth": growth([window.per_second for window in windows]),
            },
        ),
        Figure(
            "disk_per_posting",
            "disk for each posted transfer, indexes included",
            sum(disk.values()) / ledger.sent,
            "bytes",
            DISK_BYTES_MAX,
            is_ceiling=True,
            detail={"parts": each_of(disk, ledger.sent), "postings": ledger.sent, "wal_bytes_each": wal_each},
        ),
    ]


def _run(ledger: BenchLedger, rows: int, report: Report) -> list[Window]:
    window_intents = max(ROUND_INTENTS, rows // WINDOWS_MAX)
    load = random_load(7)
    windows: list[Window] = []
    largest = 0
    with ledger.workers() as workers:
        (worker,) = workers

        def watch() -> None:
            nonlocal largest
            largest = max(largest, worker.memory_info().rss)

        warm_up(ledger, opening(), (load, WARM_INTENTS))
        begun = ledger.sent
        while ledger.sent < rows + begun:
            with standing_still(workers):
                ledger.send(load, window_intents)
                before = ledger.processor_time.seconds()
            seconds = ledger.wait_posted(watch)
            used = used_since(before, ledger.processor_time.seconds())
            each = microseconds_each(used, window_intents)
            windows.append(Window(ledger.sent, window_intents / seconds, largest, each))
            report(
                f"{ledger.sent:,} of {rows + begun:,} rows: {windows[-1].per_second:,.0f}/s,"
                f" {windows[-1].posting_us:.1f} us of processor time each, {largest / 1e6:,.0f} MB at most"
            )
    return windows
