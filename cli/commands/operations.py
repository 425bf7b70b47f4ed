"""`ledgerline operations`: the record of what operators did to the running ledger."""

import json
from typing import Annotated

import typer

from cli.context import find_running_ledger
from cli.output import Json, show_json, show_rows
from db.operations import list_operations as done_operations
from db.operations import open_glance

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Most rows.")]


def operations(limit: Limit = 50, as_json: Json = False) -> None:
    """List what operators did to the running ledger, the latest first: who, when, what."""
    with open_glance(find_running_ledger().postgres_dsn) as connection:
        rows = [row._asdict() | {"done_time": row.done_time.isoformat()} for row in done_operations(connection, limit)]
    if as_json:
        show_json(rows)
        return
    show_rows("Operations", [row | {"detail": json.dumps(row["detail"])} for row in rows], as_json=False)
