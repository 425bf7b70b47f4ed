"""The command line `ledgerline`. One module per group of commands; each is listed once in COMMANDS below."""

import sys

import typer

from domain.errors import LedgerlineError
from ops.cli import services
from ops.cli.output import errors

app = typer.Typer(
    name="ledgerline",
    help="A payments ledger as a Kafka stream: intents in, balanced double entry out, proved symmetric from outside.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("service", hidden=True)(services.service)
app.command("prepare")(services.prepare)


def main() -> None:
    """Run the command line. A LedgerlineError is printed as its one sentence, and the exit code is 1."""
    try:
        app()
    except LedgerlineError as error:
        errors.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
