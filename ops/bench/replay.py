"""A replay beside the live posting of the same intents: both from topics that hold all of them, to the last commit."""

import random
from collections.abc import Callable
from statistics import median
from typing import Final, NamedTuple

from psycopg.conninfo import make_conninfo

from db.agent_connection import snapshot
from db.frame import export_frame
from db.relay import RelayStore
from ops.bench.ledger import BenchLedger, drop_database
from ops.bench.posting import random_pairs
from ops.embedded.stack import Endpoints
from producers.relay import Relay, RelayEncoders, RelayOptions
from streams.replay.comparison import compare
from streams.replay.rebuild import Origin, replay

ROUNDS: Final = 3


class ReplayFigures(NamedTuple):
    """Medians over the rounds; the ratio is that of each round's own pair."""

    live_per_second: float
    replay_per_second: float
    ratio_to_live: float


def measure_replay(endpoints: Endpoints, intents: int, report: Callable[[str], None]) -> ReplayFigures:
    """Post so many intents with one worker, and replay their journal into an empty database; a few times over."""
    pairs = [_round(endpoints, intents, report) for _ in range(ROUNDS)]
    return ReplayFigures(
        median(live for live, _ in pairs),
        median(replayed for _, replayed in pairs),
        median(replayed / live for live, replayed in pairs),
    )


def _round(endpoints: Endpoints, intents: int, report: Callable[[str], None]) -> tuple[float, float]:
    ledger = BenchLedger(endpoints)
    load = random_pairs(random.randrange(2**32))  # noqa: S311 - another load each time, no secret
    with ledger.service("posting") as worker:
        ledger.send(load, 1000)  # until it is warm
        ledger.wait_posted()
        worker.suspend()
        ledger.send(load, intents)
        worker.resume()
        live = intents / ledger.wait_posted()
    options = RelayOptions(endpoints.kafka_bootstrap, ledger.topics)
    relay = Relay(RelayStore(ledger.dsn), RelayEncoders.registered(endpoints.registry_url), options)
    relay.start()
    while relay.round():
        pass
    relay.close()
    target = make_conninfo(endpoints.postgres_dsn, dbname=f"{ledger.name}_replayed")
    try:
        with snapshot(ledger.dsn, "ledgerline_operator") as connection:
            frame = export_frame(connection)
        origin = Origin(endpoints.kafka_bootstrap, endpoints.registry_url, ledger.topics)
        done = replay(origin, target, frame)
        found = compare(target, ledger.dsn).difference
        if done.records != ledger.sent or found is not None:
            raise AssertionError(
                f"{done.records} of {ledger.sent} records were replayed, {found or 'without difference'}"
            )
    finally:
        drop_database(target)
        ledger.drop()
    replayed = done.records / done.seconds
    report(f"{live:,.0f} intents posted live / s, {replayed:,.0f} replayed / s: {replayed / live:.1f} times as fast")
    return live, replayed
