"""`ledgerline reconcile`: recompute the books from the topics, and compare them with the tables."""

from typing import Any

import typer

from cli.context import find_running_ledger
from cli.output import Json, say, show_json, show_rows
from cli.recomputing import BREAKS_FOUND, exit_code_for_outages, make_findings_json, open_progress, show_findings
from domain.topics import Topics
from streams.proof.reconciliation.full import Report, recompute

_STEPS = {"records": "records", "shards": "balances", "entries": "entries", "rows": "rows"}


def reconcile(as_json: Json = False) -> None:
    """Recompute the books from the topics and compare them with the tables.

    Conservation, symmetry, faithfulness, balances. Exit code 0: all held; 1: breaks were found; 2: could not run.
    """
    with exit_code_for_outages():
        ledger = find_running_ledger()
        with open_progress(_STEPS, quiet=as_json) as progress:
            report = recompute(
                kafka=ledger.kafka,
                dsn=ledger.postgres_dsn,
                registry=ledger.registry,
                topics=Topics(ledger.settings.topic_prefix),
                progress=progress,
            )
    if as_json:
        show_json(make_report_json(report))
    else:
        _show(report)
    if report.findings:
        raise typer.Exit(BREAKS_FOUND)


def make_report_json(report: Report) -> dict[str, Any]:
    """Return the report for machines; amounts are strings, because a sum may be too large for a JSON number."""
    return {
        "ok": not report.findings,
        "records": report.records,
        "shards": report.shards,
        "seconds": round(report.seconds, 3),
        "records_per_second": report.records_per_second,
        "lanes": report.lanes,
        "totals": [
            {**row, "debits_minor": str(row["debits_minor"]), "credits_minor": str(row["credits_minor"])}
            for row in report.totals
        ],
        "breaks": make_findings_json(report.findings),
    }


def _show(report: Report) -> None:
    show_rows("Conservation, by lane", report.lanes, as_json=False)
    show_rows("Symmetry, in minor units", report.totals, as_json=False)
    show_findings(report.findings)
    verdict = "[bold green]The books hold.[/]" if not report.findings else "[bold red]The books do not hold.[/]"
    say(
        f" {report.records:,} records and {report.shards:,} balances in {report.seconds:.1f} s"
        f" ({report.records_per_second:,} records/s); {len(report.findings)} breaks.",
        verdict,
    )
