"""Posting from Kafka to the committed journal, compared with the bare limit.

The loads have random, hot and constrained accounts, with one worker, and random accounts with two workers.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import psutil

from ops.embedded.stack import Endpoints
from tools.bench.figures import Figure, median_ratio
from tools.bench.ledger import BenchFault, BenchLedger, bench_ledger
from tools.bench.loads import constrained_load, funds, hot_constrained_load, hot_load, opening, overdraft, random_load
from tools.bench.rounds import MeasuredRound, Round, processor_us, run_measured_round, run_round, warm_up

RATIO_RANDOM_MIN: Final = 0.50
RATIO_CONSTRAINED_MIN: Final = 0.45
RATIO_TWO_WORKERS_MIN: Final = 0.55
RATIO_HOT_MIN: Final = 0.95
RATIO_HOT_CONSTRAINED_MIN: Final = 0.85

WARM_INTENTS: Final = 20_000

Report = Callable[[str], None]


def measure_posting(endpoints: Endpoints, rounds: int, report: Report) -> list[Figure]:
    """Measure one worker. Each round posts to random accounts and to a hot one, first without and then with floors."""
    plain: list[MeasuredRound] = []
    floored: list[MeasuredRound] = []
    hot: list[Round] = []
    hot_floored: list[Round] = []
    loads = random_load(1), hot_load(2), constrained_load(3), hot_constrained_load(4)
    with bench_ledger(endpoints) as ledger, ledger.workers() as workers:
        warm_up(ledger, opening(), *funds())  # fund the accounts first: other lanes draw them down
        bare = warm_up(ledger, *((load, WARM_INTENTS) for load in loads))
        for number in range(rounds):
            plain.append(run_measured_round(ledger, bare, workers, loads[0]))
            hot.append(run_round(ledger, workers, loads[1], plain[-1].posting.intents))
            floored.append(run_measured_round(ledger, bare, workers, loads[2]))
            hot_floored.append(run_round(ledger, workers, loads[3], floored[-1].posting.intents))
            report(
                f"round {number + 1} of {rounds}: {plain[-1].posting.per_second:,.0f} posted/s of"
                f" {plain[-1].bare.per_second:,.0f} bare, {hot[-1].per_second:,.0f} hot;"
                f" with floors {floored[-1].posting.per_second:,.0f} of {floored[-1].bare.per_second:,.0f},"
                f" {hot_floored[-1].per_second:,.0f} hot"
            )
        require_floors(ledger)
    return [
        _beside_bare("posting_random", "posted, 1 worker, random accounts", plain, RATIO_RANDOM_MIN),
        _beside_bare("posting_constrained", "posted, all accounts with floors", floored, RATIO_CONSTRAINED_MIN),
        _beside_random("posting_hot", "posted, one hot account", hot, plain, RATIO_HOT_MIN),
        _beside_random(
            "posting_hot_constrained", "posted, one hot account with floor", hot_floored, floored,
            RATIO_HOT_CONSTRAINED_MIN,
        ),
    ]  # fmt: skip


def measure_two_workers(endpoints: Endpoints, rounds: int, report: Report) -> list[Figure]:
    """Measure two workers with two lanes each, with transfers between random accounts."""
    done: list[MeasuredRound] = []
    load = random_load(5)
    with bench_ledger(endpoints) as ledger, ledger.workers(2) as workers:
        bare = warm_up(ledger, opening(), (load, WARM_INTENTS))
        for number in range(rounds):
            done.append(run_measured_round(ledger, bare, workers, load))
            _require_both(done[-1].posting, workers)
            report(
                f"two workers, round {number + 1} of {rounds}: {done[-1].posting.per_second:,.0f} posted/s of"
                f" {done[-1].bare.per_second:,.0f} bare"
            )
    return [_beside_bare("posting_two_workers", "posted, 2 workers", done, RATIO_TWO_WORKERS_MIN)]


def require_floors(ledger: BenchLedger) -> None:
    """Raise BenchFault unless the ledger rejects a draw below a floor: else it did not check floors before either."""
    first_seqs = ledger.next_seqs()
    ledger.send(overdraft(), 1)
    ledger.wait_posted()
    outcomes = ledger.outcomes(first_seqs)
    if outcomes != {"rejected": 1}:
        raise BenchFault(f"A transfer of more than the account holds should be rejected, but became {outcomes}.")


def _require_both(done: Round, workers: Sequence[psutil.Process]) -> None:
    used = [done.processor_seconds[f"worker {number + 1}"] for number in range(len(workers))]
    if min(used) < max(used) / 10:
        raise BenchFault(f"Not all workers worked: they used {used} processor seconds.")


def _beside_bare(key: str, name: str, rounds: Sequence[MeasuredRound], reach: float) -> Figure:
    return Figure(
        key,
        name,
        median(one.posting.per_second for one in rounds),
        "/s",
        reach,
        limit=median(one.bare.per_second for one in rounds),
        ratio=median_ratio([one.rates for one in rounds]),
        detail={"rounds": [one.rates for one in rounds]}
        | processor_us([one.posting for one in rounds])
        | {f"bare_{name}": used for name, used in processor_us([one.bare for one in rounds]).items()},
    )


def _beside_random(key: str, name: str, hot: Sequence[Round], others: Sequence[MeasuredRound], reach: float) -> Figure:
    pairs = [(one.per_second, other.posting.per_second) for one, other in zip(hot, others, strict=True)]
    return Figure(
        key,
        name,
        median(one for one, _ in pairs),
        "/s",
        reach,
        limit=median(other for _, other in pairs),
        ratio=median_ratio(pairs),
        detail={"rounds": pairs} | processor_us(hot),
    )
