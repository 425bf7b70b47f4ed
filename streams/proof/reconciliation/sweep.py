"""What reconciliation does between batches: sweeps over all stored rows, rechecks of open breaks, and gauges.

A sweep finds faults that no batch would touch: shards that were edited without posting, and journal rows or entries
without their counterpart. It works page by page, each page in its own transaction, within a time budget for each call.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

from db import reconciled_frame
from db import reconciliation as db
from db.agent_connection import AgentConnection
from db.proving import stray_rows
from db.rejections import RecentBooks
from domain.breaks import Break, BreakKind, Finding, record_subject
from runtime.metrics import show_age
from streams.proof.proving import PagedSweep
from streams.proof.reconciliation import checks, frame, metrics, state
from streams.proof.reconciliation.agent import LedgerLookups, compare_shards
from streams.proof.reconciliation.faithful import repeat_still_wrong
from streams.proof.reconciliation.frame import FrameSource
from streams.proof.reconciliation.source import IntentSource

PAGE_SHARDS: Final = 2000
PAGE_ROWS: Final = 5000
STRAYS_MAX: Final = 100
RECHECKED_MAX: Final = 100
BUDGET_SECONDS: Final = 0.4
GAUGE_SECONDS: Final = 2.0
# For `sweep_all`: how long one read may wait for the end of ledger.frame.
SETTLING_SECONDS_MAX: Final = 10.0
RESOLVED_DETAIL: Final = "Checked again, and both sides agree."


def entries_finding(lane: int, seq: int, detail: str, *, is_stray: bool = False) -> Finding:
    """Return the finding for a journal row of the ledger that is missing, is surplus, or has wrong entries."""
    evidence: dict[str, str | int] = {"is_stray": int(is_stray)}
    return Finding(BreakKind.ENTRIES, record_subject(lane, seq), detail, lane, seq, evidence=evidence)


def stray_detail(has_row: bool) -> str:
    """Return the sentence for a row or entries outside the lane."""
    return ("A journal row lies" if has_row else "Entries without a journal row lie") + " outside the lane."


def lane_findings(row: db.LaneRow, ledger: db.LedgerLane | None, bounds: tuple[int, int], owed: int) -> list[Finding]:
    """Check conservation of one lane: received = fates + owed by the topic + in flight, and no term is below 0.

    `bounds`: the lowest and the next offset of the lane of payments.intents, read after `row`. `owed`: the number of
    records in gaps.
    """
    wrong = []
    fates = row.posted + row.duplicate + row.idempotency_conflict + row.rejected + row.quarantined
    if fates + owed != row.next_seq:
        wrong.append(f"{fates} fates and {owed} missing records are not the {row.next_seq} of the lane's sequence.")
    if row.source_first_offset is not None:
        if row.source_first_offset + row.next_seq > bounds[1]:
            last = row.source_first_offset + row.next_seq - 1
            wrong.append(f"Offset {last} has a fate, but the lane of payments.intents ends at {bounds[1]}.")
        if ledger is not None and ledger.first_offset != row.source_first_offset:
            wrong.append(f"The ledger began at offset {ledger.first_offset}, the journal at {row.source_first_offset}.")
    if ledger is not None and ledger.next_seq < row.next_seq:
        wrong.append(f"The ledger's lane stands at seq {ledger.next_seq}, the journal's topic at {row.next_seq}.")
    if ledger is not None and ledger.booked_time != ledger.last_booked_time:
        wrong.append(
            f"The ledger's lane was booked at {ledger.booked_time}, its last row at {ledger.last_booked_time}."
        )
    return [Finding(BreakKind.CONSERVATION, f"lane {row.lane}", detail, row.lane) for detail in wrong]


def next_seq_of(lane: db.LedgerLane | None) -> int:
    """Return the next seq of the ledger's lane; 0 if the ledger has no such lane."""
    return 0 if lane is None else lane.next_seq


