"""Read the rows of a CSV file: decode it, find its header, and leave out lines that carry no money."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from producers.importing.addresses import normalize_text
from producers.importing.csv_mapping import FileFormat, Mapping
from producers.importing.model import ImportingError, Place, Problem, SourceLedger

HEADER_LINES_MAX: Final = 50
_BYTE_ORDER_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


class Row(NamedTuple):
    """One row: its cells by column, in NFC and without white space at the ends."""

    place: Place
    cells: dict[str, str]


class Table(NamedTuple):
    """A file whose header is found."""

    path: Path
    header: list[str]
    header_line: int
    """The header's line, from 1; 0 if the file has no header."""
    lines: list[str]
    """The lines after the header."""
    lines_before: int


def open_table(path: Path, mapping: Mapping) -> Table:
    """Read a file and find its header. Raise ImportingError if the file cannot be read or lacks a column."""
    style = mapping.file
    # Split lines as csv does: str.splitlines also splits at characters that may stand inside a cell.
    lines = list(io.StringIO(_read_text(path, style), newline=""))
    if style.header:
        start = style.skip_lines or 0
        _check_columns(path, list(style.header), mapping)
        return Table(path, list(style.header), 0, lines[start:], start)
    start = _find_header(lines, mapping) if style.skip_lines is None else style.skip_lines
    header = _make_header(lines[start], style) if start < len(lines) else []
    _check_columns(path, header, mapping)
    return Table(path, header, start + 1, lines[start + 1 :], start + 1)


def _read_text(path: Path, style: FileFormat) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImportingError(f"The file {path} cannot be read: {error.strerror}.") from error
    encoding = style.encoding.lower().replace("_", "-")
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            if not encoding.startswith(name):
                raise ImportingError(
                    f"The file {path} begins with the mark of {name}, but file.encoding is {encoding}: "
                    f'set it to "{name}".'
                )
            break
    encoding = "utf-8-sig" if encoding in {"utf-8", "utf8"} else encoding
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ImportingError(
            f"The file {path} cannot be read as {encoding}: line {line} has other bytes. "
            'Set file.encoding, such as "cp1252", "latin-1" or "utf-16".'
        ) from error
    except LookupError as error:
        raise ImportingError(f"There is no encoding {style.encoding!r}: set file.encoding, such as utf-8.") from error


def _make_header(line: str, style: FileFormat) -> list[str]:
    """Return the names of the columns. A name that repeats gets its number, such as `Name (2)`."""
    cells = next(csv.reader([line], delimiter=style.delimiter, quotechar=style.quote), [])
    header: list[str] = []
    for cell in cells:
        name, number = normalize_text(cell).strip(), 1
        while (f"{name} ({number})" if number > 1 else name) in header:
            number += 1
        header.append(f"{name} ({number})" if number > 1 else name)
    return header


def _find_header(lines: list[str], mapping: Mapping) -> int:
    """Return the index of the first line that has all columns of the mapping; 0 if none has."""
    wanted = mapping.columns()
    for number, line in enumerate(lines[:HEADER_LINES_MAX]):
        if wanted <= set(_make_header(line, mapping.file)):
            return number
    return 0


def _check_columns(path: Path, header: list[str], mapping: Mapping) -> None:
    missing = sorted(mapping.columns() - set(header))
    if missing:
        raise ImportingError(
            f"The file {path} has no column {missing[0]!r}; it has {', '.join(map(repr, header)) or 'none'}."
        )


def read_rows(table: Table, mapping: Mapping, ledger: SourceLedger) -> Iterator[Row]:
    """Yield the rows that carry money. Count the other lines; rows of a wrong length become problems."""
    style, used = mapping.file, mapping.columns()
    reader = csv.reader(table.lines, delimiter=style.delimiter, quotechar=style.quote, strict=True)
    before = 0
    try:
        for cells in reader:
            place, before = Place(str(table.path), table.lines_before + before + 1), reader.line_num
            plain = [normalize_text(cell).strip() for cell in cells]
            line = style.delimiter.join(plain)
            if style.stop is not None and re.search(style.stop, line):
                ledger.without_money["line after the rows"] += len(table.lines) - reader.line_num + 1
                return
            kind = _find_kind_without_money(plain, line, table.header, style)
            if kind is not None:
                ledger.without_money[kind] += 1
                continue
            fitted = _fit_cells(plain, table.header, used)
            if fitted is None:
                ledger.problems.append(
                    Problem(place, f"The row has {len(cells)} cells where the header has {len(table.header)}.")
                )
            else:
                yield Row(place, dict(zip(table.header, fitted, strict=True)))
    except csv.Error as error:
        raise ImportingError(
            f"The file {table.path} is no CSV with delimiter {style.delimiter!r} after line "
            f"{table.lines_before + before}: {error}."
        ) from error


def _find_kind_without_money(cells: list[str], line: str, header: list[str], style: FileFormat) -> str | None:
    """Return the kind of a line that carries no money, or None if the line is a row."""
    if not any(cells):
        return "blank line"
    if style.comment is not None and cells[0].startswith(style.comment):
        return "comment"
    if style.skip is not None and re.search(style.skip, line):
        return "skipped line"
    if [cell for cell in cells if cell] == [re.sub(r" \(\d+\)$", "", name) for name in header if name]:
        return "repeated header"
    return None


def _fit_cells(cells: list[str], header: list[str], used: set[str]) -> list[str] | None:
    """Return as many cells as the header has. Return None if an extra cell has text or a used cell is missing."""
    if any(cells[len(header) :]) or any(name in used for name in header[len(cells) :]):
        return None
    return cells[: len(header)] + [""] * (len(header) - len(cells))
