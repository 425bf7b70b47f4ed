"""Turn a CSV file and its mapping into drafts of intents: each row is one transfer between two accounts."""

import re
from collections import defaultdict
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from domain.intents import METADATA_ENTRIES_MAX, METADATA_VALUE_CHARACTERS_MAX
from producers.importing.addresses import AddressError, check_address, escape_segment
from producers.importing.csv_mapping import Mapping, Opening
from producers.importing.csv_rows import Row, Table, open_table, read_rows
from producers.importing.csv_values import Moment, UnmappableError, read_amount, read_currency, read_moment
from producers.importing.keys import KeyMaker
from producers.importing.model import (
    Draft,
    DraftLeg,
    Place,
    Problem,
    SourceLedger,
    format_plain_decimal,
    start_of_day,
)


class _Figures(NamedTuple):
    """The figures of a row, and the account that they belong to."""

    account: str
    currency: str
    moment: Moment
    change: Decimal
    """The amount that the account gains; negative for money out."""
    fee: Decimal
    balance: Decimal | None


class _Step(NamedTuple):
    """One row of a running balance; `change` is None if the row could not be read."""

    place: Place
    change: Decimal | None
    balance: Decimal | None


def read_ledger(path: Path, mapping: Mapping, ledger_name: str | None = None) -> SourceLedger:
    """Read a CSV file by its mapping. Raise ImportingError if the file cannot be read or lacks a column."""
    table = open_table(path, mapping)
    keys = KeyMaker(ledger_name or mapping.name)
    ledger = SourceLedger(understood=_describe(table, mapping))
    for number, opening in enumerate(mapping.opening, start=1):
        place = Place("the mapping's opening balances", number)
        try:
            ledger.drafts.append(_make_opening_draft(place, opening, keys))
        except (UnmappableError, AddressError) as error:
            ledger.problems.append(Problem(place, str(error)))
    steps: dict[tuple[str, str], list[_Step]] = defaultdict(list)
    groups: dict[tuple[str, ...], list[Draft]] = {}
    for row in read_rows(table, mapping, ledger):
        try:
            if _is_skipped(row, mapping, ledger):
                continue
            figures = _read_figures(row, mapping)
            steps[figures.account, figures.currency].append(_Step(row.place, figures.change, figures.balance))
            draft = _make_draft(row, figures, mapping, keys)
        except UnmappableError as error:
            ledger.problems.append(Problem(row.place, str(error)))
            for history in steps.values():
                history.append(_Step(row.place, None, None))
            continue
        group = tuple(row.cells[column] for column in mapping.group.columns) if mapping.group is not None else ()
        if any(group):
            groups.setdefault(group, []).append(draft)
        elif not any(leg.amount for leg in draft.legs):
            ledger.without_money["row of zero"] += 1
        else:
            ledger.drafts.append(draft)
    ledger.drafts.extend(_merge_group(group, drafts, keys) for group, drafts in groups.items())
    for history in steps.values():
        ledger.faults.extend(_find_untied(history))
    return ledger


def _describe(table: Table, mapping: Mapping) -> dict[str, Any]:
    """Describe how the file itself was read, for people who preview an import."""
    used = mapping.columns()
    return {
        "file": str(table.path),
        "dialect": mapping.dialect,
        "encoding": mapping.file.encoding,
        "delimiter": mapping.file.delimiter,
        "header_line": table.header_line,
        "decimal": mapping.amount.decimal,
        "grouping": mapping.amount.grouping,
        "columns_used": [name for name in table.header if name in used],
        "columns_not_used": [name for name in table.header if name not in used],
    }


def _is_skipped(row: Row, mapping: Mapping, ledger: SourceLedger) -> bool:
    """Return whether the status says that a row is not booked. Count such a row by its status.

    Raise UnmappableError if the mapping does not list the status.
    """
    status = mapping.status
    if status is None:
        return False
    text = row.cells[status.column]
    if text.casefold() in {value.casefold() for value in status.posted}:
        return False
    if text.casefold() in {value.casefold() for value in status.skipped}:
        ledger.without_money[f"row that is {text}"] += 1
        return True
    raise UnmappableError(f"The status {text!r} is neither in status.posted nor in status.skipped.")


