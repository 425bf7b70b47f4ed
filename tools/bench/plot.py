"""Plot how the cost grows with batch size, number of accounts, size of the journal and number of workers.

Each panel is measured separately. Its points are kept in a JSON file beside the picture, so that one panel can be
measured again without the others.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ops.embedded.stack import Endpoints
from tools.bench.figures import median_ratio
from tools.bench.ledger import LANES, bench_ledger
from tools.bench.loads import ACCOUNTS, opening, random_load
from tools.bench.posting import WARM_INTENTS, Report
from tools.bench.rounds import MeasuredRound, run_measured_round, warm_up

POINT_ROUNDS: Final = 3
POINT_INTENTS: Final = 20_000
BATCH_SIZES: Final = (100, 300, 1000, 2000, 5000, 10_000)
ACCOUNT_COUNTS: Final = (100, 1000, 10_000, 100_000)
WORKER_COUNTS: Final = tuple(range(1, LANES + 1))
JOURNAL_ROUNDS: Final = 20
RATIO_COLOUR: Final = "#1f5fa8"
PROCESSOR_COLOUR: Final = "#c2571a"


class Point(NamedTuple):
    """One measurement. `at` is the value of the quantity that the panel varies."""

    at: float
    ratio: float
    """The rate divided by the bare limit of the same rows in the same minute."""
    processor_us: float
    """Processor microseconds of the workers and their Postgres backends for each posting."""


class Panel(NamedTuple):
    """A part of the plot: the quantity that it varies, and its measurement."""

    title: str
    label: str
    is_logarithmic: bool
    measure: Callable[[Endpoints], Iterator[Point]]


def _point(at: float, rounds: Sequence[MeasuredRound]) -> Point:
    names = ("worker", "postgres posting")
    seconds = sum(
        used for one in rounds for name, used in one.posting.processor_seconds.items() if name.startswith(names)
    )
    intents = sum(one.posting.intents for one in rounds)
    return Point(at, median_ratio([one.rates for one in rounds]), seconds / intents * 1e6)


def _measured(
    endpoints: Endpoints, at: float, *, workers: int = 1, accounts: int = ACCOUNTS, **variables: str
) -> Point:
    load = random_load(8, accounts)
    with bench_ledger(endpoints) as ledger, ledger.workers(workers, **variables) as running:
        bare = warm_up(ledger, opening(accounts), (load, WARM_INTENTS))
        return _point(at, [run_measured_round(ledger, bare, running, load, POINT_INTENTS) for _ in range(POINT_ROUNDS)])


def _batches(endpoints: Endpoints) -> Iterator[Point]:
    for size in BATCH_SIZES:
        yield _measured(endpoints, size, LEDGERLINE_POSTING_BATCH_INTENTS_MAX=str(size))


def _accounts(endpoints: Endpoints) -> Iterator[Point]:
    for count in ACCOUNT_COUNTS:
        yield _measured(endpoints, count, accounts=count)


def _workers(endpoints: Endpoints) -> Iterator[Point]:
    for count in WORKER_COUNTS:
        yield _measured(endpoints, count, workers=count)


def _journal(endpoints: Endpoints) -> Iterator[Point]:
    load = random_load(9)
    with bench_ledger(endpoints) as ledger, ledger.workers() as running:
        bare = warm_up(ledger, opening(), (load, WARM_INTENTS))
        for _ in range(JOURNAL_ROUNDS):
            done = run_measured_round(ledger, bare, running, load)
            yield _point(ledger.sent, [done])


PANELS: Final = {
    "batches": Panel("batch size", "intents in one posting transaction, at most", True, _batches),
    "accounts": Panel("accounts", "accounts that the transfers are between", True, _accounts),
    "journal": Panel("size of the journal", "rows in the journal", False, _journal),
    "workers": Panel("workers", f"workers on the same two cores, {LANES} lanes", False, _workers),
}


def plot(endpoints: Endpoints, picture: Path, panels: Sequence[str], report: Report) -> None:
    """Measure these panels, keep their points beside the picture, and draw all panels that have points."""
    kept = picture.with_suffix(".json")
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in panels:
        points = []
        for point in PANELS[name].measure(endpoints):
            report(f"{name} {point.at:,.0f}: {point.ratio:.2f} of bare, {point.processor_us:.1f} us of processor time")
            points.append(point._asdict())
        known[name] = points
        kept.write_text(json.dumps(known, indent=1) + "\n")
    draw(known, picture)


def draw(known: dict[str, list[dict[str, float]]], picture: Path) -> None:
    """Draw the points of each panel into a picture file, in the format of the file's suffix."""
    # matplotlib is installed for developers only, and takes a second to import.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415

    # The same points give the same file; text stays text.
    mpl.rcParams.update({"svg.hashsalt": "ledgerline", "svg.fonttype": "none", "font.size": 9})
    drawn = Picture(figsize=(9.0, 6.2), layout="constrained")
    for axes, (name, panel) in zip(drawn.subplots(2, 2).flat, PANELS.items(), strict=True):
        points = known.get(name)
        if not points:
            axes.set_axis_off()  # not measured yet
            continue
        at = [point["at"] for point in points]
        axes.plot(at, [point["ratio"] for point in points], "o-", color=RATIO_COLOUR, markersize=4)
        axes.set(title=panel.title, xlabel=panel.label, ylim=(0, 1))
        axes.set_ylabel("ratio to the bare limit", color=RATIO_COLOUR)
        axes.grid(visible=True, alpha=0.3)
        beside = axes.twinx()
        costs = [point["processor_us"] for point in points]
        beside.plot(at, costs, "s--", color=PROCESSOR_COLOUR, markersize=4)
        beside.set_ylabel("processor time, µs each", color=PROCESSOR_COLOUR)
        beside.set_ylim(0, 1.3 * max(costs))
        if panel.is_logarithmic:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        if name == "workers":
            axes.set_xticks(WORKER_COUNTS)
        else:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    drawn.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)
