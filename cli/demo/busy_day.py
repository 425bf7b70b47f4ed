"""The ledger of a busy day, made from the imported ledger: the outcome of each intent is known by construction.

A person's transaction is seen from the platform that keeps the person's money. Every leg changes its side. An account
of the person becomes a customer's account, an expense becomes a merchant's account, and an income becomes an outside
source. The transaction still balances.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from domain.intents import CREDIT, DEBIT, DIRECTION_NAMES, Leg
from producers.importing.model import ImportIntent, format_rfc3339

DAY_START: Final = 1_767_571_200_000_000  # 2026-01-05T00:00:00Z in microseconds
DAY_SECONDS: Final = 86_400
TEMPLATE_LEGS_MAX: Final = 6
FUNDING_ACCOUNT: Final = "external:treasury"
CONSTRAINED: Final = ("users:", "merchants:")
_RANDOM_FACTOR_MAX: Final = 3
_CURRENCY: Final = "USD"

Balances = dict[tuple[str, str], int]


class Share(NamedTuple):
    """The number of intents in a thousand that are not plain postings, by kind."""

    duplicate: int = 15
    conflict: int = 5
    insufficient_funds: int = 10
    unknown_account: int = 3
    unknown_currency: int = 2


@dataclass
class Expected:
    """The expected results, counted while the day is made; `balances` are debits minus credits, in minor units."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    balances: Balances = field(default_factory=lambda: defaultdict(int))
    debits: Counter[str] = field(default_factory=Counter)
    """The sum of all posted debits by currency; the credits are the same."""

    def post(self, legs: Iterable[Leg]) -> None:
        """Count an intent that will be posted."""
        self.outcomes["posted"] += 1
        for leg in legs:
            self.balances[leg.account, leg.currency] += leg.direction * leg.amount_minor
            if leg.direction == DEBIT:
                self.debits[leg.currency] += leg.amount_minor

    def reject(self, reason: str, count: int = 1) -> None:
        """Count intents that will be rejected."""
        self.outcomes["rejected"] += count
        self.reasons[reason] += count


@dataclass(frozen=True)
class BusyDay:
    """Requests to POST /v1/intents/batch, each a list of NDJSON lines, and their expected results.

    `funding` must be settled before `day` is sent: it gives every account that has a floor exactly what it will spend.
    A duplicate or conflicting intent is in the same request as its original, so that both reach Kafka, in this order.
    """

    funding: list[list[bytes]]
    day: list[list[bytes]]
    expected: Expected

    @property
    def intents(self) -> int:
        """The number of intents in both parts."""
        return sum(map(len, self.funding)) + sum(map(len, self.day))


def make_day(
    imported: Sequence[ImportIntent],
    *,
    intents: int,
    customers: int,
    batch_items: int,
    seed: int,
    share: Share | None = None,
) -> BusyDay:
    """Make a day of `intents` intents over `customers` customers; the same arguments give the same day."""
    chosen = random.Random(seed)  # noqa: S311  a seeded demo, no secret
    share = share or Share()
    templates = [intent for intent in imported if len(intent.legs) <= TEMPLATE_LEGS_MAX]
    expected, spent = Expected(), defaultdict[tuple[str, str], int](int)
    batches: list[list[bytes]] = [[]]
    kinds = _choose_kinds(share)
    made = 0
    while made < intents:
        if len(batches[-1]) >= batch_items - 1:
            batches.append([])
        template = templates[chosen.randrange(len(templates))]
        legs = _vary_legs(template.legs, chosen.randrange(customers), chosen)
        kind = kinds[chosen.randrange(len(kinds))]
        lines = _make_lines(kind, f"day:{seed}:{made}", legs, template.reference, chosen, expected, spent)
        batches[-1].extend(lines)
        made += len(lines)
    return BusyDay(_make_funding(spent, seed, batch_items, expected), batches, expected)


def _choose_kinds(share: Share) -> list[str]:
    kinds = [name for name, count in share._asdict().items() for _ in range(count)]
    return kinds + ["plain"] * (1000 - len(kinds))


