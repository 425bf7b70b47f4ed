"""The bench's one table: on a terminal, as JSON, and in docs/performance.md."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from domain.errors import LedgerlineError
from tools.bench.figures import Figure

HEADINGS: Final = ("figure", "ours", "limit", "ratio", "reach", "")
TABLE_MARK: Final = "<!-- the table: written by `python -m tools.bench --document` -->"
CLUSTER_MARK: Final = "<!-- the cluster: written by `python -m tools.bench --document` -->"
DISK_MARK: Final = "<!-- the disk: written by `python -m tools.bench --document` -->"
END_MARK: Final = "<!-- end -->"


class DocumentError(LedgerlineError):
    """The document lacks the marks of the table, or a file has no figures of the bench."""


def cells(figure: Figure) -> tuple[str, ...]:
    """Return a figure as a row of the table, one text for each of HEADINGS."""
    sign = "<" if figure.is_ceiling else ">="
    is_ratio = figure.ratio is not None
    return (
        figure.name,
        _amount(figure.ours, figure.unit),
        "" if figure.limit is None else _amount(figure.limit, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        f"{sign} {figure.reach:.2f}" if is_ratio else f"{sign} {_amount(figure.reach, figure.unit)}",
        "held" if figure.held else "NOT held",
    )


def _amount(value: float, unit: str) -> str:
    digits = 1 if unit in ("ms", "us", "%") and abs(value) < 100 else 0
    number = f"{value:,.{digits}f}".removesuffix(".0")
    return f"{number}{unit}" if unit in ("/s", "%") else f"{number} {unit}"


def text_table(figures: Iterable[Figure]) -> str:
    """Return plain columns for a terminal or a log."""
    rows = [HEADINGS, *(cells(figure) for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    lines = []
    for row in rows:
        numbers = (f"{text:>{width}}" for text, width in zip(row[1:5], widths[1:5], strict=True))
        lines.append("  ".join((f"{row[0]:<{widths[0]}}", *numbers, row[5])).rstrip())
    return "\n".join(lines)


def markdown_table(figures: Iterable[Figure]) -> str:
    """Return the same table as Markdown."""
    rows = [f"| {' | '.join(cells(figure))} |" for figure in figures]
    return "\n".join((f"| {' | '.join(HEADINGS[:-1])} | |", "|---|--:|--:|--:|--:|---|", *rows))


def run_document(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return a run as a document for JSON: its time, its machine and its figures."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "figures": [figure.document() for figure in figures],
    }


def read_figures(paths: Sequence[Path]) -> list[Figure]:
    """Return the figures of several runs, in order of first appearance. For equal keys the later file's figure counts.

    Raise DocumentError if a file has no figures of the bench.
    """
    found: dict[str, Figure] = {}
    for path in paths:
        try:
            run = json.loads(path.read_text())
            found |= {made["key"]: Figure.from_document(made) for made in run["figures"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DocumentError(
                f"{path} is no output of `make bench JSON=FILE` ({error}): name one that is."
            ) from error
    return list(found.values())


def disk_table(parts: Mapping[str, float]) -> str:
    """Return the bytes for each posting by part, the largest first, as Markdown."""
    rows = [f"| {name} | {size:.1f} |" for name, size in sorted(parts.items(), key=lambda part: -part[1])]
    return "\n".join(("| part | bytes each |", "|---|--:|", *rows, f"| all | {sum(parts.values()):.1f} |"))


def written_into(text: str, mark: str, written: str) -> str:
    """Return the document with `written` between `mark` and the next END_MARK.

    Raise DocumentError if the document lacks one of the two marks.
    """
    before, begin, rest = text.partition(mark)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise DocumentError(f"The document lacks the line {mark}, and {END_MARK} behind it: put them where this goes.")
    return f"{before}{mark}\n\n{written}\n\n{END_MARK}{after}"
