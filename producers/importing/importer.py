"""One import from start to end: convert to minor units, register units, post, wait for outcomes, check balances."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final

import orjson

from db.books import add_unit, list_units
from db.connections import connect
from domain.intents import compute_intent_id
from producers.importing.checks import Difference, LedgerReader, find_differing_sums, find_failed_assertions
from producers.importing.minor import MappedLedger, map_drafts
from producers.importing.model import ImportingError, ImportIntent, Problem, SourceLedger, format_plain_decimal
from producers.importing.sender import BatchSender, Fate, ItemResult, Patience
from producers.importing.units import UnitPlan, plan_units

BATCH_ITEMS: Final = 500
CONNECTIONS: Final = 4
WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Prepared:
    """A source in minor units, ready to be posted."""

    source: SourceLedger
    plan: UnitPlan
    mapped: MappedLedger

    @property
    def problems(self) -> list[Problem]:
        """Everything that carries money and was not mapped, in order of place."""
        return sorted({*self.source.faults, *self.source.problems, *self.mapped.problems})


@dataclass(frozen=True)
class Unposted:
    """An intent that was sent and is not known to be posted."""

    place: str
    idempotency_key: str
    fate: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ImportReport:
    """The result of an import. `problems` lists what was not mapped."""

    transactions: int
    posted: int
    duplicates: int
    """Posted by an earlier import; nothing was posted again."""
    unposted: list[Unposted]
    problems: list[Problem]
    without_money: dict[str, int]
    units_registered: dict[str, int]
    rounded: dict[str, str]
    sums_compared: int
    assertions_checked: int
    differences: list[Difference]
    seconds: float
    retries: int = 0
    notes: list[str] = field(default_factory=list)

    def ok(self, *, allow_unmapped: bool) -> bool:
        """Return whether all mapped intents are posted and agree, and nothing is unmapped unless that is allowed."""
        return not self.unposted and not self.differences and (allow_unmapped or not self.problems)

    def document(self) -> dict[str, Any]:
        """Return the report for machines, with decimals as strings."""
        fields = asdict(self)
        fields["rejected"] = sum(item.fate == Fate.REJECTED for item in self.unposted)
        fields["problems"] = [
            {"file": problem.place.file, "line": problem.place.line, "sentence": problem.sentence}
            for problem in self.problems
        ]
        fields["differences"] = [
            difference._asdict()
            | {"expected": format_plain_decimal(difference.expected), "found": format_plain_decimal(difference.found)}
            for difference in self.differences
        ]
        return fields


def refuse_faulty(source: SourceLedger) -> None:
    """Raise ImportingError if the source has a fault. A fault makes everything doubtful, so nothing is posted."""
    if source.faults:
        first = source.faults[0]
        where = f" {first.place}:" if first.place.line else ""
        raise ImportingError(f"Nothing is posted.{where} {first.sentence}")


def prepare(
    source: SourceLedger,
    registered: Mapping[str, int],
    wanted: Mapping[str, int] | None = None,
    *,
    round_written: bool = False,
) -> Prepared:
    """Convert a source to minor units. `registered` are the units of the tenant's books. Pure."""
    plan = plan_units(source.drafts, registered, wanted, round_written=round_written)
    return Prepared(source, plan, map_drafts(source.drafts, plan, round_written=round_written))


def list_registered_units(dsn: str, tenant: str) -> dict[str, int]:
    """Return the units of a tenant's books: code -> exponent."""
    with connect(dsn, "ledgerline_operator") as connection:
        return {unit.code: unit.exponent for unit in list_units(connection, tenant)}


def register_units(dsn: str, tenant: str, units: Mapping[str, int]) -> dict[str, int]:
    """Register the missing units and return them. Posting workers see them at their next batch."""
    with connect(dsn, "ledgerline_operator") as connection:
        return {code: exponent for code, exponent in units.items() if add_unit(connection, tenant, code, exponent)}


async def post(
    intents: list[ImportIntent], api_url: str, api_key: str, on_answered: Callable[[int], None]
) -> tuple[list[ItemResult], int]:
    """Post all intents and wait for their outcomes. Return the results in order, and the number of repeats."""
    lines = [orjson.dumps(intent.item()) for intent in intents]
    batches = [lines[start : start + BATCH_ITEMS] for start in range(0, len(lines), BATCH_ITEMS)]
    patience = Patience(wait_seconds=WAIT_SECONDS)
    async with BatchSender(api_url, api_key, connections=CONNECTIONS, patience=patience) as sender:
        results = await sender.send_all(batches, on_answered)
        return [result for batch in results for result in batch], sender.retries


def check(prepared: Prepared, api_url: str, api_key: str, tenant: str) -> list[Difference]:
    """Compare what this import posted with the source's final sums and balance assertions, in exact decimals."""
    intents = prepared.mapped.intents
    accounts = sorted({leg.account for intent in intents for leg in intent.legs})
    intent_ids = {str(compute_intent_id(tenant, intent.idempotency_key)) for intent in intents}
    with LedgerReader(api_url, api_key) as reader:
        movements = list(reader.read_movements(accounts, intent_ids))
    exponents, rounded = prepared.plan.exponents, prepared.mapped.rounded
    return find_differing_sums(prepared.source.sums, movements, exponents, rounded) + find_failed_assertions(
        prepared.source.assertions, movements, exponents, rounded
    )


def make_report(
    prepared: Prepared,
    results: list[ItemResult],
    *,
    retries: int,
    units_registered: dict[str, int],
    differences: list[Difference],
    checked: bool,
    started: float,
) -> ImportReport:
    """Sum up an import that began at `started` (monotonic seconds)."""
    intents = prepared.mapped.intents
    unposted = [
        Unposted(str(intent.place), intent.idempotency_key, result.fate.value, result.reason, result.detail)
        for intent, result in zip(intents, results, strict=True)
        if result.fate is not Fate.POSTED
    ]
    posted = [result for result in results if result.fate is Fate.POSTED]
    duplicates = sum(result.replayed for result in posted)
    return ImportReport(
        transactions=len(intents),
        posted=len(posted) - duplicates,
        duplicates=duplicates,
        unposted=unposted,
        problems=prepared.problems,
        without_money=dict(prepared.source.without_money),
        units_registered=units_registered,
        rounded={
            f"{account} {currency}": format_plain_decimal(difference)
            for (account, currency), difference in _list_rounded(prepared)
        },
        sums_compared=len(prepared.source.sums) if checked else 0,
        assertions_checked=len(prepared.source.assertions) if checked else 0,
        differences=differences,
        seconds=round(time.monotonic() - started, 3),
        retries=retries,
        notes=list(prepared.source.notes),
    )


def _list_rounded(prepared: Prepared) -> list[tuple[tuple[str, str], Decimal]]:
    return sorted((where, difference) for where, difference in prepared.mapped.rounded.items() if difference)