def _make_lines(
    kind: str,
    key: str,
    legs: tuple[Leg, ...],
    reference: str | None,
    chosen: random.Random,
    expected: Expected,
    spent: Balances,
) -> list[bytes]:
    """Return one intent of the kind, or two if the second is a duplicate or a conflict; count their outcomes."""
    value_time = DAY_START + chosen.randrange(DAY_SECONDS) * 1_000_000
    if kind in {"insufficient_funds", "unknown_account", "unknown_currency"}:
        expected.reject(kind)
        return [_make_line(key, _make_doomed_legs(kind, chosen), reference, value_time)]
    expected.post(legs)
    for leg in legs:
        if leg.account.startswith(CONSTRAINED) and leg.direction == DEBIT:
            spent[leg.account, leg.currency] += leg.amount_minor
    first = _make_line(key, legs, reference, value_time)
    if kind == "duplicate":
        expected.outcomes["duplicate"] += 1
        return [first, first]
    if kind == "conflict":
        expected.outcomes["idempotency_conflict"] += 1
        return [first, _make_line(key, legs, f"{reference or ''} (altered)", value_time)]
    return [first]


def _make_doomed_legs(kind: str, chosen: random.Random) -> tuple[Leg, ...]:
    """Return legs that the API accepts and the posting worker must reject."""
    amount = chosen.randrange(1, 100_000)
    account = "nowhere:at:all" if kind == "unknown_account" else f"users:pauper-{chosen.randrange(100)}:wallet"
    currency = "NOSUCHUNIT" if kind == "unknown_currency" else _CURRENCY
    return (Leg(account, DEBIT, amount, currency), Leg("merchants:anything", CREDIT, amount, currency))


def _vary_legs(legs: Iterable[Leg], customer: int, chosen: random.Random) -> tuple[Leg, ...]:
    """Return the legs for one customer: all amounts times one small factor; two legs in USD get up to 99 cents more."""
    factor = chosen.randint(1, _RANDOM_FACTOR_MAX)
    legs = tuple(legs)
    more = chosen.randrange(100) if len(legs) == 2 and legs[0].currency == _CURRENCY else 0
    return tuple(
        Leg(_choose_account(leg.account, customer), -leg.direction, leg.amount_minor * factor + more, leg.currency)
        for leg in legs
    )


def _choose_account(address: str, customer: int) -> str:
    root, _, rest = address.partition(":")
    name = rest.replace(":", "-")
    if root in {"assets", "liabilities"}:
        return f"users:{customer}:{name}"
    if root == "expenses":
        return f"merchants:{name}"
    return address if root == "clearing" else f"external:{name}"


def _make_funding(spent: Balances, seed: int, batch_items: int, expected: Expected) -> list[list[bytes]]:
    """Return one funding intent for each owner that spends, in requests of `batch_items`."""
    owners: dict[str, list[Leg]] = defaultdict(list)
    for (account, currency), amount in sorted(spent.items()):
        owner = ":".join(account.split(":")[:2])
        owners[owner].append(Leg(FUNDING_ACCOUNT, DEBIT, amount, currency))
        owners[owner].append(Leg(account, CREDIT, amount, currency))
    lines = []
    for owner, legs in owners.items():
        expected.post(legs)
        lines.append(_make_line(f"funding:{seed}:{owner}", tuple(legs), "Opening balance", DAY_START))
    return [lines[start : start + batch_items] for start in range(0, len(lines), batch_items)]


def _make_line(key: str, legs: Iterable[Leg], reference: str | None, value_time: int) -> bytes:
    item: dict[str, Any] = {
        "idempotency_key": key,
        "type": "transfer",
        "legs": [
            {
                "account": leg.account,
                "direction": DIRECTION_NAMES[leg.direction],
                "amount_minor": leg.amount_minor,
                "currency": leg.currency,
            }
            for leg in legs
        ],
        "reference": reference,
        "value_time": format_rfc3339(value_time),
    }
    return orjson.dumps(item)
