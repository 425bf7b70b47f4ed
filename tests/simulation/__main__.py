"""Explore random interleavings: `python -m tests.simulation --seed 1 --minutes 5` (or --runs N), or `make simulate`.

It prints the number of interleavings a minute. For the first failing run it prints the seed, the shortest plan that
fails the same way, and the story of that plan. The exit code is 1 after a failure, and 0 if every invariant held.
"""

import argparse
import sys
import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.shrinking import Shrinker
from tests.simulation.world import Parts, Result, quiet, run_seed

RUNS_A_LOOK = 50
console = Console(soft_wrap=True, highlight=False)


def explore(seed: int, runs: int, seconds: float) -> tuple[Counter[str], Result | None, int]:
    """Run one seed after another until the runs or the seconds are over, or a run fails.

    Return the counts, the failing result or None, and its seed.
    """
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = progress.add_task("interleavings", total=runs or None)
        for number in range(seed, seed + runs) if runs else iter(lambda: seed + counts["runs"], None):
            result = run_seed(number)
            counts["runs"] += 1
            counts["steps"] += result.steps
            counts["faults"] += sum(choice.what != "switch" for choice in result.plan.choices)
            counts.update(f"fate {fate}" for fate in result.fates)
            if result.violation is not None:
                return counts, result, number
            if counts["runs"] % RUNS_A_LOOK == 0:
                progress.update(shown, completed=counts["runs"])
                if time.monotonic() > deadline:
                    break
    return counts, None, 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Explore posting and relay.")
    parser.add_argument("--seed", type=int, default=0, help="the first run's seed; each run has the next (default 0)")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--runs", type=int, default=0, help="so many runs")
    bound.add_argument("--minutes", type=float, default=1.0, help="for so long (default 1)")
    asked = parser.parse_args(arguments)
    began, processor_began = time.monotonic(), time.process_time()
    with quiet():
        counts, failed, seed = explore(asked.seed, asked.runs, float("inf") if asked.runs else asked.minutes * 60)
        minutes, processor_minutes = (time.monotonic() - began) / 60, (time.process_time() - processor_began) / 60
        console.print(
            f"{counts['runs']} interleavings from seed {asked.seed} on, {counts['runs'] / minutes:.0f} a minute,"
            f" {counts['runs'] / processor_minutes:.0f} a minute of processor time;"
            f" {counts['steps']} steps, {counts['faults']} faults."
        )
        fates = {name.removeprefix("fate "): n for name, n in sorted(counts.items()) if name.startswith("fate ")}
        console.print(f"Fates: {', '.join(f'{name} {count}' for name, count in fates.items())}.", markup=False)
        if failed is None:
            console.print("All invariants held.")
            return 0
        shortest = Shrinker(failed, Parts()).shrink()
    console.print(f"\nSeed {seed}: {failed.violation}\n\nThe least that fails the same way, as a test:\n", markup=False)
    console.print(repr(shortest.plan), markup=False)
    console.print("\nIts story:\n" + "\n".join(f"  {sentence}" for sentence in shortest.story), markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
