"""`ledgerline journal`: one row for each intent that was received."""

from typing import Annotated

import typer

from cli.api_client import list_items, open_api_client
from cli.output import Json, show_rows
from domain.outcomes import Outcome

app = typer.Typer(help="The journal: one row for each offset of payments.intents.", no_args_is_help=True)


@app.command("list")
def list_rows(
    lane: Annotated[int | None, typer.Option(min=0, help="Only this lane.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only rows with this outcome.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most rows.")] = 50,
    as_json: Json = False,
) -> None:
    """List journal rows of the key's tenant in order of lane and sequence."""
    with open_api_client() as client:
        rows = list_items(client, "/v1/journal", {"lane": lane, "outcome": outcome}, limit)
    columns = ("lane", "seq", "outcome", "reason", "intent_id", "reference", "booked_time")
    show_rows("Journal", rows, as_json=as_json, columns=None if as_json else columns)
