"""A CSV file and its mapping, turned into drafts of intents: each row is one transfer between two accounts."""

import csv
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from string import Formatter
from typing import Final, NamedTuple

from domain.intents import METADATA_ENTRIES_MAX, METADATA_VALUE_CHARACTERS_MAX
from producers.importing.addresses import AddressError, checked_address, escaped
from producers.importing.csv_mapping import AmountFormat, Mapping, Opening
from producers.importing.keys import KeyMaker
from producers.importing.model import (
    Draft,
    DraftLeg,
    ImportingError,
    Place,
    Problem,
    SourceLedger,
    plain_decimal,
    start_of_day,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _UnmappableError(ValueError):
    """Why a row cannot become a draft, in one sentence."""


class _Row(NamedTuple):
    place: Place
    cells: dict[str, str]


def read_ledger(path: Path, mapping: Mapping, ledger_name: str | None = None) -> SourceLedger:
    """Read a CSV file by its mapping; ImportingError where the file cannot be read or lacks a column."""
    keys = KeyMaker(ledger_name or mapping.name)
    ledger = SourceLedger()
    for number, opening in enumerate(mapping.opening, start=1):
        place = Place("the mapping's opening balances", number)
        try:
            ledger.drafts.append(_opening_draft(place, opening, keys))
        except (_UnmappableError, AddressError) as error:
            ledger.problems.append(Problem(place, str(error)))
    for row in _rows(path, mapping, ledger):
        try:
            draft = _draft(row, mapping, keys)
        except _UnmappableError as error:
            ledger.problems.append(Problem(row.place, str(error)))
            continue
        if draft is None:
            ledger.without_money["row of zero"] += 1
        else:
            ledger.drafts.append(draft)
    return ledger


# ------------------------------------------------------------------------------------------------------------- rows


def _rows(path: Path, mapping: Mapping, ledger: SourceLedger) -> Iterator[_Row]:
    """The rows that have as many cells as the header; others become problems, blank lines and comments are counted."""
    style = mapping.file
    try:
        with path.open(encoding=style.encoding, newline="") as file:
            for _ in range(style.skip_lines):
                file.readline()
            reader = csv.reader(file, delimiter=style.delimiter, quotechar=style.quote, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, mapping)
            before = reader.line_num
            for cells in reader:
                place, before = Place(str(path), style.skip_lines + before + 1), reader.line_num
                if not any(cell.strip() for cell in cells):
                    ledger.without_money["blank line"] += 1
                elif style.comment is not None and cells[0].startswith(style.comment):
                    ledger.without_money["comment"] += 1
                elif len(cells) != len(header):
                    ledger.problems.append(
                        Problem(place, f"The row has {len(cells)} cells where the header has {len(header)}.")
                    )
                else:
                    yield _Row(place, {name: cell.strip() for name, cell in zip(header, cells, strict=True)})
    except (OSError, UnicodeError, LookupError) as error:
        raise ImportingError(f"The file {path} cannot be read as {style.encoding}: {error}.") from error
    except csv.Error as error:
        raise ImportingError(f"The file {path} is no CSV with delimiter {style.delimiter!r}: {error}.") from error


def _check_header(path: Path, header: list[str], mapping: Mapping) -> None:
    if len(set(header)) != len(header):
        raise ImportingError(f"The header of {path} names a column twice: give each a name of its own.")
    missing = sorted(mapping.columns() - set(header))
    if missing:
        raise ImportingError(
            f"The file {path} has no column {missing[0]!r}; it has {', '.join(map(repr, header)) or 'none'}."
        )


def _key(row: _Row, mapping: Mapping, keys: KeyMaker, account: str, amount: Decimal, currency: str) -> str | None:
    """By the account and the columns that identify a row, else by all that the row says; None if an id repeats."""
    columns = mapping.key.columns
    if columns and any(row.cells[column] for column in columns):
        return keys.named({"by": "columns", "account": account, "id": [row.cells[column] for column in columns]})
    said = {
        name: cell
        for name, cell in row.cells.items()
        if cell and name not in {mapping.amount.column, mapping.amount.in_column, mapping.amount.out_column}
    }
    content = {"by": "content", "account": account, "amount": plain_decimal(amount), "currency": currency}
    return keys.counted(content | {"text": sorted(said.items())})


# ----------------------------------------------------------------------------------------------------------- values


def _draft(row: _Row, mapping: Mapping, keys: KeyMaker) -> Draft | None:
    """The row as a draft, or None where its amount is zero."""
    cells = row.cells
    value_time = _time(cells[mapping.date.column], mapping.date.format)
    amount = _amount(cells, mapping.amount)
    if amount == 0:
        return None
    currency = mapping.currency.code or cells[mapping.currency.column or ""]
    if not currency:
        raise _UnmappableError(f"The column {mapping.currency.column!r} is empty: a currency is needed.")
    account = _account(mapping.accounts.account, cells, mapping)
    key = _key(row, mapping, keys, account, amount, currency)
    if key is None:
        raise _UnmappableError(
            f"Its {', '.join(mapping.key.columns)} is that of an earlier row: each row needs one of its own."
        )
    counter_account = _account(_counter_template(cells, mapping), cells, mapping)
    reference = None
    if mapping.reference is not None:
        reference = " ".join(mapping.reference.format_map(cells).split()) or None
    metadata = {name: cells[column][:METADATA_VALUE_CHARACTERS_MAX] for name, column in mapping.metadata.items()}
    return Draft(
        place=row.place,
        idempotency_key=key,
        value_time=value_time,
        legs=(DraftLeg(account, amount, currency), DraftLeg(counter_account, -amount, currency)),
        reference=reference,
        metadata={name: value for name, value in list(metadata.items())[:METADATA_ENTRIES_MAX] if value},
        tolerances={},
    )


def _opening_draft(place: Place, opening: Opening, keys: KeyMaker) -> Draft:
    content = {"by": "opening", "account": opening.account, "currency": opening.currency}
    key = keys.named(content)
    if key is None:
        raise _UnmappableError(f"The account {opening.account} has two opening balances in {opening.currency}.")
    try:
        amount = Decimal(opening.amount)
        value_time = start_of_day(date.fromisoformat(opening.date))
    except (InvalidOperation, ValueError) as error:
        raise _UnmappableError(f"The opening balance needs a decimal amount and an ISO 8601 date: {error}.") from error
    for account in (opening.account, opening.counter_account):
        _checked(account)
    return Draft(
        place=place,
        idempotency_key=key,
        value_time=value_time,
        legs=(
            DraftLeg(opening.account, amount, opening.currency),
            DraftLeg(opening.counter_account, -amount, opening.currency),
        ),
        reference="Opening balance",
        metadata={},
        tolerances={},
    )


def _time(text: str, expected: str) -> int:
    try:
        moment = datetime.strptime(text, expected)
    except ValueError as error:
        raise _UnmappableError(f"The date {text!r} is not written as {expected}.") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _amount(cells: dict[str, str], style: AmountFormat) -> Decimal:
    """The signed amount: positive for money in."""
    if style.column is not None:
        amount = _decimal(cells[style.column], style)
        return -amount if style.sign == "positive_is_out" else amount
    texts = cells[style.in_column or ""], cells[style.out_column or ""]
    money_in, money_out = (_decimal(text, style) if text else Decimal(0) for text in texts)
    if not any(texts):
        raise _UnmappableError(f"Neither {style.in_column!r} nor {style.out_column!r} holds an amount.")
    if money_in < 0 or money_out < 0 or (money_in and money_out):
        raise _UnmappableError(
            f"Just one of {style.in_column!r} and {style.out_column!r} may hold an amount, and none below zero."
        )
    return money_in - money_out


def _decimal(text: str, style: AmountFormat) -> Decimal:
    """Read a decimal; groups must be of three digits, as 1,23 would else be read as 123."""
    plain, negative = text.replace("\u2212", "-").replace("\u00a0", " ").strip(), False
    if style.parentheses_negative and plain.startswith("(") and plain.endswith(")"):
        plain, negative = plain[1:-1], True
    group, point = re.escape(style.grouping), re.escape(style.decimal)
    grouped = rf"[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|" if style.grouping else ""
    if not re.fullmatch(rf"[+-]?(?:{grouped}[0-9]+)?(?:{point}[0-9]+)?", plain) or not re.search("[0-9]", plain):
        raise _UnmappableError(
            f"The amount {text!r} is no decimal with {style.decimal!r} and groups by {style.grouping!r}."
        )
    if style.grouping:
        plain = plain.replace(style.grouping, "")
    number = Decimal(plain.replace(style.decimal, "."))
    return -number if negative else number


# --------------------------------------------------------------------------------------------------------- accounts


def _counter_template(cells: dict[str, str], mapping: Mapping) -> str:
    accounts = mapping.accounts
    for rule in accounts.rules:
        if re.search(rule.matches, cells[rule.column]):
            return rule.counter_account
    if accounts.counter_account is None:
        raise _UnmappableError("No rule of the mapping matches, and it has no counter_account for the rest.")
    return accounts.counter_account


def _account(template: str, cells: dict[str, str], mapping: Mapping) -> str:
    """Fill a template from the row; AddressError becomes a sentence about the row."""
    values: dict[str, str] = {}
    for _, name, _, _ in Formatter().parse(template):
        if name is not None:
            values[name] = _account_part(name, cells[name], mapping)
    return _checked(template.format_map(values))


def _account_part(column: str, value: str, mapping: Mapping) -> str:
    names = mapping.accounts.names
    if value in names:
        return names[value]
    if not value:
        raise _UnmappableError(f"The column {column!r} is empty: an account needs it.")
    return ":".join(map(escaped, value.split(":"))) if mapping.accounts.escape else value


def _checked(account: str) -> str:
    try:
        return checked_address(account)
    except AddressError as error:
        raise _UnmappableError(
            f"The account {account!r} {error}; give it a name in accounts.names, or set accounts.escape."
        ) from error