class Chores:
    """The chores of one reconciling worker; `run` returns within about a second."""

    def __init__(
        self,
        store: AgentConnection,
        source: IntentSource,
        frame_source: FrameSource,
        pause_seconds: float,
    ) -> None:
        self._store = store
        self._source = source
        self._frame_source = frame_source
        self._breaks = db.BREAKS
        self._sweep = PagedSweep(self._pages, pause_seconds, metrics.SWEEP_SECONDS)
        self._gauges_due = 0.0
        self._recheck_after: Break | None = None

    def run(self, spare_share: float = 1.0) -> None:
        """Set gauges, recheck open breaks, then sweep pages for the time that batches leave, but at least one page."""
        if time.monotonic() >= self._gauges_due:
            self.gauges()
            self.take_facts()
            self._gauges_due = time.monotonic() + GAUGE_SECONDS
        self.recheck()
        self._sweep.turn_pages(BUDGET_SECONDS * spare_share)

    def sweep_all(self) -> None:
        """Do one whole sweep and all rechecks without a time limit; for tests and for a last check before a stop."""
        self.gauges()
        while self.take_facts(SETTLING_SECONDS_MAX):
            pass
        for _ in self._pages():
            pass
        self._recheck_after = None
        while self.recheck():
            pass

    # ------------------------------------------------------------------------------------------ the sweep

    def _pages(self) -> Iterator[None]:
        ledger_end: tuple[int, str, int] | None = (-1, "", -1)
        while ledger_end is not None:
            with self._store.transaction() as connection:
                pairs, ledger_end = db.sweep_ledger_shards(connection, ledger_end, PAGE_SHARDS)
                self._found(connection, compare_shards(connection, pairs))
            metrics.SWEPT.labels("shards").inc(len(pairs))
            yield
        own_end: db.ShardKey | None = ("", "", "", -1)
        while own_end is not None:
            with self._store.transaction() as connection:
                pairs, own_end = db.sweep_own_shards(connection, own_end, PAGE_SHARDS)
                self._found(connection, compare_shards(connection, [pair for pair in pairs if pair.held is None]))
            yield
        with self._store.transaction() as connection:
            lanes = db.LANES.read(connection)
        for lane, row in sorted(lanes.items()):
            for first in range(0, row.next_seq, PAGE_ROWS):
                end = min(first + PAGE_ROWS, row.next_seq)
                with self._store.transaction() as connection:
                    faulty = db.faulty_rows(connection, lane, first, end)
                    self._found(connection, [entries_finding(lane, f.seq, checks.stored_row(f)) for f in faulty])
                metrics.SWEPT.labels("rows").inc(end - first)
                yield
        with self._store.transaction() as connection:
            strays = stray_rows(connection, STRAYS_MAX)
            self._found(
                connection, [entries_finding(lane, seq, stray_detail(has), is_stray=True) for lane, seq, has in strays]
            )
        yield

        yield from self._frame_pages()

    def take_facts(self, seconds_max: float = frame.READ_SECONDS_MAX) -> int:
        """Read new facts from ledger.frame, compare its chains with the ledger's, and return the number of facts."""
        with self._store.transaction() as connection:
            findings, taken = frame.take_facts(connection, self._frame_source, seconds_max)
            pairs = reconciled_frame.chain_pairs(connection)
            self._found(connection, findings + frame.chain_findings(pairs))
        metrics.FACTS_OWED.set(frame.owed(pairs))
        return taken

    def _frame_pages(self) -> Iterator[None]:
        for part, query in frame.row_pages():
            end: tuple[str, str] | None = ("", "")
            while end is not None:
                with self._store.transaction() as connection:
                    if frame.owed(reconciled_frame.chain_pairs(connection)) > frame.AWAITED_MAX:
                        return
                    pairs, end = reconciled_frame.unequal_rows(connection, query, part, end, frame.PAGE_ROWS)
                    self._found(connection, frame.judged(connection, pairs))
                yield

    def _found(self, connection: Any, findings: list[Finding]) -> None:
        self._breaks.record(connection, findings)

    # ------------------------------------------------------------------------------------------ rechecks of open breaks

    def recheck(self) -> bool:
        """Check a page of unresolved breaks again and resolve those that are gone; return False after the last page."""
        with self._store.transaction() as connection:
            after = None if self._recheck_after is None else self._recheck_after.break_id
            page = self._breaks.unresolved(connection, RECHECKED_MAX, after)
            self._recheck_after = page[-1] if len(page) == RECHECKED_MAX else None
            gone = [item.break_id for item in page if self._is_gone(connection, item)]
            self._breaks.resolve(connection, gone, RESOLVED_DETAIL)
            metrics.show_breaks(
                self._breaks.found_by, self._breaks.counts(connection), self._breaks.open_breaks(connection)
            )
        return self._recheck_after is not None

    def _is_gone(self, connection: Any, item: Break) -> bool:
        evidence = item.evidence
        if item.kind == BreakKind.BALANCE and evidence:
            key = (str(evidence["tenant"]), str(evidence["address"]), str(evidence["currency"]), int(evidence["lane"]))
            pairs = db.shard_pairs(connection, [key])
            self._found(connection, compare_shards(connection, pairs))
            return all(checks.shard(pair) is None and checks.shard_is_proved(pair) for pair in pairs)
        if item.kind == BreakKind.ENTRIES and item.lane is not None and item.seq is not None:
            if evidence.get("is_stray"):
                places = {(lane, seq) for lane, seq, _ in stray_rows(connection, STRAYS_MAX)}
                return (item.lane, item.seq) not in places
            return not db.faulty_rows(connection, item.lane, item.seq, item.seq + 1)
        if item.kind == BreakKind.FRAME:
            return frame.is_gone(connection, item)
        if item.kind == BreakKind.FAITHFULNESS and "fingerprint" in evidence:
            return not repeat_still_wrong(item, LedgerLookups(connection, RecentBooks()))
        return False

    # ------------------------------------------------------------------------------------------ gauges

    def gauges(self) -> None:
        """Set the gauges of conservation, lag and symmetry, and open or resolve the breaks about lanes and totals."""
        with self._store.transaction() as connection:
            rows = db.LANES.read(connection)
            owed: dict[int, int] = {}
            for lane, _ in db.gaps(connection, list(rows)):
                owed[lane] = owed.get(lane, 0) + 1
            ledger = db.ledger_lanes(connection)
            behind = [
                (lane, row.next_seq) for lane, row in rows.items() if row.next_seq < next_seq_of(ledger.get(lane))
            ]
            waiting = db.booked_times(connection, behind) if behind else {}
            totals = db.totals(connection)
        metrics.show_symmetry(totals)
        findings = state.class_findings(totals)
        subjects = {(BreakKind.CONSERVATION, f"lane {lane}") for lane in rows}
        for lane, row in rows.items():
            bounds = self._source.bounds(lane)
            findings += lane_findings(row, ledger.get(lane), bounds, owed.get(lane, 0))
            self._show_lane(row, bounds, owed.get(lane, 0))
            metrics.LAG_RECORDS.labels(str(lane)).set(max(next_seq_of(ledger.get(lane)) - row.next_seq, 0))
            show_age(metrics.LAG_SECONDS.labels(str(lane)), waiting[lane] / 1_000_000 if lane in waiting else None)
        with self._store.transaction() as connection:
            self._found(connection, findings)
            standing = {(finding.kind, finding.subject) for finding in findings}
            whole = self._breaks.unresolved(connection, RECHECKED_MAX, kinds=[BreakKind.SYMMETRY.value])
            subjects |= {(BreakKind.SYMMETRY, item.subject) for item in whole if item.lane is None}
            self._breaks.resolve_about(connection, subjects - standing, RESOLVED_DETAIL)

    @staticmethod
    def _show_lane(row: db.LaneRow, bounds: tuple[int, int], owed: int) -> None:
        lane = str(row.lane)
        fates = 0
        for outcome in checks.OUTCOME_NAMES:
            fates += getattr(row, outcome)
            metrics.FATES.labels(lane, outcome).set(getattr(row, outcome))
        metrics.MISSING.labels(lane).set(owed)
        if row.source_first_offset is not None:
            received = bounds[1] - row.source_first_offset
            in_flight = max(received - row.next_seq, 0)
            metrics.RECEIVED.labels(lane).set(received)
            metrics.IN_FLIGHT.labels(lane).set(in_flight)
            metrics.GAP.labels(lane).set(received - fates - in_flight)
