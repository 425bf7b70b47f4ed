"""The records that importers exchange: the content of a source, before and after conversion to minor units."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from domain.errors import LedgerlineError
from domain.intents import DIRECTION_NAMES, Leg

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class ImportingError(LedgerlineError):
    """The whole import fails: a file, a mapping or a tool is missing or wrong, or the API refuses."""


class Place(NamedTuple):
    """A place in the source; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Problem(NamedTuple):
    """An item that carries money and cannot be mapped: its place, and one sentence that says why."""

    place: Place
    sentence: str


class LegOrigin(StrEnum):
    """The origin of a leg's amount."""

    WRITTEN = "written"
    """The source states the amount, so it must be exact in minor units."""
    INTERPOLATED = "interpolated"
    """The source's tool computed it from the other legs. It is rounded to minor units; the report says by how much."""
    WEIGHED = "weighed"
    """Units times cost or price, rounded to minor units, half to even."""


class DraftLeg(NamedTuple):
    """One leg before conversion to minor units; a positive amount is a debit."""

    account: str
    amount: Decimal
    currency: str
    origin: LegOrigin = LegOrigin.WRITTEN


class Draft(NamedTuple):
    """One transaction of the source. Its accounts are mapped, its amounts are still decimals."""

    place: Place
    idempotency_key: str
    value_time: int
    """Microseconds since 1970-01-01 UTC."""
    legs: tuple[DraftLeg, ...]
    reference: str | None
    metadata: dict[str, str]
    tolerances: dict[str, Decimal]
    """The imbalance of the legs that the source allows, per currency; 0 for a currency that is not listed."""


class Assertion(NamedTuple):
    """A balance that the source asserts for an account and all accounts below it, just before `value_time`."""

    place: Place
    account: str
    amount: Decimal
    currency: str
    tolerance: Decimal
    value_time: int


class SourceSum(NamedTuple):
    """An account's final sum in one currency, as the source's own tool computes it; positive is a debit balance."""

    account: str
    amount: Decimal
    currency: str


@dataclass(frozen=True)
class SourceLedger:
    """Everything that a reader found in one source. Nothing is dropped silently."""

    drafts: list[Draft] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    assertions: list[Assertion] = field(default_factory=list)
    sums: list[SourceSum] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)
    """Reasons why nothing of the source may be posted, such as a failed plugin: everything read may be wrong."""
    notes: list[str] = field(default_factory=list)
    """Decisions of the reader that people should know, one sentence each."""
    understood: dict[str, Any] = field(default_factory=dict)
    """How the file itself was read, such as its encoding and columns; for a preview."""
    without_money: Counter[str] = field(default_factory=Counter)
    """Directives or lines that carry no money, counted by kind."""


class ImportIntent(NamedTuple):
    """One intent that is ready to be posted, and its place in the source."""

    place: Place
    idempotency_key: str
    legs: tuple[Leg, ...]
    reference: str | None
    metadata: dict[str, str]
    value_time: int

    def item(self) -> dict[str, Any]:
        """Return the intent as an item of POST /v1/intents/batch."""
        return {
            "idempotency_key": self.idempotency_key,
            "type": "transfer",
            "legs": [
                {
                    "account": leg.account,
                    "direction": DIRECTION_NAMES[leg.direction],
                    "amount_minor": leg.amount_minor,
                    "currency": leg.currency,
                }
                for leg in self.legs
            ],
            "reference": self.reference,
            "metadata": self.metadata,
            "value_time": format_rfc3339(self.value_time),
        }


def format_rfc3339(time: int) -> str:
    """Return microseconds since 1970 as an RFC 3339 text in UTC."""
    return (_EPOCH + time * _MICROSECOND).isoformat().replace("+00:00", "Z")


def from_rfc3339(text: str) -> int:
    """Return the microseconds since 1970 of an RFC 3339 date-time, as the API writes them."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def start_of_day(day: date) -> int:
    """Return midnight UTC of a date, in microseconds since 1970."""
    return (datetime(day.year, day.month, day.day, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def format_plain_decimal(number: Decimal) -> str:
    """Return a decimal as people write it: without an exponent and without trailing zeros after the point."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in {"-0", ""} else text
