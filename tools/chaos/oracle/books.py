"""The books balance: in each row, in each shard, in total, against every floor at every moment, and in every reversal.

Floors. Who draws an account down holds its lock from before it reads the balance until it has committed; who raises
it takes no lock. Rows are ordered by the moment at which their transaction committed, as Postgres tracks it. That
moment is taken before the commit becomes visible and before its locks are let go. So of two transactions that draw one
account down, the second read its balance after the first's moment, and its own is later still: their order here is the
order in which they were decided. And whatever raise a transaction saw has an earlier moment than its own. At each
draw-down this order has therefore at least the raises that were seen, and just the draw-downs that were: the balance
computed is never below the one that the decision saw, and a decision that was right is never called wrong. It needs one
clock that does not go back: the database server's. Where commits are not tracked, booked_time takes its place: it is
taken after the locks and before the commit, so the same holds as long as the workers' clocks agree; a chaos run that
moves their clocks must track commits.

Rows of one moment are of one transaction. Within it a lane's rows follow one another, but which lane was decided first
is not recorded: the order is taken that is kindest to the floor, and only what no order allows is a fault.

A balance below its floor may rise, and must not fall. All that a row takes from an account must have been there before
the row: what the same row gives the account does not count.
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
    """What a row does to a holding, on the normal side of its account."""

    moment: int
    lane: int
    seq: int
    amount_minor: int
    drawn_minor: int
    """What it takes, without what it gives."""


class Reversals:
    """What the posted reversals of one original took back."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.taken: dict[Side, int] = {}
        self.takes_all = False


class Books:
    """Adds up all rows, lane by lane."""

    def __init__(self, accounts: Mapping[tuple[str, str], Account], findings: Findings) -> None:
        self._accounts = accounts
        self._findings = findings
        # (tenant, account, currency, lane) -> debits, credits, last seq
        self._shards: dict[tuple[str, str, str, int], list[int]] = {}
        self._changes: dict[Holding, list[Change]] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._reversals: dict[tuple[str, str], Reversals] = {}
        # Rows that a published record stands in for: the tables cannot be asked for their legs.
        self._stood_in: dict[tuple[str, str], tuple[str, list[Leg]]] = {}

    def take(self, row: Row, *, stands_in: bool, takes_all: bool) -> None:
        """A row; `takes_all`: it reverses all that was left of its original."""
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
        """What can be said once every row was taken; `found_shards` are those that reconciliation has a break of."""
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
    """The changes by moment; lanes of one moment in the order that keeps the balance above the floor if any does.

    First the lanes that raise in all, those first that need least before; then the others, those first that leave most
    room for what their own draw-downs need. No other order needs less before it.
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
