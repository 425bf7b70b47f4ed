"""Check that the books balance: each row, each shard, the totals, every floor at every moment, and every reversal.

How floors are checked. A transaction that draws an account down locks the account before it reads the balance, and
holds the lock until it has committed. A transaction that only raises an account takes no lock. The check orders rows by
the commit timestamp of their transaction (`moment`), which Postgres tracks. Postgres takes this timestamp before the
commit becomes visible and before the locks are released. Two facts follow:

- If two transactions draw down one account, the second reads the balance after the first one's timestamp, and its own
  timestamp is later. So the timestamp order of draw-downs is the order of the decisions.
- A raise that a transaction saw has an earlier timestamp than that transaction.

So at each draw-down, this order contains exactly the draw-downs that the decision saw, and at least the raises that it
saw. The computed balance is never below the balance that the decision saw, and a correct decision is never reported as
a fault. This needs one clock that does not go back: the clock of the database server. If Postgres does not track commit
timestamps, booked_time replaces them. A worker takes booked_time after the locks and before the commit, so the order is
right as long as the workers' clocks agree. A chaos run that shifts the workers' clocks must track commit timestamps.

Rows with one timestamp belong to one transaction. Within the transaction, the rows of one lane are in order, but the
order of the lanes is not recorded. The check takes the order that is kindest to the floor: only what no order allows is
a fault.

A balance below its floor may rise, but must not fall. The account must have the whole amount that a row takes before
that row: what the same row gives to the account does not count.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple

from tools.chaos.oracle.model import Account, Findings, Leg, Plants, Record, Row, place_of
from tools.chaos.oracle.tables import Shard, Tables

SIGNS: Final = {"debit": 1, "credit": -1}

Holding = tuple[str, str, str]
"""Tenant, account, currency."""
Side = tuple[str, str, str]
"""Account, direction of the original's leg, currency."""


class Change(NamedTuple):
    """The change that a row makes to a holding. Amounts count on the normal side of the account."""

    moment: int
    lane: int
    seq: int
    amount_minor: int
    drawn_minor: int
    """The amount that the row takes, without the amount that it gives."""


