"""Posting from Kafka to committed journal, beside the bare limit and with one hot account; and a worker's memory."""

import random
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final, NamedTuple

import psutil

from ops.bench.bare import BareLimit
from ops.bench.ledger import LANES, BenchLedger, Pair
from ops.embedded.stack import Endpoints

ACCOUNTS: Final = 10_000
ROUND_INTENTS: Final = 20_000


class PostingFigures(NamedTuple):
    """Medians over the rounds."""

    posting_per_second: float
    bare_per_second: float
    hot_per_second: float
    ratio_to_bare: float
    ratio_hot_to_random: float


def random_pairs(seed: int) -> Iterator[Pair]:
    """Transfers between random accounts of ACCOUNTS, none of them constrained."""
    draw = random.Random(seed)  # noqa: S311 - a seeded load, no secret
    while True:
        yield f"assets:a{draw.randrange(ACCOUNTS)}", f"liabilities:b{draw.randrange(ACCOUNTS)}"


def hot_pairs(seed: int) -> Iterator[Pair]:
    """The same with one account on every transfer."""
    for debited, _ in random_pairs(seed):
        yield debited, "liabilities:hot"


def measure_posting(endpoints: Endpoints, rounds: int, report: Callable[[str], None]) -> PostingFigures:
    """Rounds of random accounts, bare rows, hot account, in turn, so that each pair of figures shares its moment."""
    ledger = BenchLedger(endpoints)
    random_load, hot_load = random_pairs(1), hot_pairs(2)
    posting: list[float] = []
    bare: list[float] = []
    hot: list[float] = []
    with ledger.service("posting") as worker:
        bare_limit = BareLimit(ledger.dsn)
        ledger.send(random_load, ROUND_INTENTS)  # opens the accounts and warms the worker
        ledger.wait_posted()
        for number in range(rounds):
            first_seq = ledger.sent // LANES
            posting.append(_rate(ledger, worker, random_load))
            batches = bare_limit.rows(first_seq, ledger.sent // LANES)
            bare.append(ROUND_INTENTS / bare_limit.seconds(batches))
            hot.append(_rate(ledger, worker, hot_load))
            report(
                f"round {number + 1} of {rounds}:"
                f" {posting[-1]:,.0f} posted/s, {bare[-1]:,.0f} bare/s, {hot[-1]:,.0f} hot/s"
            )
    ledger.drop()
    return PostingFigures(
        median(posting),
        median(bare),
        median(hot),
        median(one / other for one, other in zip(posting, bare, strict=True)),
        median(one / other for one, other in zip(hot, posting, strict=True)),
    )


def _rate(ledger: BenchLedger, worker: psutil.Process, load: Iterator[Pair]) -> float:
    """Intents a second, from a topic that holds them all to the last commit; the worker stands still while it fills."""
    worker.suspend()
    ledger.send(load, ROUND_INTENTS)
    worker.resume()
    return ROUND_INTENTS / ledger.wait_posted()


def measure_memory(endpoints: Endpoints, intents: int, report: Callable[[str], None]) -> int:
    """The largest resident memory, in bytes, of one posting worker through so many intents."""
    ledger = BenchLedger(endpoints)
    load = random_pairs(3)
    largest = 0
    with ledger.service("posting") as worker:

        def watch() -> None:
            nonlocal largest
            largest = max(largest, worker.memory_info().rss)

        while ledger.sent < intents:
            ledger.send(load, min(50_000, intents - ledger.sent))
            ledger.wait_posted(watch)
            report(f"{ledger.sent:,} intents posted, {largest / 1e6:,.0f} MB at most")
    ledger.drop()
    return largest
