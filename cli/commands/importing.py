"""`ledgerline import beancount` and `import csv`: post real ledgers through the HTTP API, and check the balances."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.arguments import find_user_name
from cli.commands.stack import KEY_TENANT
from cli.context import Ledger, find_api_key, find_running_ledger
from cli.import_preview import show_preview
from cli.output import Json, complain, open_progress_bar, say, show_json, show_rows
from db.access import Scope, add_key, revoke_key
from db.connections import connect
from domain.errors import LedgerlineError
from producers.importing import beancount_source, csv_source
from producers.importing.csv_choice import choose_mapping
from producers.importing.importer import (
    ImportReport,
    Prepared,
    check,
    list_registered_units,
    make_report,
    post,
    prepare,
    refuse_faulty,
    register_units,
)
from producers.importing.model import ImportingError, Problem, SourceLedger, format_plain_decimal, format_rfc3339
from producers.importing.preview import describe

app = typer.Typer(help="Turn real ledgers into intents and post them through the API.", no_args_is_help=True)

_SHOWN_MAX: Final = 50

Tenant = Annotated[str, typer.Option(help="The tenant that the intents are posted for.")]
Name = Annotated[
    str | None, typer.Option(help="A name that becomes part of every key; it keeps two ledgers of one tenant apart.")
]
Unit = Annotated[
    list[str] | None, typer.Option("--unit", metavar="CODE=DECIMALS", help="Decimals of a unit to register.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the intents; post nothing.")]
AllowUnmapped = Annotated[bool, typer.Option("--allow-unmapped", help="Exit with 0 although something was not mapped.")]
Round = Annotated[
    bool, typer.Option("--round", help="Round amounts finer than their currency, and say what was rounded.")
]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Compare the ledger's balances with the source's.")]


@app.command()
def beancount(
    file: Annotated[Path, typer.Argument(help="A beancount ledger.")],
    name: Name = None,
    tenant: Tenant = "default",
    unit: Unit = None,
    key_metadata: Annotated[
        str | None, typer.Option(help="Metadata member that tells transactions apart, such as id.")
    ] = None,
    ticker: Annotated[
        list[str] | None, typer.Option(help="A commodity that is not the ISO 4217 currency of the same code.")
    ] = None,
    dry_run: DryRun = False,
    allow_unmapped: AllowUnmapped = False,
    round_amounts: Round = False,
    checked: Check = True,
    as_json: Json = False,
) -> None:
    """Import a beancount ledger: all its transactions, stocks at cost included."""
    source = beancount_source.read_ledger(file, name, key_metadata, ticker or ())
    _run(source, _parse_units(unit), tenant, dry_run, allow_unmapped, round_amounts, checked, as_json=as_json)


@app.command("csv")
def csv_file(
    file: Annotated[Path, typer.Argument(help="A CSV file.")],
    mapping: Annotated[
        Path | None, typer.Option(help="TOML or YAML file that says what each column means; see docs/IMPORT.md.")
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="The form of the bank's files, such as n26; found by the columns if left out.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="The account that the file is about, if there is no mapping.")
    ] = None,
    counter_account: Annotated[
        str | None, typer.Option(help="Where the money comes from, if there is no mapping.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show how the rows are understood; post nothing.")] = False,
    name: Name = None,
    tenant: Tenant = "default",
    unit: Unit = None,
    dry_run: DryRun = False,
    allow_unmapped: AllowUnmapped = False,
    round_amounts: Round = False,
    as_json: Json = False,
) -> None:
    """Import a CSV file, such as a bank statement, by a mapping."""
    found = choose_mapping(file, mapping, dialect, account, counter_account)
    source = csv_source.read_ledger(file, found, name)
    # A statement is only a part of an account's history, so it has no final sum to compare with the ledger's balance.
    wanted = dict(found.units) | _parse_units(unit)
    if preview:
        prepared = prepare(source, {}, wanted, round_written=round_amounts)
        show_preview(describe(prepared), as_json=as_json)
        raise typer.Exit(1 if source.faults or (prepared.problems and not allow_unmapped) else 0)
    _run(source, wanted, tenant, dry_run, allow_unmapped, round_amounts, checked=False, as_json=as_json)


def _parse_units(texts: list[str] | None) -> dict[str, int]:
    units: dict[str, int] = {}
    for text in texts or ():
        code, _, decimals = text.partition("=")
        if not code or not decimals.isascii() or not decimals.isdigit():
            raise ImportingError(f"{text!r} is no unit: write it as CODE=DECIMALS, such as MILES=0.")
        units[code] = int(decimals)
    return units


def _run(
    source: SourceLedger,
    wanted: dict[str, int],
    tenant: str,
    dry_run: bool,
    allow_unmapped: bool,
    round_written: bool,
    checked: bool,
    *,
    as_json: bool,
) -> None:
    refuse_faulty(source)
    if dry_run:
        prepared = prepare(source, {}, wanted, round_written=round_written)
        _show_intents(prepared, as_json=as_json)
        raise typer.Exit(1 if prepared.problems and not allow_unmapped else 0)
    ledger = find_running_ledger()
    if ledger.api_url is None:
        raise LedgerlineError("No API is known: set LEDGERLINE_API_URL, or start the stack with `ledgerline up`.")
    prepared = prepare(source, list_registered_units(ledger.postgres_dsn, tenant), wanted, round_written=round_written)
    with open_posting_key(ledger, tenant) as key:
        found = import_prepared(prepared, ledger, ledger.api_url, key, tenant, checked=checked, quiet=as_json)
    if as_json:
        show_json(found.document())
    else:
        _show_report(found)
    raise typer.Exit(0 if found.ok(allow_unmapped=allow_unmapped) else 1)


def import_prepared(
    prepared: Prepared, ledger: Ledger, api_url: str, key: str, tenant: str, *, checked: bool, quiet: bool
) -> ImportReport:
    """Register units, post, wait for the outcomes, and check; show a progress bar unless `quiet`."""
    started = time.monotonic()
    units = register_units(ledger.postgres_dsn, tenant, prepared.plan.unregistered)
    with open_progress_bar(quiet=quiet) as progress:
        task = progress.add_task("posting", total=len(prepared.mapped.intents))
        results, retries = asyncio.run(
            post(prepared.mapped.intents, api_url, key, lambda items: progress.advance(task, items))
        )
    differences = check(prepared, api_url, key, tenant) if checked else []
    return make_report(
        prepared,
        results,
        retries=retries,
        units_registered=units,
        differences=differences,
        checked=checked,
        started=started,
    )


@contextmanager
def open_posting_key(ledger: Ledger, tenant: str) -> Iterator[str]:
    """Yield LEDGERLINE_API_KEY, else the stored key if it is of this tenant, else a new key, revoked at the end."""
    known = find_api_key(ledger.settings)
    if known is not None and (ledger.settings.api_key is not None or tenant == KEY_TENANT):
        yield known
        return
    scopes = (Scope.INTENTS_WRITE, Scope.INTENTS_READ, Scope.ACCOUNTS_READ)
    with connect(ledger.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        key_id, key = add_key(connection, tenant, "ledgerline import, for one run", scopes, done_by=find_user_name())
    try:
        yield key
    finally:
        with connect(ledger.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
            revoke_key(connection, key_id, done_by=find_user_name())


def _show_intents(prepared: Prepared, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "intents": [intent.item() for intent in prepared.mapped.intents],
                "units": prepared.plan.unregistered,
                "without_money": dict(prepared.source.without_money),
                "problems": [
                    {"file": problem.place.file, "line": problem.place.line, "sentence": problem.sentence}
                    for problem in prepared.problems
                ],
            }
        )
        return
    rows = [
        {
            "line": intent.place.line,
            "date": format_rfc3339(intent.value_time)[:10],
            "reference": intent.reference,
            "direction": "debit" if leg.direction == 1 else "credit",
            "amount_minor": leg.amount_minor,
            "currency": leg.currency,
            "account": leg.account,
        }
        for intent in prepared.mapped.intents
        for leg in intent.legs
    ]
    show_rows(f"{len(prepared.mapped.intents)} intents", rows, as_json=False)
    if prepared.plan.unregistered:
        units = ", ".join(f"{code} with {exponent} decimals" for code, exponent in prepared.plan.unregistered.items())
        say(f"Units that would be registered: {units}.")
    _show_left_out(prepared.problems, dict(prepared.source.without_money))


def _show_report(found: ImportReport) -> None:
    rejected = sum(item.fate == "rejected" for item in found.unposted)
    rows = {
        "transactions mapped": found.transactions,
        "posted": found.posted,
        "posted by an earlier import": found.duplicates,
        "rejected": rejected,
        "not taken": len(found.unposted) - rejected,
        "not mapped": len(found.problems),
    }
    if found.sums_compared:
        rows["final sums compared"] = found.sums_compared
        rows["balance assertions checked"] = found.assertions_checked
        rows["balances that differ"] = len(found.differences)
    show_rows(
        f"Import in {found.seconds:.1f} s", [{"": name, "count": count} for name, count in rows.items()], as_json=False
    )
    for code, exponent in found.units_registered.items():
        say(f"registered the unit {code} with {exponent} decimals")
    for item in found.unposted[:_SHOWN_MAX]:
        complain(f" {item.place}: {item.reason}: {item.detail}", f"[red]{item.fate}[/]")
    for difference in found.differences[:_SHOWN_MAX]:
        complain(
            f" {difference.account}: {format_plain_decimal(difference.found)} {difference.currency} "
            f"posted by this import, {format_plain_decimal(difference.expected)} by {difference.where}",
            "[red]differs[/]",
        )
    for where, amount in found.rounded.items():
        say(f"rounded {where} by {amount}")
    for note in found.notes:
        say(note)
    _show_left_out(found.problems, found.without_money)


def _show_left_out(problems: list[Problem], without_money: dict[str, int]) -> None:
    for problem in problems:
        complain(f" {problem.place}: {problem.sentence}", "[red]not mapped[/]")
    if without_money:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(without_money.items()))
        say(f"Carries no money: {kinds}.")
