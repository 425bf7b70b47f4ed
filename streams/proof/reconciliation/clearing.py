"""Symmetry rules: accounts that must come back to a balance within a term (domain/symmetry.py).

A batch only adds rows about matched accounts, of its own lanes, so lanes do not wait for each other. The sweep matches
them. It judges an account as of the horizon: the time up to which every lane has been read. So a lane that is behind
cannot make money look late that it is about to bring back.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from db import reconciliation as db
from db import symmetry
from db.agent_connection import AgentConnection
from db.breaks import BEFORE_ALL
from domain.breaks import BreakKind, Finding
from domain.intents import DIRECTIONS
from domain.symmetry import SymmetryRule, SymmetryRules
from streams.proof.reconciliation import metrics
from streams.proof.records.decoding import JournalRecord

PAGE_ACCOUNTS: Final = 2000
RESOLVED_DETAIL: Final = "The money came back, or the rule does not apply any more."


def list_movements(records: Iterable[JournalRecord], rules: SymmetryRules) -> list[symmetry.Movement]:
    """Return what the records moved on accounts that a rule matches, added up by record, account and side."""
    moved: dict[tuple[str, str, str, int, int, int], tuple[int, int]] = {}
    match = rules.match
    for record in records:
        for leg in record["legs"]:
            if match(leg["account"]) is None:
                continue
            direction = DIRECTIONS.get(leg["direction"], 0)
            if direction:
                place = (record["tenant"] or "", leg["account"], leg["currency"], direction, record["lane"])
                key = (*place, record["seq"])
                before = moved.get(key, (0, 0))[0]
                moved[key] = (before + leg["amount_minor"], record["booked_time"])
    return [symmetry.Movement(*key, *values) for key, values in moved.items()]


def compute_horizon(connection: Any, now: int) -> int:
    """Return up to which time every lane has been read, in microseconds since 1970; `now` if no lane is behind.

    `now` must be read before the lanes are.
    """
    rows = db.LANES.read(connection)
    ends = [now]
    for lane, ledger in db.read_ledger_lanes(connection).items():
        row = rows.get(lane)
        if ledger.next_seq > (row.next_seq if row is not None else 0):
            ends.append(row.booked_time if row is not None else 0)
    return min(ends)


def make_subject(account: symmetry.AccountKey, rule: SymmetryRule) -> str:
    """Return the subject of the break about an account; it names the rule."""
    return f"{' '.join(account)} rule {rule.name}"


def find_overdue(
    account: symmetry.AccountKey, rule: SymmetryRule, away: symmetry.Away | None, horizon: int
) -> Finding | None:
    """Return the finding if the account has been away for longer than its rule allows, else None."""
    if away is None or away.since_time is None or away.since_time + rule.term_seconds * 1_000_000 >= horizon:
        return None
    since = datetime.fromtimestamp(away.since_time // 1_000_000, UTC).isoformat()
    detail = (
        f"By rule {rule.name} it must come back to {rule.balance_minor} within {rule.term_seconds} seconds."
        f" It is away by {away.net_minor} minor units, and the oldest of them since {since}."
    )
    tenant, address, currency = account
    evidence: dict[str, str | int] = {"tenant": tenant, "address": address, "currency": currency, "rule": rule.name}
    return Finding(BreakKind.CLEARING, make_subject(account, rule), detail, evidence=evidence)


class ClearingSweep:
    """The sweep over the accounts of symmetry rules, page by page, each page in a transaction of its own."""

    def __init__(self, store: AgentConnection, rules: SymmetryRules) -> None:
        self._store = store
        self._rules = rules

    def list_pages(self) -> Iterator[None]:
        """Prune and judge all accounts with rows, then judge all open breaks again, and set the gauges."""
        now = time.time_ns() // 1000
        with self._store.transaction() as connection:
            horizon = compute_horizon(connection, now)
        seen: dict[str, list[int]] = {rule.name: [] for rule in self._rules.rules}
        late = dict.fromkeys(seen, 0)
        end: symmetry.AccountKey | None = symmetry.BEFORE_ALL
        while end is not None:
            with self._store.transaction() as connection:
                page = symmetry.read_accounts(connection, end, PAGE_ACCOUNTS)
                end = page[-1] if len(page) == PAGE_ACCOUNTS else None
                self._judge_page(connection, page, horizon, seen, late)
            yield
        yield from self._resolve_pages(horizon)
        metrics.show_clearing(seen, late)

    def add_unknown(self, connection: Any, shards: Iterable[db.ShardKey]) -> None:
        """Let accounts that were away before their rule began count from now."""
        found = {}
        for tenant, address, currency, _ in shards:
            rule = self._rules.match(address)
            if rule is not None:
                found[tenant, address, currency] = rule.balance_minor
        if found:
            symmetry.add_unknown(connection, found, time.time_ns() // 1000)

    def _judge_page(
        self,
        connection: Any,
        page: list[symmetry.AccountKey],
        horizon: int,
        seen: Mapping[str, list[int]],
        late: dict[str, int],
    ) -> None:
        rules = {account: rule for account in page if (rule := self._rules.match(account[1])) is not None}
        wanted = {account: rule.balance_minor for account, rule in rules.items()}
        if page:
            symmetry.prune(connection, wanted, [account for account in page if account not in rules], horizon)
        findings = []
        for account, away in symmetry.judge(connection, wanted).items() if wanted else ():
            rule = rules[account]
            if away.since_time is not None:
                seen[rule.name].append(away.since_time)
            finding = find_overdue(account, rule, away, horizon)
            if finding is not None:
                late[rule.name] += 1
                findings.append(finding)
        db.BREAKS.record(connection, findings)

    def _resolve_pages(self, horizon: int) -> Iterator[None]:
        after = BEFORE_ALL
        while True:
            with self._store.transaction() as connection:
                page = db.BREAKS.unresolved(connection, PAGE_ACCOUNTS, after, [BreakKind.CLEARING])
                wanted = {}
                rules = {}
                for item in page:
                    account = (
                        str(item.evidence["tenant"]), str(item.evidence["address"]), str(item.evidence["currency"]),
                    )  # fmt: skip
                    rule = self._rules.match(account[1])
                    if rule is not None and make_subject(account, rule) == item.subject:
                        wanted[account], rules[item.break_id] = rule.balance_minor, (account, rule)
                away = symmetry.judge(connection, wanted) if wanted else {}
                gone = [
                    item.break_id
                    for item in page
                    if item.break_id not in rules
                    or find_overdue(*rules[item.break_id], away.get(rules[item.break_id][0]), horizon) is None
                ]
                db.BREAKS.resolve(connection, gone, RESOLVED_DETAIL)
            yield
            if len(page) < PAGE_ACCOUNTS:
                return
            after = page[-1].break_id
