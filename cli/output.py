"""The output of all commands: tables or JSON, sentences, progress bars.

All output of a command goes through the two consoles of this module. They are the only place that makes text from
outside safe for a terminal (runtime/outside_text.py), and the only place that chooses a width.
"""

import json
import select
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table

from runtime.outside_text import escape_in_json, make_printable

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_UNBOUNDED_COLUMNS: Final = 1_000_000
_FRAME_COLUMNS: Final = 3
"""The width of the frame and the padding of one cell."""


class SafeConsole(Console):
    """A console that prints no control character of its input, and wraps no line if the output is not a terminal."""

    @property  # type: ignore[misc]  # nobody sets the size of these two consoles
    def size(self) -> ConsoleDimensions:
        """The terminal's size; for a file or a pipe a very large width, so that each row stays on one line."""
        return super().size if self.is_terminal else ConsoleDimensions(_UNBOUNDED_COLUMNS, 25)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, where rich would end the process: `main` handles it for all kinds of output."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does: rich's own control codes pass, but control characters in a text are made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(make_printable(segment.text, kept="\n"), segment.style)


# Emoji codes are off: rich would show the :bank: in the address assets:bank:checking as an emoji.
console: Final = SafeConsole(emoji=False, highlight=False)
errors: Final = SafeConsole(stderr=True, emoji=False, highlight=False)


def make_shown(text: object) -> str:
    """Return text from outside for use in a sentence: on one line, no markup, no character that controls a terminal."""
    return escape(make_printable(str(text)))


def say(sentence: object, lead: str = "") -> None:
    """Print a line on standard output; only the terminal itself wraps it. `lead` comes first, in rich's markup."""
    console.print(f"{lead}{make_shown(sentence)}", soft_wrap=True)


def complain(sentence: object, lead: str = "") -> None:
    """Print a line on standard error, as `say` does on standard output."""
    errors.print(f"{lead}{make_shown(sentence)}", soft_wrap=True)


def show_error(sentence: str) -> None:
    """Print the one error sentence of a command that failed."""
    complain(sentence, "[bold red]error:[/] ")


def show_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on standard output, and nothing else."""
    document = escape_in_json(json.dumps(value, default=str, ensure_ascii=False, indent=indent))
    sys.stdout.write(document + "\n")
    if indent is None:
        sys.stdout.flush()  # one document of a stream: its reader waits for it


def show_text(text: str) -> None:
    """Print lines on standard output without wrapping or markup, such as a PEM file."""
    sys.stdout.write(make_printable(text, kept="\n"))


def show_rows(
    title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, columns: Iterable[str] | None = None
) -> None:
    """Print the rows as a table, or as a JSON array of objects.

    No word is ever broken or cut: if the terminal is too narrow for a table, each row becomes lines of name and value.
    """
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        console.print(f"{make_shown(title)}: none.")
        return
    names = list(columns) if columns is not None else list(rows[0])
    widths = _fit_widths(rows, names, console.width)
    if widths is None:
        _show_records(title, rows, names)
        return
    table = Table(title=make_shown(title), title_justify="left")
    for name, width in zip(names, widths, strict=True):
        numeric = all(isinstance(row.get(name), int) for row in rows)
        table.add_column(_make_heading(name), justify="right" if numeric else "left", width=width)
    for row in rows:
        table.add_row(*(make_shown(_make_cell(row, name)) for name in names))
    console.print(table)


def _make_heading(name: str) -> str:
    return name.replace("_", " ")


def _make_cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def _fit_widths(rows: Sequence[Mapping[str, Any]], names: Sequence[str], width: int) -> list[int] | None:
    """Return the width of each column, so that all columns fit and no word is broken; None if that is impossible.

    Text that is too wide wraps between words only, in the columns on the right first.
    """
    cells = [
        [make_printable(_make_heading(name)), *(make_printable(_make_cell(row, name)) for row in rows)]
        for name in names
    ]
    longest = [max(map(cell_len, column)) for column in cells]
    least = [max(cell_len(word) for cell in column for word in cell.split(" ")) for column in cells]
    left = width - sum(least) - (_FRAME_COLUMNS * len(names) + 1)
    if left < 0:
        return None
    fitted = []
    for needed, wanted in zip(least, longest, strict=True):
        more = min(wanted - needed, left)
        left -= more
        fitted.append(needed + more)
    return fitted


def _show_records(title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    say(title)
    width = max(map(len, names))
    for number, row in enumerate(rows, start=1):
        say("", f"[dim]{number} of {len(rows)}[/]")
        for name in names:
            if row.get(name) is not None:
                say(f"  {_make_heading(name):<{width}}  {_make_cell(row, name)}")


def wait_for_reader(seconds: float) -> bool:
    """Wait so many seconds and return True; return False at once if the reader of the output ends, as `head` does."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # no event is requested, so poll reports only an error or a hang-up
    ends_time = time.monotonic() + seconds
    while (left := ends_time - time.monotonic()) > 0:
        if poller.poll(left * 1000):
            return False
    return True


@contextmanager
def open_progress_bar(*, quiet: bool = False) -> Iterator[Progress]:
    """Yield a progress bar on standard error; it draws nothing if `quiet` or if standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        yield progress
