"""Turn beancount's records, as the outside reader prints them, into drafts of intents."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from domain.intents import METADATA_ENTRIES_MAX, METADATA_KEY_PATTERN, METADATA_VALUE_CHARACTERS_MAX
from domain.money import find_minor_unit_fault, get_iso_exponent
from producers.importing.addresses import (
    AddressError,
    exchange_account,
    make_beancount_address,
    make_unit_code,
    normalize_text,
)
from producers.importing.keys import KeyMaker
from producers.importing.model import (
    Assertion,
    Draft,
    DraftLeg,
    ImportingError,
    LegOrigin,
    Place,
    Problem,
    SourceLedger,
    SourceSum,
    start_of_day,
)
from runtime.settings import REPOSITORY_ROOT

READER_SECONDS_MAX: Final = 600
_NOT_INSTALLED: Final = 3
_UNREADABLE: Final = 4
_ROOTS: Final = ("assets", "liabilities", "equity", "income", "expenses")
# Transactions that beancount makes itself to fill a pad directive; their narration holds the amount.
_PAD_FLAG: Final = "P"
# Flags that say whether somebody has checked a transaction. They change without moving money.
_CLEARING_FLAGS: Final = frozenset({"*", "!"})

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return the records that the outside reader prints for a file. Raise ImportingError if it cannot run or dies."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "producers.importing.beancount_reader", str(path.resolve())],
            cwd=REPOSITORY_ROOT,
            env={**os.environ, "PYTHONUTF8": "1"},
            capture_output=True,
            timeout=READER_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImportingError(
            f"Reading {path} took more than {READER_SECONDS_MAX} seconds: import it in parts."
        ) from error
    if done.returncode == _NOT_INSTALLED:
        raise ImportingError(
            "Reading beancount files needs the package beancount: run `pip install 'ledgerline[import]'`."
        )
    if done.returncode == _UNREADABLE:
        raise ImportingError(f"The file {path} cannot be read: name an existing beancount file.")
    records = [json.loads(line) for line in done.stdout.decode().splitlines()] if done.returncode == 0 else []
    if not records or records[-1]["kind"] != "end":
        trouble = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ImportingError(f"The beancount reader failed on {path}: {trouble[0]}.")
    return records


def read_ledger(
    path: Path, ledger_name: str | None = None, key_metadata: str | None = None, tickers: Iterable[str] = ()
) -> SourceLedger:
    """Read a beancount file.

    `key_metadata` names a metadata member that identifies a transaction. `tickers` are commodities that are not the
    ISO 4217 currency of the same code.
    """
    return map_records(read_records(path), ledger_name, key_metadata, tickers)


def map_records(
    records: Iterable[Record],
    ledger_name: str | None = None,
    key_metadata: str | None = None,
    tickers: Iterable[str] = (),
) -> SourceLedger:
    """Turn the records into drafts, problems, assertions and sums. Pure."""
    kept = list(records)
    found = {code for code in find_tickers(kept) if code not in tickers}
    ledger = _Mapping(KeyMaker(ledger_name), key_metadata, found | set(tickers)).run(kept)
    for code in sorted(found):
        why = find_minor_unit_fault(code)
        ledger.notes.append(
            f"{code} is an ISO 4217 code, but the file never uses it as money: it is booked as the unit "
            f"{make_unit_code(code, is_ticker=True)}."
            if why is None
            else f"{code} {why} So it is booked as {make_unit_code(code, is_ticker=True)}."
        )
    return ledger


def find_tickers(records: Iterable[Record]) -> set[str]:
    """Return the commodities that have an ISO 4217 code but are no money.

    Such a commodity is held at cost in all of its postings, and is neither the cost or price of another commodity nor
    an operating currency. A code without a minor unit, such as XAU, is never money.
    """
    at_cost: set[str] = set()
    money: set[str] = set()
    for record in records:
        if record["kind"] == "options":
            money |= set(record["operating"])
        for posting in record["postings"] if record["kind"] == "transaction" else ():
            (at_cost if posting["cost"] else money).add(posting["units"]["currency"])
            money |= {amount["currency"] for amount in (posting["cost"], posting["price"]) if amount}
    tickers = {code for code in at_cost - money if get_iso_exponent(code) is not None}
    return tickers | {code for code in at_cost | money if find_minor_unit_fault(code) is not None}


class _Mapping:
    def __init__(self, keys: KeyMaker, key_metadata: str | None, tickers: set[str]) -> None:
        self._keys = keys
        self._key_metadata = key_metadata
        self._tickers = tickers
        self._roots: dict[str, str] = {}
        self._sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self._ledger = SourceLedger()

    def run(self, records: Iterable[Record]) -> SourceLedger:
        handlers = {
            "options": self._map_options,
            "transaction": self._map_transaction,
            "balance": self._map_balance,
            "other": self._map_other,
            "error": self._map_error,
            "sum": self._map_sum,
        }
        for record in records:
            if record["kind"] != "end":
                handlers[record["kind"]](record)
        self._ledger.sums.extend(
            SourceSum(account, number, code) for (account, code), number in sorted(self._sums.items())
        )
        return self._ledger

    def _map_options(self, record: Record) -> None:
        self._roots = {record["roots"][name]: name for name in _ROOTS}

    def _map_other(self, record: Record) -> None:
        self._ledger.without_money[record["directive"]] += 1

    def _map_error(self, record: Record) -> None:
        self._note_problem(record, f"Beancount refuses this: {record['message']}")
        if record["fatal"]:
            self._ledger.faults.append(self._ledger.problems.pop())

    def _note_problem(self, record: Record, sentence: str) -> None:
        place = record["place"]
        self._ledger.problems.append(Problem(Place(place["file"], place["line"]), sentence))

    def _map_unit(self, commodity: str) -> str:
        return make_unit_code(commodity, is_ticker=commodity in self._tickers)

    def _map_address(self, account: str) -> str:
        try:
            return make_beancount_address(account, self._roots)
        except AddressError as error:
            raise AddressError(f"The account {account} {error}.") from error

    def _map_balance(self, record: Record) -> None:
        try:
            account = self._map_address(record["account"])
        except AddressError as error:
            return self._note_problem(record, str(error))
        self._ledger.assertions.append(
            Assertion(
                Place(record["place"]["file"], record["place"]["line"]),
                account,
                Decimal(record["number"]),
                self._map_unit(record["currency"]),
                Decimal(record["tolerance"]),
                start_of_day(date.fromisoformat(record["date"])),
            )
        )
        return None

    def _map_sum(self, record: Record) -> None:
        try:
            account = self._map_address(record["account"])
        except AddressError:
            return  # Its transactions are listed as problems already.
        # Two names in the file may be one account: the same text in NFC and in NFD.
        self._sums[account, self._map_unit(record["currency"])] += Decimal(record["number"])

    def _map_transaction(self, record: Record) -> None:
        # Make the key even if the mapping fails, so that a later fix changes no other transaction's ordinal.
        key = self._make_key(record)
        postings = record["postings"]
        if all(Decimal(posting["units"]["number"]) == 0 for posting in postings):
            self._ledger.without_money["transaction of zero"] += 1
            return
        try:
            legs = [leg for posting in postings for leg in self._make_legs(posting)]
        except AddressError as error:
            self._note_problem(record, str(error))
            return
        if key is None:
            self._note_problem(
                record, f"An earlier transaction has the same {self._key_metadata}: each transaction needs its own."
            )
            return
        self._ledger.drafts.append(
            Draft(
                place=Place(record["place"]["file"], record["place"]["line"]),
                idempotency_key=key,
                value_time=start_of_day(date.fromisoformat(record["date"])),
                legs=tuple(legs),
                reference=normalize_text(record["narration"] or record["payee"] or "") or None,
                metadata=_make_metadata(record),
                tolerances={self._map_unit(code): Decimal(number) for code, number in record["tolerances"].items()},
            )
        )

    def _make_key(self, record: Record) -> str | None:
        """Return the key from the metadata member that the user named, or from the content if the member is missing.

        Return None if an earlier transaction has the same member value.
        """
        name = self._key_metadata
        if name is not None and name in record["meta"]:
            return self._keys.make_named({"by": name, "id": record["meta"][name]})
        return self._keys.counted(_make_content(record))

    def _make_legs(self, posting: Record) -> list[DraftLeg]:
        """Return the posting's own leg and, if its weight is in another commodity, the two legs of the exchange."""
        units, weight = posting["units"], posting["weight"]
        amount, unit = Decimal(units["number"]), self._map_unit(units["currency"])
        origin = LegOrigin.INTERPOLATED if posting["interpolated"] else LegOrigin.WRITTEN
        legs = [DraftLeg(self._map_address(posting["account"]), amount, unit, origin)]
        if weight["currency"] != units["currency"]:
            # The account has the name of the commodity, not of its unit. Either name is unique for a commodity.
            exchange = exchange_account(units["currency"])
            weighed = self._map_unit(weight["currency"])
            legs.append(DraftLeg(exchange, -amount, unit, origin))
            legs.append(DraftLeg(exchange, Decimal(weight["number"]), weighed, LegOrigin.WEIGHED))
        return legs


