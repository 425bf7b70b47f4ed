"""`make bench`: a plain table of figures, each beside its baseline.

`--memory N` measures a worker's memory instead, `--replay N` a replay beside live posting.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from domain.errors import LedgerlineError
from domain.settings import Settings
from ops.bench.http import FIXED_RATE, HttpFigures, measure_http
from ops.bench.posting import ROUND_INTENTS, PostingFigures, measure_memory, measure_posting
from ops.bench.replay import ReplayFigures, measure_replay
from ops.cli.output import errors
from ops.embedded.stack import EmbeddedStack, Endpoints

# What the spine promises; a later release asks for more.
RATIO_TO_BARE_MIN = 0.25
RATIO_HOT_MIN = 0.7
RATIO_REPLAY_MIN = 3.0
# Of a ledger that is worth a replay: starting its processes and learning what is there takes 2 s of any.
REPLAY_INTENTS = 1_000_000
WORKER_BYTES_MAX = 300_000_000


def main() -> int:
    """Measure on parts of the bench's own (or those that LEDGERLINE_* names); 1 where a figure falls short."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help=f"rounds of {ROUND_INTENTS:,} intents each")
    parser.add_argument("--memory", type=int, metavar="INTENTS", help="post so many and watch the worker's memory")
    parser.add_argument(
        "--replay",
        type=int,
        nargs="?",
        const=REPLAY_INTENTS,
        metavar="INTENTS",
        help=f"post so many ({REPLAY_INTENTS:,}), and replay their journal",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    given = Settings()
    parts = EmbeddedStack(
        given.home / "bench",
        cache=given.home / "cache",
        kafka=given.kafka_bootstrap,
        postgres=given.postgres_dsn.get_secret_value() if given.postgres_dsn else None,
        registry=given.registry_url,
        report=_report,
    )
    try:
        with parts:
            return measure(parts.start(), options)
    except LedgerlineError as error:
        errors.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2


def measure(endpoints: Endpoints, options: argparse.Namespace) -> int:
    """Run what was asked for and print it; returns the exit code."""
    if options.memory:
        largest = measure_memory(endpoints, options.memory, _report)
        rows = [("resident memory of a worker, MB", f"{largest / 1e6:,.0f}", "under 300", largest < WORKER_BYTES_MAX)]
        _show(rows, {"worker_bytes_max": largest}, as_json=options.json)
        return 0 if largest < WORKER_BYTES_MAX else 1
    if options.replay:
        replay = measure_replay(endpoints, options.replay, _report)
        held = replay.ratio_to_live >= RATIO_REPLAY_MIN
        _show(_replay_rows(replay, held), replay._asdict(), as_json=options.json)
        return 0 if held else 1
    posting = measure_posting(endpoints, options.rounds, _report)
    http = measure_http(endpoints)
    held = posting.ratio_to_bare >= RATIO_TO_BARE_MIN and posting.ratio_hot_to_random >= RATIO_HOT_MIN
    _show(_rows(posting, http), posting._asdict() | http._asdict(), as_json=options.json)
    return 0 if held else 1


def _rows(posting: PostingFigures, http: HttpFigures) -> list[tuple[str, str, str, bool | None]]:
    return [
        ("posted / s, random accounts (Kafka to commit)", f"{posting.posting_per_second:,.0f}", "", None),
        ("bare COPY and upsert / s, the same rows", f"{posting.bare_per_second:,.0f}", "", None),
        ("ratio to the bare limit", f"{posting.ratio_to_bare:.2f}", f">= {RATIO_TO_BARE_MIN}",
         posting.ratio_to_bare >= RATIO_TO_BARE_MIN),
        ("posted / s, one hot account", f"{posting.hot_per_second:,.0f}", "", None),
        ("ratio of hot to random accounts", f"{posting.ratio_hot_to_random:.2f}", f">= {RATIO_HOT_MIN}",
         posting.ratio_hot_to_random >= RATIO_HOT_MIN),
        ("single posts / s over HTTP, 16 connections", f"{http.requests_per_second:,.0f}", "", None),
        ("  their p95, ms", f"{http.p95_ms_flat_out:.1f}", "", None),
        (f"single posts at {FIXED_RATE} / s: median, ms", f"{http.median_ms:.1f}", "", None),
        (f"single posts at {FIXED_RATE} / s: p95, ms", f"{http.p95_ms:.1f}", "", None),
    ]  # fmt: skip


def _replay_rows(replay: ReplayFigures, held: bool) -> list[tuple[str, str, str, bool | None]]:
    return [
        ("posted live / s, one worker", f"{replay.live_per_second:,.0f}", "", None),
        ("replayed / s, first look to last commit", f"{replay.replay_per_second:,.0f}", "", None),
        ("ratio to live posting", f"{replay.ratio_to_live:.1f}", f">= {RATIO_REPLAY_MIN:.0f}", held),
    ]


def _show(rows: Sequence[tuple[str, str, str, bool | None]], figures: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    for name, value, wanted, held in rows:
        verdict = "" if held is None else "held" if held else "NOT held"
        sys.stdout.write(f"{name:<48}{value:>10}   {wanted:<10} {verdict}".rstrip() + "\n")


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