class Reversals:
    """The amounts that the posted reversals of one original took back."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.taken: dict[Side, int] = {}
        self.takes_all = False


class Balances:
    """The sums of all rows, built lane by lane."""

    def __init__(self, accounts: Mapping[tuple[str, str], Account], findings: Findings) -> None:
        self._accounts = accounts
        self._findings = findings
        # (tenant, account, currency, lane) -> debits, credits, last seq
        self._shards: dict[tuple[str, str, str, int], list[int]] = {}
        self._changes: dict[Holding, list[Change]] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._reversals: dict[tuple[str, str], Reversals] = {}
        # Legs of rows that were altered on purpose, from the published record: the tables no longer have them.
        self._stood_in: dict[tuple[str, str], tuple[str, list[Leg]]] = {}

    def take(self, row: Row, *, stands_in: bool, takes_all: bool) -> None:
        """Add a row.

        `stands_in`: the row is built from the published record. `takes_all`: it reverses all that is left of its
        original.
        """
        record = row.record
        tenant = record.tenant or ""
        for detail in _row_faults(row):
            self._findings.add("balanced", place_of(record.lane, record.seq), detail)
        if stands_in and record.outcome == "posted":
            self._stood_in[tenant, record.intent_id or ""] = (record.type or "", list(record.legs))
        if record.reverses is not None and record.outcome == "posted":
            self._reverse(tenant, record.reverses, record, takes_all)
        changes: dict[Holding, list[int]] = {}
        for account, direction, amount_minor, currency in record.legs:
            shard = self._shards.setdefault((tenant, account, currency, record.lane), [0, 0, 0])
            shard[direction != "debit"] += amount_minor
            shard[2] = max(shard[2], record.seq)
            signed = SIGNS.get(direction, 0) * amount_minor
            self._totals[tenant, currency] = self._totals.get((tenant, currency), 0) + signed
            kept = self._accounts.get((tenant, account))
            if kept is not None and kept.floor_minor is not None:
                holding = (tenant, account, currency)
                change = changes.setdefault(holding, [0, 0])
                change[0] += signed * kept.normal_direction
                change[1] += max(-signed * kept.normal_direction, 0)
        for holding, (amount_minor, drawn_minor) in changes.items():
            moved = Change(row.moment, record.lane, record.seq, amount_minor, drawn_minor)
            self._changes.setdefault(holding, []).append(moved)

    def _reverse(self, tenant: str, original: str, record: Record, takes_all: bool) -> None:
        where = place_of(record.lane, record.seq)
        reversals = self._reversals.setdefault((tenant, original), Reversals(where))
        reversals.takes_all |= takes_all
        mirror = {"debit": "credit", "credit": "debit"}
        for account, direction, amount_minor, currency in record.legs:
            side = (account, mirror.get(direction, direction), currency)
            reversals.taken[side] = reversals.taken.get(side, 0) + amount_minor

    def finish(self, tables: Tables, plants: Plants, found_shards: set[str]) -> None:
        """Run the checks that need all rows. `found_shards` are the shards for which reconciliation has a break."""
        self._check_shards(tables.shards(), plants, found_shards)
        for (tenant, currency), difference in sorted(self._totals.items()):
            if difference:
                detail = f"Debits less credits are {difference}, not 0."
                self._findings.add("trial_balance", f"{tenant} {currency}", detail)
        self._check_floors()
        self._check_reversals(tables)

    def _check_shards(self, held: Iterable[Shard], plants: Plants, found_shards: set[str]) -> None:
        owed = dict(self._shards)
        for shard in held:
            self._findings.counts["shards"] += 1
            sums = owed.pop((shard.tenant or "", shard.account, shard.currency, shard.lane), None)
            has = [shard.debits_minor, shard.credits_minor, shard.seq]
            where = f"{shard.tenant} {shard.account} {shard.currency} lane {shard.lane}"
            if has == sums or (plants.shards(shard.lane) and where in found_shards):
                continue
            found = "no entry" if sums is None else _shown(sums)
            self._findings.add("balances", where, f"The shard has {_shown(has)}; the entries have {found}.")
        for (tenant, account, currency, lane), sums in owed.items():
            where = f"{tenant} {account} {currency} lane {lane}"
            if not (plants.shards(lane) and where in found_shards):
                self._findings.add("balances", where, f"There is no shard; the entries have {_shown(sums)}.")

    def _check_floors(self) -> None:
        for holding, changes in self._changes.items():
            floor = self._accounts[holding[:2]].floor_minor
            if floor is None:
                continue
            balance = 0
            changes.sort()
            for change in _kindest(changes, floor):
                left = balance - change.drawn_minor
                if change.drawn_minor > 0 and left < floor:
                    detail = f"{' '.join(holding)} falls to {left}, below its floor of {floor}."
                    self._findings.add("floors", place_of(change.lane, change.seq), detail)
                balance += change.amount_minor

    def _check_reversals(self, tables: Tables) -> None:
        originals = tables.originals(sorted({original for _, original in self._reversals}))
        for name, reversals in self._reversals.items():
            kind, legs = self._stood_in.get(name) or originals.get(name, ("", []))
            if kind != "transfer":
                self._findings.add("reversals", reversals.where, f"It reverses {name[1]}, which is no posted transfer.")
                continue
            moved: dict[Side, int] = {}
            for account, direction, amount_minor, currency in legs:
                moved[account, direction, currency] = moved.get((account, direction, currency), 0) + amount_minor
            for side, taken in reversals.taken.items():
                if taken > moved.get(side, 0):
                    detail = f"Of {moved.get(side, 0)} that {name[1]} moved, {taken} are taken back: {' '.join(side)}."
                    self._findings.add("reversals", reversals.where, detail)
            if reversals.takes_all and reversals.taken != moved:
                self._findings.add("reversals", reversals.where, f"It should reverse all that is left of {name[1]}.")


def _shown(sums: list[int]) -> str:
    debits, credits, seq = sums
    return f"debits {debits}, credits {credits}, last seq {seq}"


def _row_faults(row: Row) -> Iterator[str]:
    record = row.record
    if (record.outcome == "posted") != bool(record.legs):
        yield f"It is {record.outcome} and has {len(record.legs)} entries."
    if row.leg_count != len(record.legs) or row.leg_numbers != tuple(range(len(record.legs))):
        yield f"It has the entries {list(row.leg_numbers)}, of {row.leg_count}."
    if row.foreign:
        yield "An entry is of an account of another tenant, or of none."
    sums: dict[str, int] = {}
    for _, direction, amount_minor, currency in record.legs:
        if amount_minor <= 0 or direction not in SIGNS:
            yield f"An entry is a {direction} of {amount_minor}."
        sums[currency] = sums.get(currency, 0) + SIGNS.get(direction, 0) * amount_minor
    for currency, difference in sums.items():
        if difference:
            yield f"Debits less credits in {currency} are {difference}, not 0."


def _kindest(changes: list[Change], floor: int) -> Iterator[Change]:
    """Yield the changes by moment. Order the lanes of one moment to keep the balance above the floor, if possible.

    Lanes with a net raise come first, by the starting balance that they need, lowest first. Then the lanes with a net
    draw, by that starting balance plus their (negative) total, highest first. No other order needs a lower starting
    balance.
    """
    for _, together in groupby(changes, key=lambda change: change.moment):
        lanes = [list(part) for _, part in groupby(together, key=lambda change: change.lane)]
        if len(lanes) > 1:
            lanes.sort(key=lambda part: _rank(part, floor))
        for part in lanes:
            yield from part


def _rank(part: list[Change], floor: int) -> tuple[bool, float]:
    total = 0
    needed = float("-inf")
    for change in part:
        if change.drawn_minor > 0:
            needed = max(needed, floor - total + change.drawn_minor)
        total += change.amount_minor
    return (False, needed) if total >= 0 else (True, -(needed + total))
