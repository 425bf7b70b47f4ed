"""The output of the demo: a line for each step that is done, and the running step below."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.demo.watching import STAGES, PipelineWatch

REFRESHES_PER_SECOND: Final = 8
_TITLE_WIDTH: Final = 66
_BAR_WIDTH: Final = 34


class Screen:
    """The output of one demo: it prints each step that ends, and shows the running step at a terminal.

    With `quiet` it prints nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._note = ""
        self._title = ""
        self._started = 0.0
        self._watch: tuple[PipelineWatch, int] | None = None

    def heading(self, text: str) -> None:
        """Print the line that begins a part."""
        if not self._quiet and self._console.is_terminal:
            self._console.rule(f"[bold]{text}", align="left")
        elif not self._quiet:
            self._console.print(f"── {text}", markup=False)

    def note(self, text: str) -> None:
        """Set the text beside the spinner of the running step."""
        self._note = text

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Draw a step while it runs; the caller prints its line with `done`."""
        self._title, self._note, self._started = title, "", time.monotonic()
        if self._quiet or not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console,
            get_renderable=self._make_current,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        ):
            yield

    def done(self, title: str, detail: str, seconds: float, *, held: bool) -> None:
        """Print the line of a step that has ended."""
        if self._quiet:
            return
        mark = "[green]✓[/]" if held else "[bold red]✗[/]"
        if not self._console.is_terminal:  # lines in a file are not wrapped
            self._console.print(f"{mark} {escape(title)}  {seconds:.1f} s\n  {escape(detail)}", soft_wrap=True)
            return
        line = Table.grid(padding=(0, 1))
        line.add_column(width=1)
        line.add_column(width=_TITLE_WIDTH)
        line.add_column(width=7, justify="right")
        line.add_row(mark, escape(title), f"[dim]{seconds:.1f} s[/]")
        line.add_row("", f"[cyan]{escape(detail)}[/]", "")
        self._console.print(line, highlight=False)

    @contextmanager
    def watch(self, watch: PipelineWatch, total: int) -> Iterator[None]:
        """Draw the pipeline's stages, each as a bar up to `total`, below the running step."""
        self._watch = (watch, total)
        try:
            yield
        finally:
            self._watch = None

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a text."""
        if not self._quiet:
            self._console.print(renderable)

    def _make_current(self) -> RenderableType:
        seconds = time.monotonic() - self._started
        text = Text.from_markup(f"{escape(self._title)} [dim]{seconds:5.1f} s  {escape(self._note)}[/]")
        spinner = Spinner("dots", text=text, style="cyan")
        return Group(spinner, _make_stages(*self._watch)) if self._watch else spinner


def _make_stages(watch: PipelineWatch, total: int) -> RenderableType:
    """Return each stage as a bar with its count and rate, and the lag of each lane."""
    latest, rates = watch.latest(), watch.rates()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=12, justify="right")
    grid.add_column(width=_BAR_WIDTH)
    grid.add_column(width=10, justify="right")
    grid.add_column(width=12, justify="right", style="dim")
    for stage in STAGES:
        count = watch.sent if stage == "sent" else latest.counts[stage] if latest else 0
        bar = ProgressBar(total=max(total, 1), completed=min(count, total), width=_BAR_WIDTH)
        grid.add_row(stage, bar, f"{count:,}", f"{max(rates[stage], 0):,.0f}/s")
    lags = "  ".join(f"lane {lane}: {lag:,}" for lane, lag in sorted(latest.lags.items())) if latest else ""
    below = f"         lag  {watch.trouble or lags}"
    return Group(grid, Text(below, style="dim", overflow="ellipsis", no_wrap=True))
