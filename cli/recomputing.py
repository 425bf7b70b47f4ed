"""What `reconcile` and `audit verify` share: progress, the list of breaks, and an exit code for what could not run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import typer

from cli.output import progress_bar, say, show_error
from cli.troubles import sentence_of
from domain.breaks import Finding

BREAKS_FOUND: Final = 1
COULD_NOT_RUN: Final = 2

_SHOWN_MAX: Final = 100


@contextmanager
def exit_code_for_outages() -> Iterator[None]:
    """What keeps a check from coming to a verdict is one sentence and exit code 2, not to be taken for a break."""
    try:
        yield
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        show_error(sentence)
        raise typer.Exit(COULD_NOT_RUN) from error


@contextmanager
def progress_of(names: dict[str, str], *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told step, done and total, and draws one bar for each step; `names` are the steps' titles."""
    with progress_bar(quiet=quiet) as bar:
        tasks: dict[str, Any] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(names.get(step, step), total=total)
            bar.update(tasks[step], completed=done, total=total)

        yield tell


def findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Breaks for machines: kind, subject, lane, seq, detail."""
    return [
        {"kind": f.kind.value, "subject": f.subject, "lane": f.lane, "seq": f.seq, "detail": f.detail} for f in findings
    ]


def show_findings(findings: Sequence[Finding]) -> None:
    """One line for each break; the first hundred."""
    for found in findings[:_SHOWN_MAX]:
        say(f" {found.kind.value} {found.subject}: {found.detail}", "[bold red]BREAK[/]")
    if len(findings) > _SHOWN_MAX:
        say(f"... and {len(findings) - _SHOWN_MAX:,} more; --json lists all.")
