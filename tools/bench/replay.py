"""A replay compared with the live posting of the same intents. Both read filled topics and end with the last commit."""

import random
from statistics import median
from typing import Final

from psycopg.conninfo import make_conninfo

from db.agent_connection import open_snapshot
from db.frame import export_frame
from db.relay import RelayStore
from ops.embedded.stack import Endpoints
from producers.relay import Relay, RelayEncoders
from producers.relay_core import RelayOptions
from streams.proof.replay.comparison import compare
from streams.proof.replay.rebuild import Origin, replay
from tools.bench.figures import Figure, median_ratio
from tools.bench.ledger import BenchFault, BenchLedger, bench_ledger, drop_database
from tools.bench.loads import opening, random_load
from tools.bench.posting import WARM_INTENTS, Report
from tools.bench.rounds import ROUND_INTENTS_MAX, run_round, warm_up

RATIO_MIN: Final = 1.2


def measure_replay(endpoints: Endpoints, intents: int, rounds: int, report: Report) -> list[Figure]:
    """Post so many intents with one worker, and replay their journal into an empty database; `rounds` times."""
    pairs = [_round(endpoints, intents, report) for _ in range(rounds)]
    return [
        Figure(
            "replay",
            f"replayed, of {intents:,}, beside live posting",
            median(replayed for replayed, _ in pairs),
            "/s",
            RATIO_MIN,
            limit=median(live for _, live in pairs),
            ratio=median_ratio(pairs),
            detail={"rounds": pairs},
        )
    ]


def _round(endpoints: Endpoints, intents: int, report: Report) -> tuple[float, float]:
    """Return the records replayed a second and the intents posted live a second."""
    with bench_ledger(endpoints) as ledger:
        live = intents / _post(ledger, intents)
        _relay(ledger)
        replayed = _replay(ledger)
    report(f"{live:,.0f} intents posted live / s, {replayed:,.0f} replayed / s: {replayed / live:.1f} times as fast")
    return replayed, live


def _post(ledger: BenchLedger, intents: int) -> float:
    """Return the seconds that a warm worker takes to post so many intents."""
    load = random_load(random.randrange(2**32))  # noqa: S311 - another load each time, no secret
    seconds = 0.0
    with ledger.workers() as workers:
        warm_up(ledger, opening(), (load, WARM_INTENTS))
        for done in range(0, intents, ROUND_INTENTS_MAX):
            seconds += run_round(ledger, workers, load, min(ROUND_INTENTS_MAX, intents - done)).seconds
    return seconds


def _relay(ledger: BenchLedger) -> None:
    """Relay the whole journal to its topic, which a replay reads."""
    options = RelayOptions(ledger.endpoints.kafka, ledger.topics)
    relay = Relay(RelayStore(ledger.dsn), RelayEncoders.find_registered(ledger.endpoints.registry), options)
    relay.start()
    while relay.round():
        pass
    relay.close()


def _replay(ledger: BenchLedger) -> float:
    """Replay into an empty database, and return records a second. Raise BenchFault if the two databases differ."""
    target = make_conninfo(ledger.endpoints.postgres_dsn, dbname=f"{ledger.name}_replayed")
    try:
        with open_snapshot(ledger.dsn, "ledgerline_operator") as connection:
            frame = export_frame(connection)
        origin = Origin(ledger.endpoints.kafka, ledger.endpoints.registry, ledger.topics)
        done = replay(origin, target, frame)
        found = compare(target, ledger.dsn).difference
        if done.records != ledger.sent or found is not None:
            raise BenchFault(f"{done.records} of {ledger.sent} records were replayed, {found or 'without difference'}.")
    finally:
        drop_database(target)
    return done.records / done.seconds
