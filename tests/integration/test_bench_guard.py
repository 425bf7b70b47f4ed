"""A short bench that fails if posting costs more than it did.

The guarded value is a ratio of processor times for each intent. The numerator is posting: the worker and its Postgres
backend. The denominator is the bare limit: a client and its backend that COPY the same rows in the same minute. Both
count seconds of work, not of waiting. Other users of the cores therefore only make the caches colder, for both alike.
Both use the same libraries on the same data, so a faster or slower machine changes both alike.

A ratio of rates would need a very loose bound to survive a busy machine. It is checked only for what processor time
does not show: a worker that waits, for example because it sleeps or commits each intent by itself. So its floor is low.
"""

from typing import Final

import pytest

from ops.embedded.stack import Endpoints
from tools.bench.bare import BareRun
from tools.bench.ledger import bench_ledger
from tools.bench.loads import opening, random_load
from tools.bench.rounds import MeasuredRound, Round, run_measured_round, warm_up

ROUNDS: Final = 2
ROUND_INTENTS: Final = 20_000
# Measured: from 2.9 to 3.4, both without other load and with ten processes that compete for two cores.
PROCESSOR_RATIO_MAX: Final = 5.0
# Measured: from 0.3 to 0.8 on a busy machine.
RATE_RATIO_MIN: Final = 0.1


def posting_seconds(done: Round) -> float:
    """Return the processor seconds of the worker and of its own backend."""
    return done.processor_seconds["worker 1"] + done.processor_seconds["postgres posting"]


def processor_ratio(done: MeasuredRound) -> float:
    """Return posting's processor time divided by that of its bare rows."""
    return posting_seconds(done.posting) / sum(done.bare.processor_seconds.values())


@pytest.fixture(scope="module")
def rounds(stack: Endpoints) -> list[MeasuredRound]:
    """Run some short rounds between random accounts."""
    load = random_load(1)
    with bench_ledger(stack) as ledger, ledger.workers() as workers:
        bare = warm_up(ledger, opening(), (load, ROUND_INTENTS // 2))
        return [run_measured_round(ledger, bare, workers, load, ROUND_INTENTS) for _ in range(ROUNDS)]


def test_posting_costs_no_more_than_it_did(rounds: list[MeasuredRound]) -> None:
    """The best round counts, because noise only adds processor time."""
    if not rounds[0].bare.processor_seconds["postgres"]:
        pytest.skip("Postgres runs elsewhere: its processor time cannot be seen")
    assert min(processor_ratio(done) for done in rounds) < PROCESSOR_RATIO_MAX


def test_posting_does_not_wait(rounds: list[MeasuredRound]) -> None:
    """The best round counts here too, because noise only lowers the rate."""
    assert max(posting / bare for posting, bare in (done.rates for done in rounds)) > RATE_RATIO_MIN


def test_a_dearer_worker_would_be_noticed() -> None:
    """A test of the guard itself: a usual worker stays below the bound, and one with twice the work exceeds it."""
    used = {"worker 1": 1.0, "postgres posting": 0.7, "kafka": 9.0}
    bare = BareRun(20_000, 0.6, {"client": 0.3, "postgres": 0.3})
    usual = MeasuredRound(Round(20_000, 1.4, used, {}, {}), bare)
    dearer = MeasuredRound(Round(20_000, 2.8, {**used, "worker 1": 2.0, "postgres posting": 1.4}, {}, {}), bare)
    assert processor_ratio(usual) < PROCESSOR_RATIO_MAX < processor_ratio(dearer)
