"""A second, naive ledger: it finds each intent's outcome one at a time, without any of the poster's code.

It knows no batches, lanes, locks or views. So its result holds however the real poster cuts its work into batches.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from domain.intents import AMOUNT_MINOR_MAX, Intent, Leg, compute_intent_id

ACCEPTED_TIME = 1_790_000_000_000_000

# Accounts that MODEL_CHART opens in both ledgers: pattern -> (class, side on which it grows, floor on that side).
MODEL_CHART: Mapping[str, tuple[str, int, int | None]] = {
    "free:*": ("asset", 1, None),
    "zero:*": ("liability", -1, 0),
    "overdraft:*": ("liability", -1, -100),
    "reserve:*": ("liability", -1, 50),
    "till:*": ("asset", 1, 0),
}
KNOWN_CURRENCIES = frozenset({"EUR", "USD", "JPY"})


def leg(account: str, direction: int, amount_minor: int, currency: str = "EUR") -> Leg:
    """Return a leg, in euro cents by default."""
    return Leg(account, direction, amount_minor, currency)


def pair(debit: str, credit: str, amount_minor: int, currency: str = "EUR") -> tuple[Leg, Leg]:
    """Return a debit and the credit that balances it."""
    return leg(debit, 1, amount_minor, currency), leg(credit, -1, amount_minor, currency)


def transfer(key: str, *legs: Leg, **changes: object) -> Intent:
    """Return a transfer of tenant default with exactly these legs."""
    intent = Intent(
        compute_intent_id("default", key), "default", key, "transfer", legs, None, None, None, {}, ACCEPTED_TIME
    )  # fmt: skip
    return intent._replace(**changes)


def reversal(key: str, of: str, *legs: Leg, **changes: object) -> Intent:
    """Return a reversal of the intent with the key `of`: of everything that is left of it, or of exactly these legs."""
    reverses = compute_intent_id("default", of)
    return transfer(key, *legs, **{"type": "reversal", "reverses": reverses, **changes})


def script(text: str) -> list[Intent]:
    """Return the intents of one line: `fund free:bank>zero:a 100 | back ~fund | part ~fund zero:a>free:bank 40`.

    An intent is its key, then `~` and the key that it reverses if it is a reversal, then its legs. The key is
    `tenant/key` for another tenant; `key!reference` adds a reference. The legs are `debit>credit amount`, joined by
    `+`. A side may be left out. JPY may follow the amount, and `max` is 2^63-1.
    """
    return [_scripted(line.strip()) for line in text.split("|")]


def _scripted(line: str) -> Intent:
    head, *rest = line.split(" ", 1)
    tenant, _, name = head.rpartition("/")
    key, _, reference = name.partition("!")
    changes = {"tenant": tenant or "default", "reference": reference or None}
    of, legs = None, rest[0] if rest else ""
    if legs.startswith("~"):
        of, _, legs = legs[1:].partition(" ")
    made = tuple(leg for part in legs.split("+") if part.strip() for leg in _scripted_legs(part.strip()))
    return transfer(key, *made, **changes) if of is None else reversal(key, of, *made, **changes)


def _scripted_legs(text: str) -> tuple[Leg, ...]:
    sides, amount = text.split(" ")
    debit, credit = sides.split(">")
    currency = "JPY" if amount.endswith("JPY") else "EUR"
    digits = amount.removesuffix("JPY")
    amount_minor = AMOUNT_MINOR_MAX if digits == "max" else int(digits)
    return tuple(each for each in pair(debit, credit, amount_minor, currency) if each.account)


@dataclass
class _Settled:
    body: tuple[object, ...]
    posted: tuple[Leg, ...] | None
    is_transfer: bool
    given_back: Counter[tuple[str, int, str]] = field(default_factory=Counter)


@dataclass
class LedgerModel:
    """Posts intents one by one; `balances` are debits less credits by account and currency."""

    balances: Counter[tuple[str, str]] = field(default_factory=Counter)
    settled: dict[UUID, _Settled] = field(default_factory=dict)

    def post(self, intent: Intent) -> str:
        """Post an intent; return the outcome, or the reason if it is rejected."""
        body = (intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference, intent.metadata)
        if intent.intent_id in self.settled:
            return "duplicate" if self.settled[intent.intent_id].body == body else "idempotency_conflict"
        legs, reason = self._legs(intent)
        reason = reason or self._funds(legs)
        posted = None if reason else legs
        self.settled[intent.intent_id] = _Settled(body, posted, intent.type == "transfer")
        if reason:
            return reason
        for each in legs:
            self.balances[each.account, each.currency] += each.direction * each.amount_minor
        if intent.reverses is not None:
            original = self.settled[intent.reverses]
            for each in legs:
                original.given_back[each.account, -each.direction, each.currency] += each.amount_minor
        return "posted"

    def _legs(self, intent: Intent) -> tuple[tuple[Leg, ...], str]:
        """Return the legs to post and an empty reason, or no legs and the reason of the rejection."""
        sums: Counter[str] = Counter()
        for each in intent.legs:
            sums[each.currency] += each.direction * each.amount_minor
        enough = len(intent.legs) >= 2 or (intent.type == "reversal" and not intent.legs)
        rules = (
            (not enough, "no_legs"),
            (any(each.amount_minor <= 0 for each in intent.legs), "invalid_amount"),
            (any(sums.values()), "unbalanced"),
            (any(each.currency not in KNOWN_CURRENCIES for each in intent.legs), "unknown_currency"),
            (any(chart_line(each.account) is None for each in intent.legs), "unknown_account"),
        )
        for broken, reason in rules:
            if broken:
                return (), reason
        return self._reversed(intent) if intent.reverses is not None else (intent.legs, "")

    def _reversed(self, intent: Intent) -> tuple[tuple[Leg, ...], str]:
        original = self.settled.get(intent.reverses) if intent.reverses else None
        if original is None:
            return (), "original_not_found"
        if original.posted is None or not original.is_transfer:
            return (), "original_not_reversible"
        room: Counter[tuple[str, int, str]] = Counter()
        for each in original.posted:
            room[each.account, each.direction, each.currency] += each.amount_minor
        room.subtract(original.given_back)
        left = tuple(Leg(name, -side, amount, currency) for (name, side, currency), amount in room.items() if amount)
        asked: Counter[tuple[str, int, str]] = Counter()
        for each in intent.legs:
            asked[each.account, -each.direction, each.currency] += each.amount_minor
        if not left or any(amount > room[name] for name, amount in asked.items()):
            return (), "reversal_exceeds_original"
        return intent.legs or left, ""

    def _funds(self, legs: Iterable[Leg]) -> str:
        taken: Counter[tuple[str, str]] = Counter()
        for each in legs:
            line = chart_line(each.account)
            assert line is not None
            _, side, floor = line
            if floor is not None and each.direction != side:
                taken[each.account, each.currency] += each.amount_minor
                if self.balances[each.account, each.currency] * side - taken[each.account, each.currency] < floor:
                    return "insufficient_funds"
        return ""


def chart_line(account: str) -> tuple[str, int, int | None] | None:
    """Return MODEL_CHART's line for an account: (class, side on which it grows, floor); None if there is none."""
    for pattern, line in MODEL_CHART.items():
        if re.fullmatch(pattern.replace("*", "[A-Za-z0-9_-]+"), account):
            return line
    return None
