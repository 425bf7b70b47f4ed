"""The results of a run of suites: for a terminal, as JSON, and as a page of Markdown."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tools.bench.cluster import PLANNED_SHARE
from tools.load.costs import of_the_ledger
from tools.load.runner import Result, document
from tools.load.suites import SUITES, Plan, posted_within_seconds

HEADINGS: Final = (
    "suite", "acknowledged", "posted", "rejected", "refused", "p95 HTTP", "p95 posted", "in time", "CPU s / 1,000",
    "USD / 1,000", "bytes each", "",
)  # fmt: skip
_LEFT: Final = ("suite", "")


def cells(result: Result) -> tuple[str, ...]:
    """Return a result as a row of the table, one text for each of HEADINGS."""
    slowest = max((found["p95"] for found in result.http_ms.values()), default=0.0)
    cost = result.cost
    return (
        result.suite,
        f"{result.acknowledged:,}",
        f"{result.posted:,}",
        f"{result.rejected:,}",
        f"{result.refused:,}",
        f"{slowest:,.0f} ms",
        f"{result.posted_seconds['p95'] * 1000:,.0f} ms" if result.posted_seconds else "",
        f"{result.posted_ratio:.2%}",
        "" if cost is None else f"{cost.processor_seconds:.2f}",
        "" if cost is None else f"{cost.usd:.6f}",
        "" if result.disk_bytes_each is None else f"{result.disk_bytes_each:,.0f}",
        "held" if result.held else "NOT held",
    )


def text_table(plan: Plan, results: Sequence[Result]) -> str:
    """Return plain columns for a terminal or a log, followed by the checks that did not hold."""
    rows = [HEADINGS, *(cells(result) for result in results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    lines = [_machine(plan)]
    for row in rows:
        columns = zip(HEADINGS, row, widths, strict=True)
        aligned = (f"{text:<{width}}" if name in _LEFT else f"{text:>{width}}" for name, text, width in columns)
        lines.append("  ".join(aligned).rstrip())
    return "\n".join([*lines, *(line for result in results for line in broken(result))])


def _machine(plan: Plan) -> str:
    return (
        f"{plan.posts_per_second:,.0f} single posts a second are what the machine is good for, and it is"
        f" {plan.slowness:.1f} times as slow as one with nothing else to do."
    )


def broken(result: Result) -> list[str]:
    """Return a line for each check that did not hold."""
    return [
        f"{result.suite}: {check.name}: {check.found}, but must be {check.limit}"
        for check in result.checks
        if not check.held
    ]


def run_document(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    """Return a run as a document for JSON."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "posts_per_second": plan.posts_per_second,
        "slowness": plan.slowness,
        "held": all(result.held for result in results),
        "suites": [document(result) for result in results],
    }


def markdown(plan: Plan, results: Sequence[Result]) -> str:
    """Return a page for people: the table, then each suite with its latencies, checks and processor time."""
    held = sum(result.held for result in results)
    aligned = "|".join("---" if heading in _LEFT else "--:" for heading in HEADINGS)
    lines = [
        "# Load report",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.platform()}."
        f" {_machine(plan)} {held} of {len(results)} suites held.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{aligned}|",
        *(f"| {' | '.join(cells(result))} |" for result in results),
        "",
        "`p95 HTTP` is that of the slowest scenario; `p95 posted` is from Kafka's taking the intent to its relayed"
        " record; `in time` is the share of the acknowledged that was settled within"
        f" {posted_within_seconds() * plan.slowness:.1f} s. Processor time and money are those of the ledger, Kafka and"
        f" Postgres, on machines that are planned to be {PLANNED_SHARE:.0%} busy at the prices in"
        " `tools/bench/cluster.py`.",
    ]
    for result in results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _not_sent(dropped: float) -> str:
    return f", and {dropped:,} not sent" if dropped else ""


def _section(result: Result) -> list[str]:
    used = sorted(result.processor_seconds.items(), key=lambda item: -item[1])
    own = of_the_ledger(result.processor_seconds)
    posted = result.posted_seconds
    return [
        f"## {result.suite}: {'held' if result.held else 'NOT held'}",
        "",
        f"{SUITES[result.suite].about[0].upper()}{SUITES[result.suite].about[1:]}. {result.requests:,} requests in"
        f" {result.seconds:.0f} s; reconciled {result.reconciled_seconds:.1f} s after the last of them.",
        "",
        "| from | p50 | p95 | p99 | max |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| HTTP, {scenario}: {found['iterations']:,}{_not_sent(found['dropped'])} |"
            f" {found['p50']:,.1f} ms | {found['p95']:,.1f} ms | {found['p99']:,.1f} ms | {found['max']:,.1f} ms |"
            for scenario, found in result.http_ms.items()
        ),
        *(
            [f"| accepted to relayed | {' | '.join(f'{posted[name] * 1000:,.0f} ms' for name in posted)} |"]
            if posted
            else []
        ),
        "",
        "| what must hold | limit | found | |",
        "|---|---|---|---|",
        *(
            f"| {check.name} | {check.limit} | {check.found} | {'held' if check.held else '**NOT held**'} |"
            for check in result.checks
        ),
        "",
        f"Processor time: {sum(own.values()):.1f} s of the ledger's"
        f" ({', '.join(f'{name} {seconds:.1f}' for name, seconds in used if seconds >= 0.05)}).",
    ]
