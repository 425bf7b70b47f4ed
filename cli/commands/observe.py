"""`ledgerline observe`: a real Prometheus beside the ledger, with the rules and alerts of ops/prometheus."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final

import typer

from cli.commands.stack import ensure_api_key, open_reporter
from cli.context import read_settings
from cli.output import Json, say, show_json, wait_for_reader
from cli.supervision import supervisor
from ops.observing.observatory import Observatory
from ops.observing.prometheus_part import Alert
from ops.run_state import RunState
from runtime.settings import Settings

_LOOK_SECONDS: Final = 2.0

Once = Annotated[bool, typer.Option("--once", help="Show the state once, then stop; exit code 1 unless all is green.")]


def observe(once: Once = False, as_json: Json = False) -> None:
    """Watch the ledger with a real Prometheus: start it, wait until all rules are green, show alerts until Ctrl-C.

    The ledger is started where it does not run, and stays up. Beside Prometheus run the exporters of Postgres and of
    the machine. What is scraped, the rules and the runbooks are in ops/prometheus and ops/runbooks.
    """
    settings = read_settings()
    # SIGTERM does the same as Ctrl-C. SIGINT is set, too: a shell may have started this process with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with open_reporter(quiet=as_json) as report:
        state = supervisor.start_run(settings.home, report)
        ensure_api_key(state)
        observatory = Observatory(
            settings.home, state, cache=settings.home.resolve() / "cache", report=report, environment=os.environ
        )
        observatory.start()
    try:
        with open_reporter(quiet=as_json) as report:
            report("waiting until every target is scraped and every rule evaluated")
            observatory.wait_until_watching()
            observatory.becomes_green()  # if it does not, the findings name the alerts
        found = _collect_findings(observatory)
        if as_json:
            show_json(found)
        else:
            _show(found)
        if once:
            raise typer.Exit(0 if found["green"] else 1)
        with suppress(KeyboardInterrupt):  # Ctrl-C is the normal end
            _watch(settings, state, observatory, quiet=as_json)
    finally:
        observatory.stop()


def _collect_findings(observatory: Observatory) -> dict[str, Any]:
    server = observatory.prometheus
    rules = server.rules()
    firing, pending = server.alerts(), server.alerts(state="pending")
    return {
        "prometheus": server.url,
        "alerts_page": server.alerts_page,
        "targets": [{"job": one.job, "address": one.address, "health": one.health} for one in server.targets()],
        "recording_rules": sum(rule["type"] == "recording" for rule in rules),
        "alerts": sum(rule["type"] == "alerting" for rule in rules),
        "firing": [_make_plain(alert) for alert in firing],
        "pending": [_make_plain(alert) for alert in pending],
        "green": not firing and not pending,
    }


def _make_plain(alert: Alert) -> dict[str, Any]:
    return {"alert": alert.name, "labels": alert.labels} | alert.annotations


def _show(found: dict[str, Any]) -> None:
    say(f" {found['prometheus']}   alerts {found['alerts_page']}", "[bold]Prometheus[/]")
    jobs: dict[str, int] = {}
    for target in found["targets"]:
        jobs[target["job"]] = jobs.get(target["job"], 0) + 1
    say("  targets  " + ", ".join(f"{number} {job}" for job, number in jobs.items()))
    say(f"  rules    {found['alerts']} alerts, {found['recording_rules']} recorded")
    if found["green"]:
        say(": every target is up, and no alert fires.", "[bold green]Rules loaded and green[/]")
    for state in ("firing", "pending"):
        for alert in found[state]:
            _show_alert(state, alert["alert"], alert["summary"], alert["runbook_url"])


def _show_alert(state: str, name: str, summary: str, runbook: str) -> None:
    colour = {"firing": "bold red", "pending": "yellow", "over": "green"}[state]
    say(f" {name}: {summary}", f"[{colour}]{state}[/]")
    if state != "over":
        say(f"  {runbook}")


def _watch(settings: Settings, state: RunState, observatory: Observatory, *, quiet: bool) -> None:
    """Show each alert that begins or ends, and scrape the services of a new run of this home.

    The watch ends at Ctrl-C, or when the reader of standard output has gone.
    """
    show: Callable[..., None] = (lambda *_words: None) if quiet else _show_alert
    if not quiet:
        say("Ctrl-C stops Prometheus; the ledger stays up until `ledgerline down`.")
    shown: dict[tuple[str, ...], Alert] = {}
    addresses = [service.url for service in state.services]
    while wait_for_reader(_LOOK_SECONDS):
        latest = supervisor.read_state(settings.home)
        if latest is not None and latest.phase == "running" and addresses != [one.url for one in latest.services]:
            observatory.follow(latest)
            addresses = [one.url for one in latest.services]
        now = {
            (alert.name, *sorted(map("=".join, alert.labels.items()))): alert
            for alert in observatory.prometheus.alerts()
        }
        for key in now.keys() - shown.keys():
            show("firing", now[key].name, now[key].annotations["summary"], now[key].annotations["runbook_url"])
        for key in shown.keys() - now.keys():
            show("over", shown[key].name, shown[key].annotations["summary"], "")
        shown = now
