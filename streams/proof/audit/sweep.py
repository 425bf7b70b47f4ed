"""What audit does between batches: it signs checkpoints, sweeps over stored rows, and rechecks open breaks."""

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

import structlog

from db import audit as db
from db.agent_connection import AgentConnection
from db.proving import find_stray_rows
from domain.breaks import Break, BreakKind, Finding
from domain.checkpoints import CheckpointRow, LaneHead
from domain.errors import Outage
from domain.merkle import MerkleRange
from producers.events import EventProducer
from runtime.key_files import SigningKey
from streams.proof.audit import metrics
from streams.proof.audit.signatures import UncoveredEnds, make_uncovered_subject
from streams.proof.audit.signing import GENESIS, make_checkpoint_event, make_signed_bytes, sign
from streams.proof.audit.stored import find_window_faults, make_stored_finding, make_stray_finding
from streams.proof.audit.witness import Witness, WitnessAway
from streams.proof.chores import STRAYS_MAX, Chores, is_still_stray

logger: Final = structlog.get_logger(__name__)

PAGE_ROWS: Final = 2000
CHECKPOINTS_PER_CALL_MAX: Final = 100
SIGNED_DETAIL: Final = "A signature covers what came last by now; what it does not cover is a break of its own."


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
            last = db.find_last_checkpoint(connection)
            now = time.time_ns() // 1000
            if last is not None and now - last.signed_time < self._pause_microseconds:
                return None
            lanes = db.lock_all_lanes(connection)
            if all(lane.next_seq == lane.first_seq for lane in lanes):
                return None
            heads = [_make_head(lane) for lane in lanes]
            number, previous_hash = 0, GENESIS
            if last is not None:
                ((row, previous_heads),) = db.list_checkpoints(connection, last.checkpoint, 1)
                number, previous_hash = last.checkpoint + 1, sha256(make_signed_bytes(row, previous_heads)).digest()
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
            waiting = [] if first is None else db.list_checkpoints(connection, first, CHECKPOINTS_PER_CALL_MAX)
            if not waiting:
                return 0
            try:
                self._events.send((None, make_checkpoint_event(row, heads)) for row, heads in waiting)
            except Outage as error:
                logger.warning("checkpoints wait to be published", checkpoints=len(waiting), cause=str(error))
                return 0
            db.record_published_checkpoints(connection, waiting[-1][0].checkpoint + 1)
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
                    waiting = db.list_checkpoints(connection, witness.find_next_checkpoint(), CHECKPOINTS_PER_CALL_MAX)
                    if waiting:
                        witness.add(waiting)
                except WitnessAway as error:
                    logger.warning("a witness was not told of checkpoints", witness=witness.name, cause=str(error))
                    metrics.WITNESS_FAILURES.inc()


def _make_head(lane: db.LaneRow) -> LaneHead:
    root = MerkleRange(lane.next_seq - lane.first_seq, lane.peaks).root()
    return LaneHead(lane.lane, lane.first_seq, lane.next_seq, lane.head, root)


def check_window(connection: Any, lane: int, first_seq: int, next_seq: int) -> list[Finding]:
    """Hash the stored rows of a window again and compare the hashes with audit's own copy."""
    start = max(first_seq - 1, 0)
    kept = db.read_hashes(connection, lane, start, next_seq)
    before = None
    if first_seq:
        before, kept = kept[: db.HASH_BYTES], kept[db.HASH_BYTES :]
    else:
        before = GENESIS
    rows, legs = db.read_stored_rows(connection, lane, first_seq, first_seq + len(kept) // db.HASH_BYTES)
    faults = find_window_faults(lane, first_seq, rows, legs, kept, before)
    return [make_stored_finding(lane, seq, detail) for seq, detail in faults]


def make_head_subject(lane: int) -> str:
    """Return the subject of the break about a lane's end."""
    return f"lane {lane} head"


def find_head_faults(own: dict[int, db.LaneRow], ledger: dict[int, tuple[int, bytes]]) -> list[Finding]:
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
            findings.append(Finding(BreakKind.STORED, make_head_subject(lane), detail, lane))
    return findings


class AuditChores(Chores):
    """Audit's chores; it also signs checkpoints."""

    breaks = db.BREAKS
    budget_seconds = 0.5
    resolved_detail = "Checked again: it is what was published."
    rechecked_kinds = (BreakKind.STORED,)

    def __init__(self, store: AgentConnection, signer: Signer, pause_seconds: float) -> None:
        super().__init__(store, pause_seconds, metrics.SWEEP_SECONDS)
        self._signer = signer
        self.uncovered = UncoveredEnds()

    def run(self, spare_share: float = 1.0) -> None:
        """Sign a due checkpoint before the other chores, but after the gauges.

        If signing fails again and again, only the gauges show the records that wait for a checkpoint.
        """
        self._check_progress_if_due()
        self._signer.sign_if_due()
        self._signer.publish()
        self._signer.tell_witnesses()
        super().run(spare_share)

    def check_progress(self) -> None:
        """Compare the ledger's heads with audit's own, check the ends' signatures, and set the gauges of progress."""
        with self._store.transaction() as connection:
            own = db.LANES.read(connection)
            last = db.find_last_checkpoint(connection)
            ledger = db.read_ledger_lanes(
                connection
            )  # a later snapshot: the ledger may be ahead of audit, never behind
            heads = [(BreakKind.STORED, make_head_subject(lane)) for lane in own]
            self._settle(connection, find_head_faults(own, ledger), heads, self.resolved_detail)
            ends = [(BreakKind.CHAIN, make_uncovered_subject(lane)) for lane in own]
            self._settle(connection, self.uncovered.findings(own.values()), ends, SIGNED_DETAIL)
        if last is not None:  # any worker may have signed it
            metrics.CHECKPOINT_TIME.set(last.signed_time / 1_000_000)
        for lane, row in own.items():
            metrics.VERIFIED.labels(str(lane)).set(row.next_seq)
            metrics.UNSIGNED.labels(str(lane)).set(row.next_seq - row.first_seq)
            metrics.LAG_RECORDS.labels(str(lane)).set(max(ledger.get(lane, (0, b""))[0] - row.next_seq, 0))

    def _pages(self) -> Iterator[None]:
        """Check rows outside the lanes first, as they are few; then check each lane window by window."""
        with self._store.transaction() as connection:
            lanes = db.LANES.read(connection)
            self.breaks.record(
                connection, [make_stray_finding(*stray) for stray in find_stray_rows(connection, STRAYS_MAX)]
            )
        yield
        for lane, row in sorted(lanes.items()):
            for first in range(0, row.next_seq, PAGE_ROWS):
                end = min(first + PAGE_ROWS, row.next_seq)
                with self._store.transaction() as connection:
                    self.breaks.record(connection, check_window(connection, lane, first, end))
                metrics.SWEPT.inc(end - first)
                yield

    def _is_gone(self, connection: Any, item: Break) -> bool:
        if item.lane is None or item.seq is None:
            return False  # the break of a lane's head: check_progress resolves it
        if item.evidence.get("is_stray"):
            return not is_still_stray(connection, item)
        return not check_window(connection, item.lane, item.seq, item.seq + 1)