def _make_content(record: Record) -> dict[str, Any]:
    """Return the content that identifies a transaction: what people wrote, not what beancount computed.

    Interpolated amounts, and the lots that a sale is booked against, may change when earlier lines change. The changed
    transaction then keeps its key and is reported as a conflict. A new key would post it a second time.
    """
    written: dict[tuple[str, str], Decimal | None] = {}
    for posting in record["postings"]:
        where = (normalize_text(posting["account"]), posting["units"]["currency"])
        before = written.get(where, Decimal(0))
        number = None if posting["interpolated"] or before is None else before + Decimal(posting["units"]["number"])
        written[where] = number
    padded = record["flag"] == _PAD_FLAG
    return {
        "by": "content",
        "date": record["date"],
        "flag": "" if record["flag"] in _CLEARING_FLAGS else record["flag"] or "",
        "payee": record["payee"] or "",
        "narration": "pad" if padded else record["narration"] or "",
        "tags": record["tags"],
        "links": record["links"],
        "postings": [
            [account, currency, None if number is None or padded else _normalize(number)]
            for (account, currency), number in sorted(written.items(), key=lambda item: item[0])
        ],
    }


def _normalize(number: Decimal) -> str:
    """Return the same text for equal numbers: 5, 5.0 and 5.00 are the same amount."""
    return format(number.normalize() if number else Decimal(0), "f")


