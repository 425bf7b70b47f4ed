"""What every command shares: settings of the running stack, tables or JSON, progress bars, errors of one sentence."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

# Without emoji codes: the address assets:bank:checking is no picture of a bank.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def show_json(value: Any) -> None:
    """One JSON document on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, default=str, ensure_ascii=False, indent=2) + "\n")


def show_rows(
    title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, columns: Iterable[str] | None = None
) -> None:
    """The rows as a table, or as a JSON array of objects."""
    if as_json:
        show_json(list(rows))
        return
    names = list(columns) if columns is not None else list(rows[0]) if rows else []
    table = Table(title=title, title_justify="left")
    for name in names:
        numeric = bool(rows) and all(isinstance(row.get(name), int) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Cells hold what people wrote, where a square bracket is no markup.
        table.add_row(*("" if row.get(name) is None else escape(str(row[name])) for name in names))
    console.print(table if rows else f"{title}: none.")


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error; nothing is drawn where `quiet` or where no one watches."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        yield progress
