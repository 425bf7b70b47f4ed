"""`ledgerline books`: the frame of the books as a file, to be kept beside the backups."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.context import find_running_ledger
from cli.output import Json, say, show_json
from db.agent_connection import open_snapshot
from db.comparison import ROLE
from db.frame import Frame, check_frame, export_frame
from domain.errors import LedgerlineError

app = typer.Typer(help="The frame of the books as a file, which you keep beside the backups.", no_args_is_help=True)


@app.callback()
def books() -> None:
    """The frame of the books as a file, to be kept beside the backups."""


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The file to write; readable by its owner only, as it holds key hashes.")],
    as_json: Json = False,
) -> None:
    """Write tenants, charts, units, accounts, API keys (hashed) and audit's public keys to a file."""
    frame = read_frame(find_running_ledger().postgres_dsn)
    draft = out.with_name(out.name + ".draft")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(frame, file, ensure_ascii=False, indent=1)
        draft.replace(out)
    except OSError as error:
        raise LedgerlineError(f"The books cannot be written to {out}: {error.strerror}.") from error
    counts = {part: len(rows) for part, rows in frame.items() if isinstance(rows, list)}
    if as_json:
        show_json({"file": str(out), **counts})
    else:
        say(f"{out} has {', '.join(f'{count:,} {part}' for part, count in counts.items())}.")


def read_frame(dsn: str) -> Frame:
    """Return the frame of a ledger, read in one snapshot."""
    with open_snapshot(dsn, ROLE) as connection:
        return export_frame(connection)


def read_books(file: Path) -> Frame:
    """Return the frame in a file; raise LedgerlineError if the file has none."""
    try:
        return check_frame(json.loads(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise LedgerlineError(f"{file} holds no books ({error}): make them with `ledgerline books export`.") from error