def _make_metadata(record: Record) -> dict[str, str]:
    """Return what the legs cannot say. Leave out line numbers: they would make equal transactions look different."""
    found = {
        "flag": "" if record["flag"] in _CLEARING_FLAGS else record["flag"] or "",
        "payee": record["payee"] or "",
    }
    found["tags"] = " ".join(record["tags"])
    found["links"] = " ".join(record["links"])
    for number, posting in enumerate(record["postings"], start=1):
        lot = _format_lot(posting)
        if lot:
            found[f"lot.{number}"] = lot
    for number, posting in enumerate(record["postings"], start=1):
        found |= {f"posting.{number}.{name}": value for name, value in posting["meta"].items()}
    found |= {f"meta.{name}": value for name, value in record["meta"].items()}
    kept = {
        name: normalize_text(value).replace("\x00", "")[:METADATA_VALUE_CHARACTERS_MAX]
        for name, value in found.items()
        if value and METADATA_KEY_PATTERN.fullmatch(name)
    }
    return dict(list(kept.items())[:METADATA_ENTRIES_MAX])


def _format_lot(posting: Record) -> str:
    """Return units, cost and price in beancount's form, such as `-27 ITOT {46.43 USD, 2022-10-03} @ 48.56 USD`."""
    cost, price, units = posting["cost"], posting["price"], posting["units"]
    if cost is None and price is None:
        return ""
    words = [units["number"], units["currency"]]
    if cost is not None:
        label = f', "{cost["label"]}"' if cost["label"] else ""
        words.append(f"{{{cost['number']} {cost['currency']}, {cost['date']}{label}}}")
    if price is not None:
        words.append(f"@ {price['number']} {price['currency']}")
    return " ".join(words)
