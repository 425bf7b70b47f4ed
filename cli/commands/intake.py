"""`ledgerline intake`: show whether the API accepts new intents, and change it."""

from typing import Annotated, Any

import typer

from cli.arguments import find_user_name
from cli.context import Ledger, find_running_ledger
from cli.output import Json, say, show_json
from db.operations import change_intake, open_glance, open_operator, read_intake

app = typer.Typer(help="Open or close the API for new intents.", no_args_is_help=True)

Because = Annotated[str, typer.Argument(help="A sentence for clients, such as 'A backup is made.'")]


@app.callback()
def group() -> None:
    """Whether the API takes new intents in."""


@app.command()
def show(as_json: Json = False) -> None:
    """Show whether the intake is open, and what clients are told if it is closed."""
    _show(find_running_ledger(), as_json=as_json)


@app.command()
def close(because: Because, as_json: Json = False) -> None:
    """Answer new intents with 503 and Retry-After; reads, and repeats of settled intents, go on. This is recorded.

    Every API process refuses from its next intent on. Intents that it let through before may reach Kafka for another
    25 seconds; `ledgerline status` shows when all of them are posted.
    """
    if not because.strip():
        raise typer.BadParameter("give a sentence for clients")
    _change(because.strip(), as_json=as_json)


@app.command("open")
def open_again(as_json: Json = False) -> None:
    """Accept new intents again. This is recorded."""
    _change(None, as_json=as_json)


def _change(closed_because: str | None, *, as_json: bool) -> None:
    ledger = find_running_ledger()
    with open_operator(ledger.postgres_dsn) as connection:
        if read_intake(connection).closed_because != closed_because:
            change_intake(connection, closed_because, find_user_name())
    _show(ledger, as_json=as_json)


def _show(ledger: Ledger, *, as_json: bool) -> None:
    with open_glance(ledger.postgres_dsn) as connection:
        stands = read_intake(connection)
    found: dict[str, Any] = {"is_open": stands.closed_because is None, **stands._asdict()}
    if as_json:
        show_json(found)
    elif stands.closed_because is None:
        say("The intake is open.")
    else:
        say(f"The intake is closed: {stands.closed_because}")
