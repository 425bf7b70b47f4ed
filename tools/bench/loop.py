"""The whole loop: all agents on the same cores post, relay, reconcile and audit intents at the same time.

The stream is a closed loop: a new intent enters only while fewer than IN_FLIGHT_INTENTS are between Kafka and the end
of the last stage. So the load always equals what the slowest stage can take, and all stages keep up with the measured
rate. The queue between two stages can still grow while another one shrinks, so the lags are checked.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import mean
from typing import Any, Final, NamedTuple

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from runtime.schemas import parse_own_schema, read_body
from tools.bench.disk import disk_bytes, each_of
from tools.bench.figures import Figure, second_half, slope
from tools.bench.ledger import WAIT_SECONDS_MAX, BenchFault, BenchLedger, bench_ledger
from tools.bench.loads import Load, opening, random_load
from tools.bench.posting import Report
from tools.bench.processor_time import BENCH, microseconds_each, used_since
from tools.bench.rounds import require_posted, warm_up

RATIO_MIN: Final = 0.20
IN_FLIGHT_INTENTS: Final = 40_000
SEND_INTENTS_MIN: Final = 1000
SAMPLE_SECONDS: Final = 1.0
REPORT_SAMPLES: Final = 30
WARM_INTENTS: Final = 40_000
# A lag may grow in the second half of the run by less than the intents of this many seconds: batches make it vary.
LAG_GROWTH_SECONDS_MAX: Final = 1.0

_STANDS: Final = """
SELECT
    (SELECT coalesce(sum(next_seq), 0)::bigint FROM ledger.lane),
    (SELECT coalesce(sum(next_seq), 0)::bigint FROM reconciliation.lane),
    (SELECT coalesce(sum(next_seq), 0)::bigint FROM audit.lane)
