"""What reconciliation does between batches: sweeps over all stored rows, rechecks of open breaks, and gauges.

A sweep finds faults that no batch would touch: shards that were edited without posting, and journal rows or entries
without their counterpart. It works page by page, each page in its own transaction, within a time budget for each call.
"""

from collections.abc import Iterator
from typing import Any, Final

from db import reconciled_frame
from db import reconciliation as db
from db.agent_connection import AgentConnection
from db.proving import find_stray_rows
from db.rejections import RecentBooks
from domain.breaks import Break, BreakKind, Finding, make_record_subject
from domain.symmetry import SymmetryRules
from runtime.metrics import show_age
from streams.proof.chores import RECHECKED_MAX, STRAYS_MAX, Chores, PagedSweep, is_still_stray
from streams.proof.reconciliation import checks, frame, metrics, state
from streams.proof.reconciliation.agent import LedgerLookups, compare_shards
from streams.proof.reconciliation.clearing import ClearingSweep
from streams.proof.reconciliation.faithful import repeat_still_wrong
from streams.proof.reconciliation.frame import FrameSource
from streams.proof.reconciliation.source import IntentSource

PAGE_SHARDS: Final = 2000
PAGE_ROWS: Final = 5000
# For `sweep_all`: how long one read may wait for the end of ledger.frame.
SETTLING_SECONDS_MAX: Final = 10.0


def make_entries_finding(lane: int, seq: int, detail: str, *, is_stray: bool = False) -> Finding:
    """Return the finding for a journal row of the ledger that is missing, is surplus, or has wrong entries."""
    evidence: dict[str, str | int] = {"is_stray": int(is_stray)}
    return Finding(BreakKind.ENTRIES, make_record_subject(lane, seq), detail, lane, seq, evidence=evidence)


def make_stray_finding(lane: int, seq: int, has_row: bool) -> Finding:
    """Return the finding for a row or entries outside every lane."""
    detail = ("A journal row lies" if has_row else "Entries without a journal row lie") + " outside the lane."
    return make_entries_finding(lane, seq, detail, is_stray=True)


def find_lane_faults(
    row: db.LaneRow, ledger: db.LedgerLane | None, bounds: tuple[int, int], owed: int
) -> list[Finding]:
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


def get_next_seq(lane: db.LedgerLane | None) -> int:
    """Return the next seq of the ledger's lane; 0 if the ledger has no such lane."""
    return 0 if lane is None else lane.next_seq


