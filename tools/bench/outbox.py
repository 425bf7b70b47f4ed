"""The outbox: events of many aggregates are appended and published at the same time, on the cores of everything."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final

from db.connections import connect
from db.outbox import EncodedEvent, append
from domain.events import Event
from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from producers.event_encoding import EventEncoders
from producers.relay_positions import read_relay_positions
from tools.bench.figures import Figure
from tools.bench.ledger import TENANT, WAIT_SECONDS_MAX, BenchFault, BenchLedger, bench_ledger
from tools.bench.posting import Report
from tools.bench.processor_time import microseconds_each, used_since

SECONDS: Final = 15.0
WARM_SECONDS: Final = 3.0
PER_SECOND_MIN: Final = 5000
WRITERS: Final = 4
EVENTS_PER_COMMIT: Final = 10


def measure_outbox(endpoints: Endpoints, report: Report) -> list[Figure]:
    """Append with WRITERS connections while the worker publishes. The time ends when all events are published."""
    with bench_ledger(endpoints) as ledger, ledger.service("worker"):
        writers = _Writers(ledger)
        writers.run(WARM_SECONDS)
        before = ledger.processor_time.seconds()
        events, seconds = writers.run(SECONDS)
        used = microseconds_each(used_since(before, ledger.processor_time.seconds()), events)
    report(f"outbox: {events:,} events in {seconds:.1f} s")
    return [
        Figure(
            "outbox", f"events through the outbox, {EVENTS_PER_COMMIT} in a commit", events / seconds, "/s",
            PER_SECOND_MIN, detail={"seconds": seconds, "processor_us_per_intent": used},
        )
    ]  # fmt: skip


class _Writers:
    """Capabilities that change something new all the time: each change is an aggregate's first event."""

    def __init__(self, ledger: BenchLedger) -> None:
        self._ledger = ledger
        self._encoders = EventEncoders.find_registered(ledger.endpoints.registry)
        self._numbers = count()
        self._appended = 0

    def run(self, seconds: float) -> tuple[int, float]:
        """Append for so long, and wait until all is published. Return the events and the seconds of both."""
        over = threading.Event()
        started = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            counts = [pool.submit(self._append, over) for _ in range(WRITERS)]
            over.wait(seconds)
            over.set()
            events = sum(one.result() for one in counts)
        self._appended += events
        if not wait_until(lambda: self._count_published() == self._appended, timeout_seconds=WAIT_SECONDS_MAX):
            raise BenchFault(f"Only {self._count_published():,} of {self._appended:,} events were published in time.")
        return events, time.monotonic() - started

    def _append(self, over: threading.Event) -> int:
        """Append until `over` is set; return the number of events."""
        events = 0
        with connect(self._ledger.dsn, "ledgerline_api") as connection:
            while not over.is_set():
                append(connection, [self._make_event() for _ in range(EVENTS_PER_COMMIT)])
                connection.commit()
                events += EVENTS_PER_COMMIT
        return events

    def _make_event(self) -> EncodedEvent:
        now = time.time_ns() // 1000
        data = {"schedule_id": "0f5c1d6e-52a0-5c5e-9c3f-1f3a3a0b7c11"}
        aggregate = f"schedules:{next(self._numbers)}"
        return self._encoders.encode(Event("schedule", "SchedulePaused", TENANT, aggregate, 1, data, now))

    def _count_published(self) -> int:
        positions = read_relay_positions(self._ledger.endpoints.kafka, self._ledger.topics.outbox)
        return sum(position.next_seq for position in positions.values())
