"""What audit does between batches: it signs checkpoints, sweeps over stored rows, and rechecks open breaks."""

import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

import structlog

from db import audit as db
from db.agent_connection import AgentConnection
from db.proving import stray_rows
from domain.breaks import Break, BreakKind, Finding
from domain.checkpoints import CheckpointRow, LaneHead
from domain.errors import Outage
from domain.merkle import MerkleRange
from producers.events import EventProducer
from runtime.key_files import SigningKey
from streams.proof.audit import metrics
from streams.proof.audit.signatures import UncoveredEnds, uncovered_subject
from streams.proof.audit.signing import GENESIS, checkpoint_event, sign, signed_bytes
from streams.proof.audit.stored import stored_finding, stray_finding, window_faults
from streams.proof.audit.witness import Witness, WitnessAway
from streams.proof.proving import PagedSweep
from streams.proof.reconciliation.metrics import show_breaks

logger: Final = structlog.get_logger(__name__)

PAGE_ROWS: Final = 2000
STRAYS_MAX: Final = 100
RECHECKED_MAX: Final = 100
CHECKPOINTS_PER_CALL_MAX: Final = 100
BUDGET_SECONDS: Final = 0.5
GAUGE_SECONDS: Final = 2.0
SIGNED_DETAIL: Final = "A signature covers what came last by now; what it does not cover is a break of its own."
RESOLVED_DETAIL: Final = "Checked again: it is what was published."


