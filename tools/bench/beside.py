"""The worker beside posting and relay: what each record of the journal that no capability asked for costs the worker.

The cost is the worker's processor time for each record: of a backlog, and of a journal that grows, where the time of an
idle worker is taken off.
"""

import time
from typing import Any, Final

import psutil
import psycopg

from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from producers.relay_positions import read_relay_positions
from runtime.kafka_positions import make_admin_client, read_topic_state
from tools.bench.figures import Figure
from tools.bench.ledger import WAIT_SECONDS_MAX, BenchFault, BenchLedger, bench_ledger
from tools.bench.loads import opening, random_load
from tools.bench.posting import Report
from tools.bench.rounds import standing_still, warm_up

# A worker that is suspended for 10 s is removed from its consumer group. The relay publishes these in half of that.
BACKLOG_RECORDS: Final = 100_000
LIVE_PER_SECOND: Final = 8000
LIVE_SECONDS: Final = 15
IDLE_SECONDS: Final = 5.0
TICK_SECONDS: Final = 0.05
WARM_INTENTS: Final = 20_000
UNWANTED_US_MAX: Final = 3.0
_STAND: Final = "SELECT coalesce(sum(next_offset), 0)::bigint FROM worker.position WHERE part = 'outcomes'"


def measure_beside(endpoints: Endpoints, report: Report) -> list[Figure]:
    """Measure the worker with a backlog and with a growing journal."""
    with (
        bench_ledger(endpoints) as ledger,
        ledger.workers(),
        ledger.service("relay") as relay,
        ledger.service("worker") as worker,
    ):
        watch = _Watch(ledger, worker)
        load = random_load(7)
        warm_up(ledger, opening(), (load, WARM_INTENTS))
        watch.wait()
        with standing_still([relay]):
            ledger.send(load, BACKLOG_RECORDS)
            ledger.wait_posted()
            worker.suspend()
        watch.wait_relayed()
        before = watch.used_seconds()
        worker.resume()
        watch.wait()
        backlog_us = (watch.used_seconds() - before) / BACKLOG_RECORDS * 1e6
        report(f"an unwanted record of a backlog costs {backlog_us:.2f} us")
        before = watch.used_seconds()
        time.sleep(IDLE_SECONDS)
        idle_share = (watch.used_seconds() - before) / IDLE_SECONDS
        began, before = time.monotonic(), watch.used_seconds()
        records = _send_steadily(ledger, load)
        watch.wait()
        seconds = time.monotonic() - began
        used = watch.used_seconds() - before
        live_us = (used - idle_share * seconds) / records * 1e6
        report(f"one of a growing journal {live_us:.2f} us; idle {idle_share:.1%} of a core")
    detail: dict[str, Any] = {
        "idle_share": idle_share,
        "records_per_second": records / seconds,
        "whole_us": used / records * 1e6,
    }
    return [
        Figure(
            "unwanted_backlog", "the worker, each record of others, backlog", backlog_us, "us", UNWANTED_US_MAX,
            is_ceiling=True,
        ),
        Figure(
            "unwanted_live", "the worker, each record of others, live", live_us, "us", UNWANTED_US_MAX,
            is_ceiling=True, detail=detail,
        ),
    ]  # fmt: skip


def _send_steadily(ledger: BenchLedger, load: Any) -> int:
    """Send LIVE_PER_SECOND intents a second; return their number."""
    started, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < LIVE_SECONDS:
        due = int(elapsed * LIVE_PER_SECOND)
        if due > sent:
            ledger.send(load, due - sent)
            sent = due
        time.sleep(TICK_SECONDS)
    return sent


class _Watch:
    """An observer of the worker's position in the journal, and of its processor time."""

    def __init__(self, ledger: BenchLedger, worker: psutil.Process) -> None:
        self._ledger = ledger
        self._worker = worker
        self._admin = make_admin_client(ledger.endpoints.kafka)

    def used_seconds(self) -> float:
        """Return the processor seconds of the worker so far."""
        times = self._worker.cpu_times()
        return times.user + times.system

    def wait_relayed(self) -> None:
        """Wait until the relay has published all that was sent."""

        def is_done() -> bool:
            positions = read_relay_positions(self._ledger.endpoints.kafka, self._ledger.topics.relay)
            return sum(at.next_seq for lane, at in positions.items() if lane < self._ledger.lanes) >= self._ledger.sent

        if not wait_until(is_done, timeout_seconds=WAIT_SECONDS_MAX):
            raise BenchFault("The relay did not publish the bench's records in time: see its log above.")

    def wait(self) -> None:
        """Wait until the worker stands at the end of the journal."""
        self.wait_relayed()

        def is_done() -> bool:
            with psycopg.connect(self._ledger.dsn) as connection:
                row = connection.execute(_STAND).fetchone()
            end = sum(read_topic_state(self._admin, self._ledger.topics.journal).high.values())
            return row is not None and row[0] >= end

        if not wait_until(is_done, timeout_seconds=WAIT_SECONDS_MAX):
            raise BenchFault("The worker did not read the journal in time: see its log above.")
