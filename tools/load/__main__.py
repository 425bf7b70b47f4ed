"""`make load`: put a ledger under load with k6, and compare every promise with what reconciliation found.

Exit code 0: everything held; 1: something did not; 2: wrong use, or a suite that could not be run or judged.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from rich.markup import escape

from cli.context import read_settings
from cli.output import errors, open_progress_bar, show_json
from domain.errors import LedgerlineError
from runtime.settings import Settings
from tools.load.hostile import run_hostile
from tools.load.ledger import LoadLedger, Report, named_ledger, own_ledger
from tools.load.report import broken, markdown, run_document, text_table
from tools.load.runner import Result, calibrate, run_suite
from tools.load.suites import DEFAULTS, SUITES, Plan

INTERRUPTED: Final = 130
HOSTILE: Final = "hostile"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run suites on their own ledger, or on the one that LEDGERLINE_* names, and return the exit code."""
    options = _parse(arguments)
    # On SIGTERM, exit as an exception does, so that everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    started = time.monotonic()

    def report(line: str) -> None:
        errors.print(f"[dim]{time.monotonic() - started:7.1f} s[/]  {escape(line)}", highlight=False, soft_wrap=True)

    try:
        settings = read_settings()
        if options.suite == [HOSTILE]:
            table, held = run_hostile(settings.home.resolve(), report)
            sys.stdout.write(f"{table}\n")
            return 0 if held else 1
        options.report = options.report or settings.home / "load-report.md"
        with _target(settings, report) as target:
            plan, results = _run(options, target, report)
    except LedgerlineError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("[yellow]Interrupted: everything that was started is stopped.[/]")
        return INTERRUPTED
    if options.json and str(options.json) == "-":
        show_json(run_document(plan, results))
    else:
        sys.stdout.write(text_table(plan, results) + "\n")
    return 0 if all(result.held for result in results) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.load", description=__doc__)
    parser.add_argument(
        "--suite", action="append", choices=[*SUITES, HOSTILE, "all"],
        help=f"run this suite, or several; {', '.join(DEFAULTS)} if left out; {HOSTILE} runs alone",
    )  # fmt: skip
    parser.add_argument("--minutes", type=_positive, help="how long load and soak run (1 and 10 if left out)")
    parser.add_argument(
        "--rate", type=_positive, help="single posts a second that the machine can take; measured if left out"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to this file; - prints them in place of the table"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the report to this file, in Markdown; load-report.md in home if left out",
    )
    options = parser.parse_args(arguments)
    if HOSTILE in (options.suite or ()):
        if options.suite != [HOSTILE]:
            parser.error(f"the suite {HOSTILE} runs alone: it needs a ledger that nobody else asks")
        if options.minutes or options.rate or options.json or options.report:
            parser.error(f"the suite {HOSTILE} takes no other option: its times and its rate are fixed")
    return options


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


@contextmanager
def _target(settings: Settings, report: Report) -> Iterator[LoadLedger]:
    """Yield the ledger that the settings name, or one that is started for this run."""
    if settings.api_url is not None:
        with nullcontext(named_ledger()) as target:
            report(f"the ledger at {target.url}")
            yield target
        return
    home = settings.home.resolve()
    with own_ledger(home / "load", home / "cache", report) as target:
        yield target


def _run(options: argparse.Namespace, target: LoadLedger, report: Report) -> tuple[Plan, list[Result]]:
    names = options.suite or DEFAULTS
    suites = [suite for name, suite in SUITES.items() if name in names or "all" in names]
    results: list[Result] = []
    with open_progress_bar() as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=round(done), total=round(total))

        plan = calibrate(target, options.minutes, progress)
        report(
            f"calibration: {plan.posts_per_second:,.0f} single posts a second; a lone one takes {plan.slowness:.1f}"
            " times as long as on a machine with nothing else to do"
        )
        if options.rate is not None:
            plan = plan._replace(posts_per_second=options.rate)
        for suite in suites:
            report(f"{suite.name}: {suite.about}")
            result = run_suite(suite, plan, target, progress)
            results.append(result)
            for line in broken(result) or [
                f"{suite.name}: {len(result.checks)} checks hold; {result.acknowledged:,} acknowledged,"
                f" {result.posted:,} posted, all of them found by reconciliation"
            ]:
                report(line)
            if options.json and str(options.json) != "-":  # after each suite: a later failure loses nothing
                options.json.write_text(json.dumps(run_document(plan, results), indent=2) + "\n")
            options.report.write_text(markdown(plan, results))
    report(f"the report is {options.report}")
    return plan, results


if __name__ == "__main__":
    sys.exit(main())
