"""`ledgerline replay`: rebuild or update a database from ledger.journal, and compare it with the live database."""

from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict

from cli.commands.books import read_books, read_frame
from cli.context import Ledger, find_running_ledger
from cli.output import Json, say, show_json
from cli.recomputing import BREAKS_FOUND, open_progress
from db.connections import DatabaseError
from db.frame import Frame
from domain.errors import LedgerlineError
from domain.topics import Topics
from runtime.key_files import read_key
from streams.proof.audit.service import get_key_file
from streams.proof.replay.comparison import Comparison, compare
from streams.proof.replay.rebuild import Origin, Report
from streams.proof.replay.rebuild import replay as rebuild

_STEPS = {
    "load": "records",
    "indexes": "indexes",
    "check": "rows checked by Postgres",
    "replay": "records",
    "compare": "rows compared",
}


def replay(
    into: Annotated[
        str,
        typer.Option(
            help="DSN of the database, with the login that owns it. The database is made if it does not exist."
        ),
    ],
    books: Annotated[
        Path | None, typer.Option(help="File of `ledgerline books export`; the running ledger's own books if left out.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Then compare it with the running ledger.")] = False,
    as_json: Json = False,
) -> None:
    """Rebuild a database from ledger.journal, or bring an old copy up to date.

    Stop what posts to that database first. Killed in the middle it goes on where it was when it is called again. Exit
    code 1: it could not be done, or the databases differ.
    """
    ledger = find_running_ledger()
    is_live = _is_same_database(into, ledger.postgres_dsn)
    if verify and is_live:
        raise LedgerlineError(
            "--verify compares with another database: name the live one by LEDGERLINE_POSTGRES_DSN, or leave it out."
        )
    origin = Origin(ledger.kafka, ledger.registry, Topics(ledger.settings.topic_prefix), _read_own_public_key(ledger))
    frame = (
        read_books(books) if books is not None else None if is_live else _read_frame_if_reachable(ledger.postgres_dsn)
    )
    with open_progress(_STEPS, quiet=as_json) as progress:
        report = rebuild(origin, into, frame, progress, compare_heads=not verify)
        compared = compare(into, ledger.postgres_dsn, progress) if verify else None
    _show(report, compared, as_json=as_json)
    if compared is not None and compared.difference is not None:
        raise typer.Exit(BREAKS_FOUND)


def _is_same_database(one: str, other: str) -> bool:
    try:
        left, right = conninfo_to_dict(one), conninfo_to_dict(other)
    except psycopg.ProgrammingError as error:
        raise LedgerlineError(
            f"--into cannot be used ({str(error).strip()}): write it as postgresql://user:password@host/database."
        ) from error
    return all(left.get(part) == right.get(part) for part in ("host", "port", "dbname"))


def _read_frame_if_reachable(dsn: str) -> Frame | None:
    """Return the live ledger's books, or None if it is gone: then the database to replay into must have its own."""
    try:
        return read_frame(dsn)
    except (DatabaseError, psycopg.OperationalError, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None


def _read_own_public_key(ledger: Ledger) -> bytes | None:
    file = get_key_file(ledger.settings)
    return read_key(file).public_raw if file.exists() else None


def _show(report: Report, compared: Comparison | None, *, as_json: bool) -> None:
    if as_json:
        show_json(_make_json(report, compared))
        return
    way = "loaded" if report.loaded else "caught up by"
    say(
        f"{way.capitalize()} {report.records:,} records of {report.lanes} lanes in {report.seconds:,.1f} s"
        f" ({report.records_per_second:,} / s), and {report.checkpoints} checkpoints.",
    )
    if report.quarantined_without_bytes:
        say(
            f"{report.quarantined_without_bytes:,} quarantined rows lack their bytes, which the topic has deleted.",
        )
    if compared is None:
        return
    found = compared.difference
    if found is None:
        say(f" in {compared.rows:,} rows, and all that belongs to them.", "[bold green]The same[/]")
    else:
        say(
            f" {found.table} lane {found.lane} {found.place} {found.member}:"
            f" {found.replayed} here, {found.live} in the live ledger.",
            "[bold red]DIFFERENT[/]",
        )


def _make_json(report: Report, compared: Comparison | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "records": report.records,
        "lanes": report.lanes,
        "seconds": round(report.seconds, 3),
        "records_per_second": report.records_per_second,
        "loaded": report.loaded,
        "checkpoints": report.checkpoints,
        "quarantined_without_bytes": report.quarantined_without_bytes,
    }
    if compared is not None:
        found["compared_rows"] = compared.rows
        found["difference"] = compared.difference._asdict() if compared.difference else None
    return found
