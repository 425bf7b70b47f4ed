"""`ledgerline status`: show at a glance what runs, the progress of each lane, and what needs attention."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.addresses import find_addresses
from cli.context import make_console_url, read_settings
from cli.output import Json, console, make_shown, show_json, wait_for_reader
from cli.status import LaneStatus, StatusReport, format_age, look
from domain.errors import LedgerlineError
from ops.run_state import read_state
from runtime.settings import Settings

_COLOURS = {"ready": "green", "starting": "yellow", "waiting": "red", "unready": "red", "stopped": "red"}

Watch = Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")]
Interval = Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two refreshes of --watch.")]
Check = Annotated[bool, typer.Option("--check", help="Exit with 1 if something needs attention.")]


def status(watch: Watch = False, interval: Interval = 2.0, check: Check = False, as_json: Json = False) -> None:
    """Show what runs, the lag of each lane, totals by outcome, open breaks and the last checkpoint.

    Works with whatever is up: what cannot be reached is named. Exit code 1 where no ledger is known here.
    """
    settings = read_settings()
    if watch:
        _watch(settings, interval, as_json=as_json)
        return
    report = read_status(settings)
    if as_json:
        show_json(make_document(report))
    else:
        console.print(render(report))
    if check and report.attention:
        raise typer.Exit(1)


def read_status(settings: Settings) -> StatusReport:
    """Read the status once; raise LedgerlineError if no ledger runs here and the environment names none."""
    state = read_state(settings.home)
    addresses = find_addresses(settings, state)
    if state is None and addresses.kafka is None and addresses.postgres_dsn is None:
        raise LedgerlineError(
            "No ledger is running here: start one with `ledgerline up`, or name one by LEDGERLINE_* variables."
        )
    return look(settings, state)


def _watch(settings: Settings, interval_seconds: float, *, as_json: bool) -> None:
    """Show the status repeatedly until Ctrl-C; if the reader has gone, exit with code 1, as for all cut output."""
    if as_json or not console.is_terminal:
        while True:
            report = read_status(settings)
            if as_json:
                show_json(make_document(report), indent=None)
            else:
                console.print(render(report))
            if not wait_for_reader(interval_seconds):
                raise typer.Exit(1)
    with Live(render(read_status(settings)), console=console, screen=True, auto_refresh=False) as live:
        while wait_for_reader(interval_seconds):
            live.update(render(read_status(settings)), refresh=True)
    raise typer.Exit(1)


def make_document(report: StatusReport) -> dict[str, Any]:
    """Return the report for machines; bytes are in hex."""
    found = asdict(report)
    found["breaks"] = [item._asdict() for item in report.breaks]
    found["checkpoint"] = (
        None if report.checkpoint is None else report.checkpoint._asdict() | {"root": report.checkpoint.root.hex()}
    )
    return found


def render(report: StatusReport) -> RenderableType:
    """Return the report for people."""
    shown: list[RenderableType] = [_make_headline(report)]
    if report.processes:
        shown.append(_process_table(report))
    if report.lanes:
        shown.append(_make_lane_table(report.lanes))
    shown.append(_make_summary(report))
    if report.open is not None:
        shown.append(Text(report.open, style="yellow"))
    shown += [Text(f"! {sentence}", style="bold red") for sentence in report.attention]
    return Group(*shown)


def _make_headline(report: StatusReport) -> Text:
    line = Text("Ledgerline ", style="bold")
    line.append(report.phase, style="green" if report.phase == "running" else "yellow")
    if report.started_time:
        line.append(f" since {report.started_time[:19].replace('T', ' ')} UTC", style="dim")
    if report.api_url:
        line.append(f"  API {report.api_url}\nConsole {make_console_url(report.api_url)}")
    return line


def _process_table(report: StatusReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "process", "state", "restarts", "pid", "where"):
        table.add_column(name, justify="right" if name in ("restarts", "pid") else "left")
    for process in report.processes:
        colour = _COLOURS.get(process.condition, "yellow")
        table.add_row(
            f"[{colour}]●[/]",
            make_shown(process.name),
            f"[{colour}]{process.condition}[/]",
            f"[yellow]{process.restarts}[/]" if process.restarts else "0",
            str(process.pid or ""),
            process.where,
        )
    return table


def _make_lane_table(lanes: list[LaneStatus]) -> Table:
    table = Table(
        title="Lanes",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    for name in ("lane", "received", "unposted", "journalled", "unrelayed", "unreconciled", "unaudited", "booked"):
        table.add_column(name, justify="left" if name == "booked" else "right")
    for lane in lanes:
        table.add_row(
            str(lane.lane),
            _format_count(lane.received),
            _format_lag(lane.posting_lag),
            _format_count(lane.journalled),
            _format_lag(lane.relay_lag),
            _format_lag(lane.reconciliation_lag),
            _format_lag(lane.audit_lag),
            format_age(lane.booked_time) if lane.booked_time else "never",
        )
    return table


def _format_count(records: int | None) -> str:
    return "?" if records is None else f"{records:,}"


def _format_lag(records: int | None) -> str:
    if records is None:
        return "?"
    return "[green]0[/]" if records == 0 else f"[yellow]{records:,}[/]"


def _make_summary(report: StatusReport) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    if report.totals:
        counts = " · ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.totals.items())
        table.add_row("Journal", f"{sum(report.totals.values()):,}: {counts}")
    if report.dead_letters_untried:
        table.add_row("Dead letters", f"[yellow]{report.dead_letters_untried:,} never retried[/]: ledgerline dlq list")
    if report.breaks:
        for found in report.breaks:
            where = f"{found.found_by} {found.kind} {found.state}, first {format_age(found.first_opened_time)}"
            table.add_row("Breaks", f"[red]{found.breaks:,}[/] {where}")
    elif report.totals:
        table.add_row("Breaks", "[green]none[/]")
    if report.checkpoint is not None:
        signed = f"{report.checkpoint.checkpoint} signed {format_age(report.checkpoint.signed_time)}"
        table.add_row("Checkpoint", f"{signed} with key {report.checkpoint.key_id}")
    elif report.totals:
        table.add_row("Checkpoint", "none signed yet")
    return table