"""


class Sample(NamedTuple):
    """The number of intents that had passed each stage, so many seconds after the beginning."""

    seconds: float
    sent: int
    posted: int
    relayed: int
    reconciled: int
    audited: int

    @property
    def through(self) -> int:
        """How many intents had passed all stages."""
        return min(self.posted, self.relayed, self.reconciled, self.audited)

    def lags(self) -> dict[str, int]:
        """Return how many intents wait for each stage. Reconciliation and audit both read the relayed records."""
        return {
            "posting": self.sent - self.posted,
            "relay": self.posted - self.relayed,
            "reconciliation": self.relayed - self.reconciled,
            "audit": self.relayed - self.audited,
        }


class LoopWatch:
    """An observer of all stages: it reads the lanes in Postgres and the relay's positions in Kafka."""

    def __init__(self, ledger: BenchLedger) -> None:
        self._ledger = ledger
        self._connection = psycopg.connect(ledger.dsn, autocommit=True)
        self._relayed: dict[int, int] = {}
        self._schema = parse_own_schema("ledger.relay-value")
        self._consumer = Consumer(
            {
                **ledger.endpoints.kafka.make_client_options(),
                "group.id": f"{ledger.name}-watch",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        self._consumer.assign([TopicPartition(ledger.topics.relay, 0, 0)])
        self._started = time.monotonic()

    def __enter__(self) -> "LoopWatch":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
        self._connection.close()

    def look(self) -> Sample:
        """Return the current position of each stage. Later stages are read first, so that no lag is negative."""
        found = self._connection.execute(_STANDS).fetchone()
        if found is None:
            raise BenchFault("A SELECT without FROM had no row.")
        _, reconciled, audited = found
        for message in self._consumer.consume(10_000, 0):
            if message.error() is not None:
                raise KafkaException(message.error())
            position = read_body(message.value(), self._schema)
            self._relayed[position["lane"]] = position["next_seq"]
        relayed = max(sum(self._relayed.values()), reconciled, audited)
        posted = self._ledger.posted(self._connection)
        return Sample(time.monotonic() - self._started, self._ledger.sent, posted, relayed, reconciled, audited)

    def wait_through(self) -> float:
        """Wait until all sent intents have passed all stages. Return the seconds. Raise BenchFault after a timeout."""
        started = time.monotonic()
        if not wait_until(lambda: self.look().through == self._ledger.sent, timeout_seconds=WAIT_SECONDS_MAX):
            raise BenchFault(f"Not all stages reached the end in time: {self.look()}; see their logs above.")
        return time.monotonic() - started


def measure_loop(endpoints: Endpoints, minutes: float, report: Report) -> list[Figure]:
    """Run posting, relay, reconciliation, audit and the capabilities' worker under a stream that saturates them.

    The bare limit is measured before the agents start and after they have ended, as idle agents use processor time too.
    """
    load = random_load(6)
    with bench_ledger(endpoints) as ledger:
        with ExitStack() as running:
            running.enter_context(ledger.workers())
            bare = warm_up(ledger, opening(), (load, WARM_INTENTS))
            span = ledger.next_seqs()
            limits = [bare.measure({}, span).per_second]
            # Audit creates its key in its home. This home is temporary, so the key is deleted after the run.
            home = running.enter_context(tempfile.TemporaryDirectory())
            for name in ("relay", "reconciliation", "audit", "worker"):
                running.enter_context(ledger.service(name, LEDGERLINE_HOME=home))
            watch = running.enter_context(LoopWatch(ledger))
            full = ledger.sent + IN_FLIGHT_INTENTS
            stream(ledger, load, watch, lambda seen: seen.through >= full, report)
            before = ledger.processor_time.seconds()
            end_seconds = watch.look().seconds + minutes * 60
            samples = stream(ledger, load, watch, lambda seen: seen.seconds >= end_seconds, report)
            used = used_since(before, ledger.processor_time.seconds())
            drain_seconds = watch.wait_through()
        limits.append(bare.measure({}, span).per_second)
        require_posted(ledger, {}, ledger.sent)
        _require_no_breaks(ledger)
        provers = disk_bytes(ledger.dsn, "reconciliation") | disk_bytes(ledger.dsn, "audit")
        more = {"drain_seconds": drain_seconds, "provers_bytes": each_of(provers, ledger.sent)}
    return [_figure(samples, limits, used, more)]


def stream(
    ledger: BenchLedger, load: Load, watch: LoopWatch, is_over: Callable[[Sample], bool], report: Report
) -> list[Sample]:
    """Keep IN_FLIGHT_INTENTS in flight until `is_over`. Return a sample for each second."""
    samples = [watch.look()]

    def room(seen: Sample) -> int:
        return IN_FLIGHT_INTENTS - (ledger.sent - seen.through)

    def has_room() -> bool:
        seen = watch.look()
        if seen.seconds >= samples[-1].seconds + SAMPLE_SECONDS:
            samples.append(seen)
            if len(samples) % REPORT_SAMPLES == 0:
                seconds = seen.seconds - samples[0].seconds
                rate = (seen.through - samples[0].through) / seconds
                report(f"the loop for {seconds:,.0f} s: {rate:,.0f} through/s, lags {seen.lags()}")
        return room(seen) >= SEND_INTENTS_MIN or is_over(seen)

    while True:
        if not wait_until(has_room, timeout_seconds=WAIT_SECONDS_MAX):
            raise BenchFault(f"A stage of the loop stands still, at {watch.look()}: see the logs above.")
        seen = watch.look()
        if is_over(seen):
            return [*samples, seen]
        ledger.send(load, max(room(seen), SEND_INTENTS_MIN))


def lag_growths(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the growth of each stage's lag in the second half of the time, in intents a second."""
    return {
        stage: slope(second_half([(sample.seconds, float(sample.lags()[stage])) for sample in samples]))
        for stage in samples[0].lags()
    }


def _figure(samples: Sequence[Sample], limits: Sequence[float], used: dict[str, float], more: dict[str, Any]) -> Figure:
    first, last = samples[0], samples[-1]
    seconds = last.seconds - first.seconds
    intents = last.through - first.through
    rate = intents / seconds
    growths = lag_growths(samples)
    detail: dict[str, Any] = {
        "seconds": seconds,
        "bare_per_second": limits,
        "lag_growth_per_second": growths,
        "lags_mean": {stage: mean(sample.lags()[stage] for sample in samples) for stage in first.lags()},
        **more,
        "processor_us_per_intent": microseconds_each(used, intents),
        "generator_share": used.get(BENCH, 0.0) / seconds,
        "samples": [sample._asdict() for sample in samples],
    }
    return Figure(
        "loop",
        f"the whole loop, {seconds / 60:.0f} min: posted, relayed, proved",
        rate,
        "/s",
        RATIO_MIN,
        limit=mean(limits),
        ratio=rate / mean(limits),
        detail=detail,
        also=max(growths.values()) * seconds / 2 < rate * LAG_GROWTH_SECONDS_MAX,
    )


def _require_no_breaks(ledger: BenchLedger) -> None:
    """Raise BenchFault if reconciliation or audit found a break."""
    with psycopg.connect(ledger.dsn) as connection:
        found = connection.execute(
            "SELECT kind, subject FROM reconciliation.break UNION ALL SELECT kind, subject FROM audit.break"
        ).fetchall()
    if found:
        raise BenchFault(f"The books of the loop have {len(found)} breaks, such as {found[0]}.")