def _read_figures(row: Row, mapping: Mapping) -> _Figures:
    cells = row.cells
    amount, written = _read_signed_amount(cells, mapping)
    column = mapping.currency.column
    currency = read_currency(cells[column] if column is not None else None, written, mapping.currency)
    time_column = mapping.date.time_column
    moment = read_moment(
        cells[mapping.date.column], cells[time_column] if time_column is not None else None, mapping.date
    )
    fee = Decimal(0)
    if mapping.fee is not None and cells[mapping.fee.column]:
        fee = read_amount(cells[mapping.fee.column], mapping.amount).number
        fee = -fee if mapping.fee.sign == "negative_is_cost" else fee
    change = amount if mapping.fee is None or mapping.fee.amount_is == "net" else amount - fee
    balance = None
    if mapping.balance is not None and cells[mapping.balance.column]:
        balance = read_amount(cells[mapping.balance.column], mapping.amount).number
    return _Figures(_make_account(mapping.accounts.account, cells, mapping), currency, moment, change, fee, balance)


def _read_signed_amount(cells: dict[str, str], mapping: Mapping) -> tuple[Decimal, str | None]:
    """Return the amount, positive for money in, and the currency that is written beside it."""
    style = mapping.amount
    if style.column is None:
        return _read_amount_of_two(cells, mapping)
    number, currency = read_amount(cells[style.column], style)
    if style.indicator_column is not None:
        side = cells[style.indicator_column].casefold()
        if number < 0:
            raise UnmappableError(f"The amount is below zero, but {style.indicator_column!r} says the way.")
        if side in {value.casefold() for value in style.out_values}:
            return -number, currency
        if side not in {value.casefold() for value in style.in_values}:
            raise UnmappableError(
                f"{cells[style.indicator_column]!r} is neither in amount.in_values nor in amount.out_values."
            )
        return number, currency
    return (-number if style.sign == "positive_is_out" else number), currency


def _read_amount_of_two(cells: dict[str, str], mapping: Mapping) -> tuple[Decimal, str | None]:
    style = mapping.amount
    names = style.in_column or "", style.out_column or ""
    if not any(cells[name] for name in names):
        raise UnmappableError(f"Neither {names[0]!r} nor {names[1]!r} holds an amount.")
    money_in, money_out = (read_amount(cells[name], style) if cells[name] else None for name in names)
    number_in = money_in.number if money_in else Decimal(0)
    number_out = money_out.number if money_out else Decimal(0)
    if style.out_sign == "negative" or (style.out_sign == "either" and number_out < 0):
        number_out = -number_out
    if number_in < 0 or number_out < 0 or (number_in and number_out):
        raise UnmappableError(
            f"Only one of {names[0]!r} and {names[1]!r} may hold an amount, and none may be negative: "
            "amount.out_sign says how money out is signed."
        )
    chosen = money_in if number_in or money_out is None else money_out
    return number_in - number_out, chosen.currency if chosen else None


def _make_draft(row: Row, figures: _Figures, mapping: Mapping, keys: KeyMaker) -> Draft:
    """Return the row as a draft: two legs, or one in a group with `one_leg`, and one more leg for a fee."""
    cells = row.cells
    legs = [DraftLeg(figures.account, figures.change, figures.currency)]
    grouped = mapping.group is not None and any(cells[column] for column in mapping.group.columns)
    if not (grouped and mapping.group is not None and mapping.group.one_leg) and (figures.change or figures.fee):
        counter_account = _make_account(_choose_counter_template(cells, mapping), cells, mapping)
        legs.append(DraftLeg(counter_account, -figures.change - figures.fee, figures.currency))
    if mapping.fee is not None and figures.fee:
        legs.append(DraftLeg(_make_account(mapping.fee.account, cells, mapping), figures.fee, figures.currency))
    key: str | None = ""
    if not grouped and (figures.change or figures.fee):
        key = _make_key(row, mapping, keys, figures)
    if key is None:
        raise UnmappableError(f"An earlier row has the same {', '.join(mapping.key.columns)}: each row needs its own.")
    reference = None
    if mapping.reference is not None:
        reference = " ".join(mapping.reference.format_map(cells).split()) or None
    metadata = {
        name: " ".join(cells[column].split())[:METADATA_VALUE_CHARACTERS_MAX]
        for name, column in mapping.metadata.items()
    }
    return Draft(
        place=row.place,
        idempotency_key=key,
        value_time=figures.moment.value_time,
        legs=tuple(legs),
        reference=reference,
        metadata={name: value for name, value in list(metadata.items())[:METADATA_ENTRIES_MAX] if value},
        tolerances={},
    )


