"""A round: fill the topic while the workers are suspended, and measure from their resumption to the last commit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import psutil

from tools.bench.bare import BareLimit, BareRun
from tools.bench.ledger import BenchFault, BenchLedger
from tools.bench.loads import Load
from tools.bench.processor_time import microseconds_each, used_since

ROUND_INTENTS: Final = 50_000
# A worker suspended for 10 s is removed from its consumer group. Sending so many intents takes a fraction of that.
ROUND_INTENTS_MAX: Final = 100_000


class Round(NamedTuple):
    """The time of one round, and the spans of the lanes that it posted."""

    intents: int
    seconds: float
    processor_seconds: dict[str, float]
    first_seqs: dict[int, int]
    next_seqs: dict[int, int]

    @property
    def per_second(self) -> float:
        """Intents a second."""
        return self.intents / self.seconds


class MeasuredRound(NamedTuple):
    """A round with the bare limit of its own rows, measured right after it."""

    posting: Round
    bare: BareRun

    @property
    def rates(self) -> tuple[float, float]:
        """Intents a second, of posting and of the bare limit."""
        return self.posting.per_second, self.bare.per_second


@contextmanager
def standing_still(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Suspend the processes within the block."""
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            process.resume()


def run_round(ledger: BenchLedger, workers: Sequence[psutil.Process], load: Load, intents: int) -> Round:
    """Fill the topic while the workers are suspended, and wait for the posting. Raise BenchFault for other outcomes."""
    if intents > ROUND_INTENTS_MAX:
        raise ValueError(f"a round has at most {ROUND_INTENTS_MAX} intents")
    first_seqs = ledger.next_seqs()
    with standing_still(workers):
        ledger.send(load, intents)
        before = ledger.processor_time.seconds()
    seconds = ledger.wait_posted()
    used = used_since(before, ledger.processor_time.seconds())
    require_posted(ledger, first_seqs, intents)
    return Round(intents, seconds, used, first_seqs, ledger.next_seqs())


def run_measured_round(
    ledger: BenchLedger, bare: BareLimit, workers: Sequence[psutil.Process], load: Load, intents: int = ROUND_INTENTS
) -> MeasuredRound:
    """Run a round, and right after it measure the bare limit of the same rows."""
    done = run_round(ledger, workers, load, intents)
    return MeasuredRound(done, bare.measure(done.first_seqs, done.next_seqs))


def warm_up(ledger: BenchLedger, *loads: tuple[Load, int]) -> BareLimit:
    """Post loads that open the accounts, create their balances and warm the workers. Return a warm bare limit.

    None of this is measured.
    """
    first_seqs = ledger.next_seqs()
    for load, intents in loads:
        ledger.send(load, intents)
    ledger.wait_posted()
    require_posted(ledger, first_seqs, sum(intents for _, intents in loads))
    bare = BareLimit(ledger.dsn)
    bare.measure(first_seqs, ledger.next_seqs())
    return bare


def require_posted(ledger: BenchLedger, first_seqs: Mapping[int, int], intents: int) -> None:
    """Raise BenchFault unless the rows from these sequence numbers on are exactly `intents` posted ones."""
    outcomes = ledger.outcomes(first_seqs)
    if outcomes != {"posted": intents}:
        raise BenchFault(f"The bench's {intents:,} intents should all be posted, and became {outcomes}.")


def processor_us(runs: Sequence[Round | BareRun]) -> dict[str, dict[str, float]]:
    """Return processor microseconds of each process for each intent over all runs, for a figure's detail."""
    total: dict[str, float] = {}
    for run in runs:
        for name, seconds in run.processor_seconds.items():
            total[name] = total.get(name, 0.0) + seconds
    return {"processor_us_per_intent": microseconds_each(total, sum(run.intents for run in runs))}
