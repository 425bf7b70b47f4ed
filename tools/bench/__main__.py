"""`make bench`: measure one table of figures, each beside its limit and the value that it must reach.

Exit code 0: every figure held; 1: one did not; 2: wrong use, or a wrong result, such as an intent that was not posted.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cli.output import errors
from domain.errors import LedgerlineError
from ops.embedded.stack import EmbeddedStack, Endpoints
from runtime.settings import REPOSITORY_ROOT, Settings
from tools.bench.beside import measure_beside
from tools.bench.cluster import cluster_text, measured_costs
from tools.bench.endurance import measure_endurance
from tools.bench.figures import Figure
from tools.bench.http import measure_http
from tools.bench.loop import measure_loop
from tools.bench.outbox import measure_outbox
from tools.bench.plot import PANELS, plot
from tools.bench.posting import measure_posting, measure_two_workers
from tools.bench.replay import measure_replay
from tools.bench.table import (
    CLUSTER_MARK,
    DISK_MARK,
    TABLE_MARK,
    disk_table,
    markdown_table,
    read_figures,
    run_document,
    text_table,
    written_into,
)
from tools.bench.webhooks import measure_webhooks

ROUNDS: Final = 5
LOOP_MINUTES: Final = 1.0
ROWS: Final = 500_000
REPLAY_ROUNDS: Final = 2
REPLAY_INTENTS: Final = 200_000
# A ledger large enough for a fair replay: starting the processes and examining the topics takes 2 s of every replay.
REPLAY_INTENTS_LONG: Final = 1_000_000
REPLAY_ROUNDS_LONG: Final = 3
DOCUMENT: Final = REPOSITORY_ROOT / "docs" / "performance.md"

Report = Callable[[str], None]
Part = Callable[[Endpoints, argparse.Namespace, Report], list[Figure]]

PARTS: Final[dict[str, Part]] = {
    "posting": lambda endpoints, options, report: measure_posting(endpoints, options.rounds, report),
    "workers": lambda endpoints, options, report: measure_two_workers(endpoints, options.rounds, report),
    "loop": lambda endpoints, options, report: measure_loop(endpoints, options.minutes, report),
    "beside": lambda endpoints, _options, report: measure_beside(endpoints, report),
    "outbox": lambda endpoints, _options, report: measure_outbox(endpoints, report),
    "webhooks": lambda endpoints, _options, report: measure_webhooks(endpoints, report),
    "http": lambda endpoints, _options, report: measure_http(endpoints, report),
    "replay": lambda endpoints, options, report: measure_replay(
        endpoints, options.replay or REPLAY_INTENTS, REPLAY_ROUNDS_LONG if options.replay else REPLAY_ROUNDS, report
    ),
    "endurance": lambda endpoints, options, report: measure_endurance(endpoints, options.rows, report),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on parts that the bench starts, or on those that LEDGERLINE_* names, and return the exit code."""
    options = _parse(arguments)
    # On SIGTERM, exit as an exception does, so that everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    started = time.monotonic()

    def report(line: str) -> None:
        errors.print(f"[dim]{time.monotonic() - started:7.1f} s[/]  {line}", highlight=False, soft_wrap=True)

    try:
        if options.document:
            _write_document(read_figures(options.document))
            return 0
        with _parts(report) as endpoints:
            if options.plot:
                plot(endpoints, options.plot, options.panel or list(PANELS), report)
                return 0
            figures = _measure(endpoints, options, report)
    except LedgerlineError as error:
        errors.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2
    sys.stdout.write(text_table(figures) + "\n")
    return 0 if all(figure.held for figure in figures) else 1


def _write_document(figures: Sequence[Figure]) -> None:
    """Write the tables into DOCUMENT for which there are figures."""
    text = written_into(DOCUMENT.read_text(), TABLE_MARK, markdown_table(figures))
    for figure in figures:
        if figure.key == "disk_per_posting":
            text = written_into(text, DISK_MARK, disk_table(figure.detail["parts"]))
    costs = measured_costs(figures)
    if costs is not None:
        text = written_into(text, CLUSTER_MARK, cluster_text(costs))
    DOCUMENT.write_text(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part; repeat it for more")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of posting (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=LOOP_MINUTES, help="how long the whole loop runs (default %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="rows of the long run of one worker (default %(default)s)"
    )
    parser.add_argument(
        "--replay",
        type=int,
        nargs="?",
        const=REPLAY_INTENTS_LONG,
        metavar="INTENTS",
        help=f"measure the replay of so many intents ({REPLAY_INTENTS_LONG}), and only what --only names beside it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="instead, draw how cost grows: an .svg, and its .json"
    )
    parser.add_argument("--panel", action="append", choices=PANELS, help="of the plot, measure only this panel again")
    parser.add_argument(
        "--document",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"instead, write the figures of --json into {DOCUMENT.name}",
    )
    options = parser.parse_args(arguments)
    if options.rows < ROWS:
        parser.error(f"--rows takes {ROWS} or more: of fewer, growth cannot be told")
    return options


def _parts(report: Report) -> EmbeddedStack:
    given = Settings()
    return EmbeddedStack(
        given.home / "bench",
        cache=given.home / "cache",
        kafka=given.kafka_bootstrap,
        postgres=given.postgres_dsn.get_secret_value() if given.postgres_dsn else None,
        registry=given.registry_url,
        report=report,
    )


def _measure(endpoints: Endpoints, options: argparse.Namespace, report: Report) -> list[Figure]:
    wanted = [*(options.only or ()), *(["replay"] if options.replay else [])] or PARTS
    figures: list[Figure] = []
    for name in PARTS:
        if name in wanted:
            report(f"[bold]{name}[/]")
            found = PARTS[name](endpoints, options, report)
            for figure in found:
                report(f"{figure.name}: {'held' if figure.held else 'NOT held'}{_costs(figure)}")
            figures += found
            if options.json:  # after each part: a later failure loses nothing
                options.json.write_text(json.dumps(run_document(figures), indent=2) + "\n")
    return figures


def _costs(figure: Figure) -> str:
    """Return the processor time that explains a figure, for the progress log."""
    each = figure.detail.get("processor_us_per_intent")
    return "" if not each else f"; processor us each: {', '.join(f'{name} {used}' for name, used in each.items())}"


if __name__ == "__main__":
    sys.exit(main())
