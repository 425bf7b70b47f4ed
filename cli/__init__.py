"""The command line `ledgerline`. Each group and command is listed once in COMMANDS and imported when it is used.

So `ledgerline --help` imports no command, and a command loads only what it needs.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from cli.arguments import guard_arguments
from cli.output import complain, errors, say, show_error
from cli.streams import drop_output, find_stream_trouble, prepare_streams
from cli.troubles import make_sentence, make_usage_sentence
from runtime.compiled_modules import refuse_stale
from runtime.outside_text import make_printable
from runtime.private_files import PRIVATE_UMASK
from runtime.release import VERSION


class Entry(NamedTuple):
    """One name after `ledgerline`: a typer app (a group of commands) or a function (one command) of a module."""

    name: str
    module: str
    attribute: str
    panel: str
    help: str


_STACK: Final = "Run"
_MONEY: Final = "Money"
_BOOKS: Final = "Books"
_PROOF: Final = "Proof"
_OPERATIONS: Final = "Operations"

COMMANDS: Final = (
    Entry("up", "stack", "up", _STACK, "Start everything in the background: Kafka, Postgres, registry, services."),
    Entry("down", "stack", "down", _STACK, "Stop what `up` started."),
    Entry("status", "status", "status", _STACK, "Show what runs, the lag of each lane and what needs attention."),
    Entry("observe", "observe", "observe", _STACK, "Watch the ledger with a real Prometheus: targets, rules, alerts."),
    Entry("demo", "demo", "demo", _STACK, "Move real transactions through everything and prove the books."),
    Entry("intents", "intents", "app", _MONEY, "Post intents through the API and see what became of them."),
    Entry("schedules", "schedules", "app", _MONEY, "Intents for later, or repeated."),
    Entry("import", "importing", "app", _MONEY, "Turn real ledgers into intents and post them."),
    Entry("balance", "accounts", "balance", _MONEY, "Show the balances of an account, or of all below a prefix."),
    Entry("accounts", "accounts", "accounts", _MONEY, "Open accounts."),
    Entry("journal", "journal", "app", _MONEY, "The journal: one row for each offset of payments.intents."),
    Entry("tenants", "accounts", "tenants", _BOOKS, "Tenants: separate books in one ledger."),
    Entry(
        "chart", "accounts", "chart", _BOOKS, "The chart of accounts: which addresses may be opened, with which class."
    ),
    Entry("units", "accounts", "units", _BOOKS, "Registered units beside the ISO 4217 currencies."),
    Entry("keys", "keys", "app", _BOOKS, "API keys."),
    Entry("webhooks", "webhooks", "app", _BOOKS, "Endpoints that get events by HTTP, and their deliveries."),
    Entry("books", "books", "app", _BOOKS, "The frame of the books as a file, which you keep beside the backups."),
    Entry("reconcile", "reconcile", "reconcile", _PROOF, "Recompute the books from the topics and compare."),
    Entry("audit", "audit", "app", _PROOF, "Verify the hash chains; prove that an intent is in the ledger."),
    Entry("config", "config", "app", _OPERATIONS, "Show the configuration and its sources, and check that it works."),
    Entry("topics", "topics", "app", _OPERATIONS, "Topics as code: compare and apply their configuration."),
    Entry("schemas", "schemas", "app", _OPERATIONS, "Avro schemas in the registry."),
    Entry("dlq", "dlq", "app", _OPERATIONS, "Quarantined bytes: show them, send them again."),
    Entry("parked", "parked", "app", _OPERATIONS, "Parked work of the capabilities: show it, try it again, drop it."),
    Entry("offsets", "offsets", "app", _OPERATIONS, "The offsets of each lane, in Postgres and in Kafka."),
    Entry("replay", "replay", "replay", _OPERATIONS, "Rebuild a database from ledger.journal, or bring it up to date."),
    Entry("lanes", "lanes", "app", _OPERATIONS, "Lanes: the partitions of payments.intents."),
    Entry("intake", "intake", "app", _OPERATIONS, "Open or close the API for new intents."),
    Entry("operations", "operations", "operations", _OPERATIONS, "List what operators did to the running ledger."),
    Entry("prepare", "services", "prepare", _OPERATIONS, "Migrate the database, make topics, register schemas."),
    Entry("service", "services", "service", _OPERATIONS, "Run one service in the foreground."),
)


def load(entry: Entry) -> Any:
    """Import an entry's module and return its command."""
    found = getattr(importlib.import_module(f"cli.commands.{entry.module}"), entry.attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)  # stays a group even with only one command
    else:
        single = typer.Typer(add_completion=False)
        single.command(entry.name)(found)
        command = typer.main.get_command(single)
    command.name = entry.name
    guard_arguments(command)
    return command


class LazyGroup(TyperGroup):
    """A group that lists the commands of COMMANDS, and imports only the command that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for entry in COMMANDS:
            listed = TyperCommand(entry.name, help=entry.help, rich_help_panel=entry.panel)
            self.add_command(listed, entry.name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import and return the command that the first argument names; raise UsageError for an unknown one."""
        name, command, rest = super().resolve_command(ctx, args)
        for entry in COMMANDS:
            if entry.name == name:
                return name, load(entry), rest
        return name, command, rest


app = typer.Typer(
    name="ledgerline",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        say(f"ledgerline {VERSION}")
        raise typer.Exit


@app.callback()
def ledgerline(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """A payments ledger as a Kafka stream: intents in, balanced double entry out, proved symmetric from outside."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with code 0 (done), 1 (could not be done), 2 (wrong use) or 130 (interrupted).

    An error is one sentence on standard error. Only a bug in Ledgerline shows a traceback.
    """
    try:
        code = _get_exit_code(arguments)
    except OSError:  # standard error cannot be written either, so only the exit code reports it
        code = 1
    drop_output()
    sys.exit(code)


def _get_exit_code(arguments: Sequence[str] | None) -> int:
    try:
        prepare_streams()
        os.umask(PRIVATE_UMASK)
        refuse_stale()
        code = app(arguments, prog_name="ledgerline", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return 1  # the reader has closed the pipe
    except typer.TyperException as error:
        if error.format_message():  # it is empty if the help was shown
            show_error(make_usage_sentence(error))
        return int(error.exit_code)
    except typer.Abort:
        complain("Nothing was done.")
        return 1
    except Exception as error:  # noqa: BLE001 - last resort: show a sentence, or a traceback without control characters
        trouble = find_stream_trouble(error)
        sentence = make_sentence(error) if trouble is None else f"The output cannot be written: {trouble}."
        if sentence is None:
            errors.print(make_printable(traceback.format_exc(), kept="\n"), markup=False, soft_wrap=True)
        else:
            show_error(sentence)
        return 1
    return code if isinstance(code, int) else 0
