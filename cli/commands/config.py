"""`ledgerline config`: what is configured, where it comes from, and whether it works."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from cli.commands.topics import describe_topics
from cli.configuration.check import check_parts, check_settings
from cli.configuration.findings import Finding, Severity
from cli.configuration.variables import list_origins
from cli.context import read_settings
from cli.output import Json, say, show_json, show_rows
from db.logins import ROLE_OF_LOGIN

app = typer.Typer(help="Show the configuration, and check that it works.", no_args_is_help=True)

Offline = Annotated[bool, typer.Option("--offline", help="Check only the settings and their files.")]
ForService = Annotated[
    str | None,
    typer.Option("--service", metavar="NAME", help="The service whose rights the login must have, such as posting."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning too.")]

_MARKS = {
    Severity.OK: "[green]✓[/]",
    Severity.WARNING: "[yellow]![/]",
    Severity.ERROR: "[bold red]✗[/]",
}


@app.command()
def check(offline: Offline = False, service: ForService = None, strict: Strict = False, as_json: Json = False) -> None:
    """Check settings, credentials, rights, topics, schemas and clocks. Exit code 1 if something must be changed."""
    if service is not None and service not in ROLE_OF_LOGIN:
        raise typer.BadParameter(f"choose one of {', '.join(ROLE_OF_LOGIN)}", param_hint="--service")
    found = []
    for finding in _collect_findings(service, offline=offline):
        found.append(finding)
        if not as_json:
            say(f" {finding.sentence}", _MARKS[finding.severity])
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    failed = any(finding.severity in bad for finding in found)
    if as_json:
        show_json({"ok": not failed, "findings": [asdict(finding) for finding in found]})
    elif not found:
        say(" Nothing in the settings contradicts itself.", _MARKS[Severity.OK])
    if failed:
        raise typer.Exit(1)


def _collect_findings(service: str | None, *, offline: bool) -> Iterator[Finding]:
    settings, findings = check_settings()
    yield from findings
    if settings is not None and not offline:
        yield from check_parts(settings, describe_topics(settings), service)


@app.command()
def show(as_json: Json = False) -> None:
    """Show each setting, and whether it is a default, set in the environment or in a file. Secrets are masked."""
    show_rows("Settings", list_origins(read_settings(), os.environ), as_json=as_json)