def _make_key(row: Row, mapping: Mapping, keys: KeyMaker, figures: _Figures) -> str | None:
    """Return the key from the account and the columns that identify a row, or else from the row's content.

    Return None if an id repeats. docs/decisions/0025-keys-of-imported-rows.md has the reasons.
    """
    columns = mapping.key.columns
    if columns and any(row.cells[column] for column in columns):
        identity = [row.cells[column] for column in columns]
        return keys.make_named({"by": "columns", "account": figures.account, "id": identity})
    content = {
        "by": "content",
        "account": figures.account,
        "time": figures.moment.written,
        "amount": format_plain_decimal(figures.change),
        "fee": format_plain_decimal(figures.fee),
        "currency": figures.currency,
    }
    # A column of figures whose text is also in the intent counts as text: rows with one key must make one intent.
    texts = set(mapping.key.text) or (row.cells.keys() - (mapping.figures() - mapping.list_texts()))
    said = sorted((name, row.cells[name]) for name in texts if row.cells[name])
    return keys.counted(content | {"text": said})


def _merge_group(group: tuple[str, ...], drafts: list[Draft], keys: KeyMaker) -> Draft:
    """Merge the rows of a group into one draft. Sort them, because exports have the rows of a day in any order."""
    ordered = sorted(drafts, key=lambda draft: (draft.value_time, draft.legs, draft.reference or ""))
    legs = tuple(leg for draft in ordered for leg in draft.legs if leg.amount)
    content = {
        "by": "group",
        "id": list(group),
        "legs": [[leg.account, format_plain_decimal(leg.amount), leg.currency] for leg in legs],
    }
    return ordered[0]._replace(
        place=min(draft.place for draft in drafts),
        idempotency_key=keys.counted(content),
        legs=legs,
    )


# ---------------------------------------------------------------------------------------------------------- balances


def _find_untied(history: list[_Step]) -> list[Problem]:
    """Return the first row whose running balance is not the balance before it plus the row's amount, if any.

    A file may run in either order, so check both and report the one that ties further.
    """
    upwards, downwards = _find_first_untied(history), _find_first_untied(history[::-1])
    if upwards is None or downwards is None:
        return []
    is_down = history[::-1].index(downwards[0]) > history.index(upwards[0])
    step, expected = downwards if is_down else upwards
    beside = "below" if is_down else "above"
    return [
        Problem(
            step.place,
            f"The running balance does not tie: with the row {beside} it, it must be {format_plain_decimal(expected)}, "
            f"but it is {format_plain_decimal(step.balance or Decimal(0))}. A row is missing, or an amount is misread.",
        )
    ]


def _find_first_untied(history: list[_Step]) -> tuple[_Step, Decimal] | None:
    """Return the first row that does not tie in this order, and the balance that it must have."""
    expected: Decimal | None = None
    for step in history:
        expected = None if step.change is None or expected is None else expected + step.change
        if step.balance is not None:
            if expected is not None and expected != step.balance:
                return step, expected
            expected = step.balance
    return None


# ---------------------------------------------------------------------------------------------------------- openings


def _make_opening_draft(place: Place, opening: Opening, keys: KeyMaker) -> Draft:
    content = {"by": "opening", "account": opening.account, "currency": opening.currency}
    key = keys.make_named(content)
    if key is None:
        raise UnmappableError(f"The account {opening.account} has two opening balances in {opening.currency}.")
    try:
        amount = Decimal(opening.amount)
        value_time = start_of_day(date.fromisoformat(opening.date))
    except (InvalidOperation, ValueError) as error:
        raise UnmappableError(
            f"The opening balance of {opening.account} needs a decimal amount and an ISO 8601 date, "
            f"not {opening.amount!r} and {opening.date!r}."
        ) from error
    for account in (opening.account, opening.counter_account):
        _check(account)
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


# --------------------------------------------------------------------------------------------------------- accounts


def _choose_counter_template(cells: dict[str, str], mapping: Mapping) -> str:
    accounts = mapping.accounts
    for rule in accounts.rules:
        if re.search(rule.matches, cells[rule.column]):
            return rule.counter_account
    if accounts.counter_account is None:
        raise UnmappableError("No rule of the mapping matches, and it has no counter_account for the rest.")
    return accounts.counter_account


def _make_account(template: str, cells: dict[str, str], mapping: Mapping) -> str:
    """Fill a template from the row. Raise UnmappableError if the row has no value for it or the result is invalid."""
    values: dict[str, str] = {}
    for _, name, _, _ in Formatter().parse(template):
        if name is not None:
            values[name] = _make_account_part(name, cells[name], mapping)
    return _check(template.format_map(values))


def _make_account_part(column: str, value: str, mapping: Mapping) -> str:
    names = mapping.accounts.names
    if value in names:
        return names[value]
    if not value:
        raise UnmappableError(f"The column {column!r} is empty: an account needs it.")
    return ":".join(map(escape_segment, value.split(":"))) if mapping.accounts.escape else value


def _check(account: str) -> str:
    try:
        return check_address(account)
    except AddressError as error:
        raise UnmappableError(
            f"The account {account!r} {error}; give it a name in accounts.names, or set accounts.escape."
        ) from error
