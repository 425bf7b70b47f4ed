"""Choose the mapping of a CSV file: a mapping file, a named dialect, or the dialect that fits the file's columns."""

from pathlib import Path
from typing import Any, Final

from producers.importing.csv_dialects import DIALECTS
from producers.importing.csv_mapping import Mapping, build_mapping, read_mapping
from producers.importing.csv_rows import open_table
from producers.importing.model import ImportingError

UNSORTED_ACCOUNT: Final = "equity:unsorted"


def choose_mapping(
    file: Path, mapping: Path | None, dialect: str | None, account: str | None, counter_account: str | None
) -> Mapping:
    """Return the mapping of a file. Without a mapping file, `account` is required.

    If neither `mapping` nor `dialect` is given, the file's columns choose the dialect.
    """
    if mapping is not None:
        if account is not None or counter_account is not None:
            raise ImportingError("Accounts are in the mapping: leave out --account and --counter-account.")
        return read_mapping(mapping, dialect)
    if account is None:
        raise ImportingError("Say which account the file tells of: give --mapping FILE, or --account ADDRESS.")
    accounts = {"accounts": {"account": account, "counter_account": counter_account or UNSORTED_ACCOUNT}}
    return build_mapping(accounts, "The import", dialect or find_dialect(file, accounts))


def find_dialect(file: Path, accounts: dict[str, Any]) -> str:
    """Return the dialect whose columns the file has. If several fit, return the one that names the most columns.

    Raise ImportingError if none fits, or if several name equally many.
    """
    fitting: list[tuple[int, str]] = []
    for name in sorted(DIALECTS):
        mapping = build_mapping(accounts, "The import", name)
        if mapping.file.header:
            continue  # A dialect for files without a header fits every file.
        try:
            open_table(file, mapping)
        except ImportingError:
            continue  # The file has another dialect or cannot be read; the end of this function reports it.
        fitting.append((len(mapping.columns()), name))
    best = [name for count, name in fitting if count == max(fitting)[0]]
    if len(best) != 1:
        several = f"{' and '.join(best)} fit" if best else "none fits"
        raise ImportingError(
            f"The dialect of {file} is ambiguous ({several}): give --dialect, or a --mapping that names the columns."
        )
    return best[0]