class ReconciliationChores(Chores):
    """Reconciliation's chores; it also reads the facts of ledger.frame."""

    breaks = db.BREAKS
    budget_seconds = 0.4
    resolved_detail = "Checked again, and both sides agree."

    # A sweep of its own judges the breaks about symmetry rules again.
    rechecked_kinds = tuple(kind for kind in BreakKind if kind != BreakKind.CLEARING)

    def __init__(
        self,
        store: AgentConnection,
        source: IntentSource,
        frame_source: FrameSource,
        pause_seconds: float,
        rules: SymmetryRules,
    ) -> None:
        super().__init__(store, pause_seconds, metrics.SWEEP_SECONDS)
        self._source = source
        self._frame_source = frame_source
        self._clearing = ClearingSweep(store, rules)
        # Apart from the other sweep, which may take hours: a term may be shorter.
        self._clearing_sweep = PagedSweep(self._clearing.list_pages, pause_seconds, metrics.CLEARING_SWEEP_SECONDS)

    def check_progress(self) -> None:
        """Check lanes, totals and the chains of facts, and set the gauges."""
        self._check_lanes()
        self.take_facts()

    def sweep_all(self) -> None:
        """Take all facts, then do one whole sweep and all rechecks."""
        while self.take_facts(SETTLING_SECONDS_MAX):
            pass
        super().sweep_all()
        for _ in self._clearing.list_pages():
            pass

    def run(self, spare_share: float = 1.0) -> None:
        """Do the chores of a call, then sweep accounts of symmetry rules."""
        super().run(spare_share)
        self._clearing_sweep.turn_pages(self.budget_seconds * spare_share)

    def _pages(self) -> Iterator[None]:
        ledger_end: tuple[int, str, int] | None = (-1, "", -1)
        while ledger_end is not None:
            with self._store.transaction() as connection:
                pairs, ledger_end = db.sweep_ledger_shards(connection, ledger_end, PAGE_SHARDS)
                self.breaks.record(connection, compare_shards(connection, pairs))
            metrics.SWEPT.labels("shards").inc(len(pairs))
            yield
        own_end: db.ShardKey | None = ("", "", "", -1)
        while own_end is not None:
            with self._store.transaction() as connection:
                pairs, own_end = db.sweep_own_shards(connection, own_end, PAGE_SHARDS)
                lacking = [pair for pair in pairs if pair.held is None]
                self.breaks.record(connection, compare_shards(connection, lacking))
                self._clearing.add_unknown(connection, [pair.key for pair in pairs])
            yield
        with self._store.transaction() as connection:
            lanes = db.LANES.read(connection)
        for lane, row in sorted(lanes.items()):
            for first in range(0, row.next_seq, PAGE_ROWS):
                end = min(first + PAGE_ROWS, row.next_seq)
                with self._store.transaction() as connection:
                    faulty = db.find_faulty_rows(connection, lane, first, end)
                    self.breaks.record(
                        connection, [make_entries_finding(lane, f.seq, checks.describe_faulty_row(f)) for f in faulty]
                    )
                metrics.SWEPT.labels("rows").inc(end - first)
                yield
        with self._store.transaction() as connection:
            strays = [make_stray_finding(*stray) for stray in find_stray_rows(connection, STRAYS_MAX)]
            self.breaks.record(connection, strays)
        yield
        yield from self._check_frame_pages()

    def take_facts(self, seconds_max: float = frame.READ_SECONDS_MAX) -> int:
        """Read new facts from ledger.frame, compare its chains with the ledger's, and return the number of facts."""
        with self._store.transaction() as connection:
            findings, taken = frame.take_facts(connection, self._frame_source, seconds_max)
            pairs = reconciled_frame.read_chain_pairs(connection)
            self.breaks.record(connection, findings + frame.find_chain_faults(pairs))
        metrics.FACTS_OWED.set(frame.count_owed(pairs))
        return taken

    def _check_frame_pages(self) -> Iterator[None]:
        for part, query in frame.list_row_pages():
            end: tuple[str, str] | None = ("", "")
            while end is not None:
                with self._store.transaction() as connection:
                    if frame.count_owed(reconciled_frame.read_chain_pairs(connection)) > frame.AWAITED_MAX:
                        return
                    pairs, end = reconciled_frame.find_unequal_rows(connection, query, part, end, frame.PAGE_ROWS)
                    self.breaks.record(connection, frame.judge_rows(connection, pairs))
                yield

    def _is_gone(self, connection: Any, item: Break) -> bool:
        evidence = item.evidence
        if item.kind == BreakKind.BALANCE and evidence:
            key = (str(evidence["tenant"]), str(evidence["address"]), str(evidence["currency"]), int(evidence["lane"]))
            pairs = db.read_shard_pairs(connection, [key])
            self.breaks.record(connection, compare_shards(connection, pairs))
            return all(checks.check_shard(pair) is None and checks.is_shard_proved(pair) for pair in pairs)
        if item.kind == BreakKind.ENTRIES and item.lane is not None and item.seq is not None:
            if evidence.get("is_stray"):
                return not is_still_stray(connection, item)
            return not db.find_faulty_rows(connection, item.lane, item.seq, item.seq + 1)
        if item.kind == BreakKind.FRAME:
            return frame.is_gone(connection, item)
        if item.kind == BreakKind.FAITHFULNESS and "fingerprint" in evidence:
            return not repeat_still_wrong(item, LedgerLookups(connection, RecentBooks()))
        return False

    def _check_lanes(self) -> None:
        """Set the gauges of conservation, lag and symmetry, and open or resolve the breaks about lanes and totals."""
        with self._store.transaction() as connection:
            rows = db.LANES.read(connection)
            owed: dict[int, int] = {}
            for lane, _ in db.find_gaps(connection, list(rows)):
                owed[lane] = owed.get(lane, 0) + 1
            ledger = db.read_ledger_lanes(connection)
            behind = [
                (lane, row.next_seq) for lane, row in rows.items() if row.next_seq < get_next_seq(ledger.get(lane))
            ]
            waiting = db.find_booked_times(connection, behind) if behind else {}
            totals = db.read_totals(connection)
        metrics.show_symmetry(totals)
        findings = state.find_class_faults(totals)
        checked = {(BreakKind.CONSERVATION, f"lane {lane}") for lane in rows}
        for lane, row in rows.items():
            bounds = self._source.bounds(lane)
            findings += find_lane_faults(row, ledger.get(lane), bounds, owed.get(lane, 0))
            self._show_lane(row, bounds, owed.get(lane, 0))
            metrics.LAG_RECORDS.labels(str(lane)).set(max(get_next_seq(ledger.get(lane)) - row.next_seq, 0))
            show_age(metrics.LAG_SECONDS.labels(str(lane)), waiting[lane] / 1_000_000 if lane in waiting else None)
        with self._store.transaction() as connection:
            whole = self.breaks.unresolved(connection, RECHECKED_MAX, kinds=[BreakKind.SYMMETRY])
            checked |= {(BreakKind.SYMMETRY, item.subject) for item in whole if item.lane is None}
            self._settle(connection, findings, checked, self.resolved_detail)

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
