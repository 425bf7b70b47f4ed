"""`python -m tools.chaos`: break every part of a running Ledgerline under load, and judge the result.

Exit code 0: every scenario passed; 1: one did not; 2: wrong use.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from runtime.settings import Settings
from tools.chaos.deployment import Deployment
from tools.chaos.runner import Result, choose_one_of_each_kind, run_all, schedule
from tools.chaos.scenarios.catalog import SCENARIOS
from tools.chaos.scenarios.scenario import Scenario

SEED: Final = "2026"
console: Final = Console(emoji=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios and return the exit code."""
    options = _parse(arguments)
    if options.list:
        for scenario in SCENARIOS:
            console.print(f"{scenario.name}: {scenario.promise}")
        return 0
    wanted = choose_one_of_each_kind(options.seed) if options.kinds else _chosen(options.only)
    started = time.monotonic()

    def report(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:7.1f} s[/]  {line}", markup=True, soft_wrap=True)

    again = f"make chaos SEED={options.seed}{' KINDS=1' if options.kinds else ''}"
    console.print(f"seed {options.seed}: repeat this run with `{again}`")
    folder = Path(tempfile.mkdtemp(prefix="ledgerline-chaos-"))
    folder.chmod(0o755)  # Postgres runs as its own user and must enter
    results: list[Result] = []
    with Deployment(folder, Settings().home / "cache", report) as deployment:
        for result in run_all(deployment, schedule(wanted, options.seed, options.minutes), report):
            results.append(result)
            report("passed" if result.passed else f"[bold red]FAILED[/] {result.faults[0]}")
            for fault in result.faults[1:10]:
                report(f"  {fault}")
    _show(results)
    failed = [result for result in results if not result.passed]
    if options.json:
        document = {"seed": options.seed, "results": [result.document() for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    for result in failed:
        seed = result.seed.rpartition("/")[0]
        # Print the fault again: the end of a long log must show it.
        console.print(f"[bold red]FAILED[/] {result.scenario}: {result.faults[0]}", soft_wrap=True)
        console.print(f"repeat: make chaos SEED={seed} ONLY={result.scenario}; logs: {folder}")
    if failed:
        return 1
    shutil.rmtree(folder)
    console.print(f"{len(results)} scenarios passed in {(time.monotonic() - started) / 60:.1f} minutes.")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument(
        "--seed", default=SEED, help="chooses the order, the moments and the load (default %(default)s)"
    )
    parser.add_argument("--minutes", type=float, help="repeat passes for so many minutes; one pass if left out")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run only this scenario; repeat it for more"
    )
    chosen.add_argument("--kinds", action="store_true", help="run one scenario of each kind, which the seed chooses")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--list", action="store_true", help="list the scenarios and their promises")
    return parser.parse_args(arguments)


def _chosen(names: Sequence[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            console.print(f"There is no scenario {name!r}: choose from {', '.join(known)}.")
            sys.exit(2)
    return [known[name] for name in names] or list(SCENARIOS)


def _show(results: Sequence[Result]) -> None:
    table = Table(title="Seconds until new intents were acknowledged, posted and proved again", title_justify="left")
    table.add_column("scenario")
    for name in ("seconds", "offsets", "acknowledged", "posted", "proved", "verdict"):
        table.add_column(name, justify="right")
    for result in results:
        recovery = [f"{seconds:.1f}" for seconds in result.recovery] if result.recovery else ["", "", ""]
        verdict = "held" if result.passed else "[bold red]FAILED[/]"
        offsets = str(result.counts.get("offsets", ""))
        table.add_row(result.scenario, f"{result.seconds:.0f}", offsets, *recovery, verdict)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