class Signer:
    """A signer of checkpoints: it signs when one is due and lanes have grown, and publishes in order, at least once."""

    def __init__(
        self,
        store: AgentConnection,
        key: SigningKey,
        events: EventProducer,
        pause_seconds: float,
        *,
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self._store = store
        self._key = key
        self._witnesses = witnesses
        self._events = events
        self._pause_microseconds = int(pause_seconds * 1_000_000)

    def sign_if_due(self) -> CheckpointRow | None:
        """Sign a checkpoint over all lanes and start new trees; return None if none is due or another worker signs.

        Return None too if no lane has new records. One transaction locks all lanes, so all heads are of one moment.
        """
        with self._store.transaction() as connection:
            if db.lock_signer(connection) is None:
                return None
            last = db.last_checkpoint(connection)
            now = time.time_ns() // 1000
            if last is not None and now - last.signed_time < self._pause_microseconds:
                return None
            lanes = db.lock_all_lanes(connection)
            if all(lane.next_seq == lane.first_seq for lane in lanes):
                return None
            heads = [_head(lane) for lane in lanes]
            number, previous_hash = 0, GENESIS
            if last is not None:
                ((row, previous_heads),) = db.checkpoints(connection, last.checkpoint, 1)
                number, previous_hash = last.checkpoint + 1, sha256(signed_bytes(row, previous_heads)).digest()
                now = max(now, last.signed_time + 1)
            checkpoint = sign(number, previous_hash, heads, now, self._key)
            db.add_signing_key(connection, self._key.key_id, self._key.public_raw)
            db.add_checkpoint(connection, checkpoint, heads)
            db.LANES.move(connection, [lane._replace(first_seq=lane.next_seq, peaks=b"") for lane in lanes])
        metrics.CHECKPOINTS.inc()
        metrics.CHECKPOINT_TIME.set(checkpoint.signed_time / 1_000_000)
        return checkpoint

    def publish(self) -> int:
        """Send the checkpoints that the topic lacks, in order; return how many. If Kafka is away, they wait."""
        with self._store.transaction() as connection:
            first = db.lock_signer(connection)
            waiting = [] if first is None else db.checkpoints(connection, first, CHECKPOINTS_PER_CALL_MAX)
            if not waiting:
                return 0
            try:
                self._events.send((None, checkpoint_event(row, heads)) for row, heads in waiting)
            except Outage as error:
                logger.warning("checkpoints wait to be published", checkpoints=len(waiting), cause=str(error))
                return 0
            db.checkpoints_published(connection, waiting[-1][0].checkpoint + 1)
        return len(waiting)

    def tell_witnesses(self) -> None:
        """Give each witness the checkpoints that it lacks, in order. A witness that is away gets them later."""
        if not self._witnesses:
            return
        with self._store.transaction() as connection:
            if db.lock_signer(connection) is None:
                return
            for witness in self._witnesses:
                try:
                    waiting = db.checkpoints(connection, witness.next_checkpoint(), CHECKPOINTS_PER_CALL_MAX)
                    if waiting:
                        witness.add(waiting)
                except WitnessAway as error:
                    logger.warning("a witness was not told of checkpoints", witness=witness.name, cause=str(error))
                    metrics.WITNESS_FAILURES.inc()


def _head(lane: db.LaneRow) -> LaneHead:
    root = MerkleRange(lane.next_seq - lane.first_seq, lane.peaks).root()
    return LaneHead(lane.lane, lane.first_seq, lane.next_seq, lane.head, root)


def check_window(connection: Any, lane: int, first_seq: int, next_seq: int) -> list[Finding]:
    """Hash the stored rows of a window again and compare the hashes with audit's own copy."""
    start = max(first_seq - 1, 0)
    kept = db.hashes(connection, lane, start, next_seq)
    before = None
    if first_seq:
        before, kept = kept[: db.HASH_BYTES], kept[db.HASH_BYTES :]
    else:
        before = GENESIS
    rows, legs = db.stored_rows(connection, lane, first_seq, first_seq + len(kept) // db.HASH_BYTES)
    faults = window_faults(lane, first_seq, rows, legs, kept, before)
    return [stored_finding(lane, seq, detail) for seq, detail in faults]


def head_findings(own: dict[int, db.LaneRow], ledger: dict[int, tuple[int, bytes]]) -> list[Finding]:
    """Check that no lane of the ledger is behind audit, or has another head than audit at the same seq."""
    findings = []
    for lane, row in own.items():
        next_seq, head = ledger.get(lane, (0, GENESIS))
        detail = None
        if next_seq < row.next_seq:
            detail = f"The ledger's lane stands at seq {next_seq}, but {row.next_seq} records were published."
        elif next_seq == row.next_seq and head != row.head:
            detail = "The ledger's head of the chain is not the last record's hash."
        if detail is not None:
            findings.append(Finding(BreakKind.STORED, f"lane {lane} head", detail, lane))
    return findings


class Chores:
    """The chores of one auditing worker; `run` returns within about a second."""

    def __init__(
        self,
        store: AgentConnection,
        signer: Signer,
        pause_seconds: float,
    ) -> None:
        self._store = store
        self._signer = signer
        self._breaks = db.BREAKS
        self._sweep = PagedSweep(self._pages, pause_seconds, metrics.SWEEP_SECONDS)
        self._gauges_due = 0.0
        self.uncovered = UncoveredEnds()
        self._recheck_after: Break | None = None

    def run(self, spare_share: float = 1.0) -> None:
        """Set gauges, sign a due checkpoint, recheck open breaks, then sweep for the time that batches leave.

        The gauges come first: if signing fails again and again, only they show the records that wait for a checkpoint.
        """
        if time.monotonic() >= self._gauges_due:
            self.heads()
            self._gauges_due = time.monotonic() + GAUGE_SECONDS
        self._signer.sign_if_due()
        self._signer.publish()
        self._signer.tell_witnesses()
        self.recheck()
        self._sweep.turn_pages(BUDGET_SECONDS * spare_share)

    def sweep_all(self) -> None:
        """Do one whole sweep and all rechecks without a time limit; for tests and for a last check before a stop."""
        self.heads()
        for _ in self._pages():
            pass
        self._recheck_after = None
        while self.recheck():
            pass

    def _pages(self) -> Iterator[None]:
        """Check rows outside the lanes first, as they are few; then check each lane window by window."""
        with self._store.transaction() as connection:
            lanes = db.LANES.read(connection)
            self._found(connection, [stray_finding(*stray) for stray in stray_rows(connection, STRAYS_MAX)])
        yield
        for lane, row in sorted(lanes.items()):
            for first in range(0, row.next_seq, PAGE_ROWS):
                end = min(first + PAGE_ROWS, row.next_seq)
                with self._store.transaction() as connection:
                    self._found(connection, check_window(connection, lane, first, end))
                metrics.SWEPT.inc(end - first)
                yield

    def _found(self, connection: Any, findings: list[Finding]) -> None:
        self._breaks.record(connection, findings)

    def recheck(self) -> bool:
        """Check a page of unresolved breaks again and resolve restored ones; return False after the last page."""
        with self._store.transaction() as connection:
            after = None if self._recheck_after is None else self._recheck_after.break_id
            page = self._breaks.unresolved(connection, RECHECKED_MAX, after, [BreakKind.STORED.value])
            self._recheck_after = page[-1] if len(page) == RECHECKED_MAX else None
            gone = [item.break_id for item in page if self._is_gone(connection, item)]
            self._breaks.resolve(connection, gone, RESOLVED_DETAIL)
            show_breaks(self._breaks.found_by, self._breaks.counts(connection), self._breaks.open_breaks(connection))
        return self._recheck_after is not None

    def _is_gone(self, connection: Any, item: Break) -> bool:
        if item.lane is None or item.seq is None:
            return False  # the break of a lane's head: heads() checks and resolves it
        if item.evidence.get("is_stray"):
            places = {(lane, seq) for lane, seq, _ in stray_rows(connection, STRAYS_MAX)}
            return (item.lane, item.seq) not in places
        return not check_window(connection, item.lane, item.seq, item.seq + 1)

    def _signatures(self, connection: Any, lanes: Iterable[db.LaneRow]) -> None:
        """Find lanes whose ends posting has not signed; resolve the breaks of lanes whose ends are signed by now."""
        findings = self.uncovered.findings(lanes)
        self._found(connection, findings)
        wrong = {finding.subject for finding in findings}
        right = [subject for row in lanes if (subject := uncovered_subject(row.lane)) not in wrong]
        self._breaks.resolve_about(connection, [(BreakKind.CHAIN, subject) for subject in right], SIGNED_DETAIL)

    def heads(self) -> None:
        """Compare the ledger's heads with audit's own, check the ends' signatures, and set the gauges of progress."""
        with self._store.transaction() as connection:
            own = db.LANES.read(connection)
            last = db.last_checkpoint(connection)
            ledger = db.ledger_lanes(connection)  # a later snapshot: the ledger may be ahead of audit, never behind
            findings = head_findings(own, ledger)
            self._found(connection, findings)
            wrong = {finding.subject for finding in findings}
            right = [f"lane {lane} head" for lane in own if f"lane {lane} head" not in wrong]
            self._breaks.resolve_about(connection, [(BreakKind.STORED, subject) for subject in right], RESOLVED_DETAIL)
            self._signatures(connection, own.values())
        if last is not None:  # any worker may have signed it
            metrics.CHECKPOINT_TIME.set(last.signed_time / 1_000_000)
        for lane, row in own.items():
            metrics.VERIFIED.labels(str(lane)).set(row.next_seq)
            metrics.UNSIGNED.labels(str(lane)).set(row.next_seq - row.first_seq)
            metrics.LAG_RECORDS.labels(str(lane)).set(max(ledger.get(lane, (0, b""))[0] - row.next_seq, 0))
