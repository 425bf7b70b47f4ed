"""`ledgerline parked`: work of the capabilities whose handler failed, and work that waits behind it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from cli.arguments import find_user_name
from cli.context import find_running_ledger
from cli.output import Json, say, show_json, show_rows
from db.operations import open_glance, open_operator
from db.parked import Parked, drop_parked, list_parked, retry_parked
from domain.errors import LedgerlineError

app = typer.Typer(help="Parked work of the capabilities: show it, try it again, drop it.", no_args_is_help=True)

_COLUMNS: Final = ("place", "part", "capability", "tenant", "subject", "task", "attempts", "due", "reason")

Place = Annotated[int, typer.Argument(min=1, help="As `parked list` shows it.")]
OptionalPlace = Annotated[int | None, typer.Argument(min=1, help="As `parked list` shows it.")]
CapabilityName = Annotated[str | None, typer.Option("--capability", help="Only work of this capability.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Most rows.")]
After = Annotated[int, typer.Option(min=0, metavar="PLACE", help="Show the rows after this place.")]
All = Annotated[bool, typer.Option("--all", help="All parked work.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class ParkedError(LedgerlineError):
    """There is no parked work at that place."""


def _make_document(row: Parked) -> dict[str, Any]:
    times = {
        name: datetime.fromtimestamp(value / 1_000_000, UTC).isoformat()
        for name, value in (("parked", row.parked_time), ("due", row.due_time))
    }
    shown = {name: value for name, value in row._asdict().items() if not name.endswith("_time")}
    return shown | times


@app.command("list")
def list_rows(capability: CapabilityName = None, limit: Limit = 50, after: After = 0, as_json: Json = False) -> None:
    """List parked work in the order of parking, without the messages."""
    with open_glance(find_running_ledger().postgres_dsn) as connection:
        rows = list_parked(connection, after=after, rows_max=limit, capability=capability)
    if as_json:
        show_json([_make_document(row) for row in rows])
        return
    show_rows("Parked", [_make_document(row) for row in rows], as_json=False, columns=_COLUMNS)
    if len(rows) == limit:
        say(f"More: ledgerline parked list --after {rows[-1].place}")


@app.command()
def retry(
    place: OptionalPlace = None, capability: CapabilityName = None, everything: All = False, as_json: Json = False
) -> None:
    """Let parked work be tried at once: one PLACE, a capability, or --all; this is recorded."""
    if [place is not None, capability is not None, everything].count(True) != 1:
        raise typer.BadParameter("say PLACE, --capability or --all")
    with open_operator(find_running_ledger().postgres_dsn) as connection:
        places = retry_parked(connection, find_user_name(), place=place, capability=capability)
    if place is not None and not places:
        raise ParkedError(f"There is no parked work at place {place}: see `ledgerline parked list`.")
    if as_json:
        show_json({"places": places})
    else:
        say(f"The worker tries {len(places)} pieces of parked work at once.")


@app.command()
def drop(place: Place, yes: Yes = False, as_json: Json = False) -> None:
    """Delete parked work for ever: its effects never happen, later work of its subject goes on. This is recorded."""
    if not yes:
        typer.confirm(f"Drop the parked work at place {place}?", abort=True, err=True)
    with open_operator(find_running_ledger().postgres_dsn) as connection:
        dropped = drop_parked(connection, find_user_name(), place)
    if dropped is None:
        raise ParkedError(f"There is no parked work at place {place}: see `ledgerline parked list`.")
    if as_json:
        show_json(_make_document(dropped))
    else:
        say(f"Dropped {dropped.task} of {dropped.subject} ({dropped.capability}).")
