"""Functions for `reconcile` and `audit verify`: progress, the list of breaks, the exit code if a check cannot run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import typer

from cli.output import open_progress_bar, say, show_error
from cli.troubles import make_sentence
from domain.breaks import Finding

BREAKS_FOUND: Final = 1
COULD_NOT_RUN: Final = 2

_SHOWN_MAX: Final = 100


@contextmanager
def exit_code_for_outages() -> Iterator[None]:
    """Turn an error that prevents a verdict into one sentence and exit code 2, so that it is not taken for a break."""
    try:
        yield
    except Exception as error:
        sentence = make_sentence(error)
        if sentence is None:
            raise
        show_error(sentence)
        raise typer.Exit(COULD_NOT_RUN) from error


@contextmanager
def open_progress(names: dict[str, str], *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of step, done and total that draws one bar for each step; `names` are the steps' titles."""
    with open_progress_bar(quiet=quiet) as bar:
        tasks: dict[str, Any] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(names.get(step, step), total=total)
            bar.update(tasks[step], completed=done, total=total)

        yield tell


def make_findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the breaks for machines: kind, subject, lane, seq, detail."""
    return [
        {"kind": f.kind.value, "subject": f.subject, "lane": f.lane, "seq": f.seq, "detail": f.detail} for f in findings
    ]


def show_findings(findings: Sequence[Finding]) -> None:
    """Print one line for each of the first hundred breaks."""
    for found in findings[:_SHOWN_MAX]:
        say(f" {found.kind.value} {found.subject}: {found.detail}", "[bold red]BREAK[/]")
    if len(findings) > _SHOWN_MAX:
        say(f"... and {len(findings) - _SHOWN_MAX:,} more; --json lists all.")
