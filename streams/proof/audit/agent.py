"""The auditing agent: it recomputes the chain of each lane as records arrive, in one transaction for each batch.

1. lock the lanes in order and compare their stored offsets with those that the batch expects (the fence);
2. decode the records and check each against the hash before it; check posting's signatures; compare repeats with
   audit's own copy;
3. keep the hashes, grow the lane's Merkle tree, store breaks and positions; commit. Then set metrics and send events.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import structlog

from db import audit as db
from db.agent_connection import AgentConnection
from domain.breaks import BreakKind, Finding, break_id_of, record_subject
from producers.events import EventProducer
from streams.fenced import FenceLost, PartitionBatch
from streams.proof.audit import metrics
from streams.proof.audit.chain import LaneChain, repeat_finding
from streams.proof.audit.signatures import Judged, PostingKeys, judge
from streams.proof.proving import SpareTime, publish_breaks
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable

logger: Final = structlog.get_logger(__name__)

FOUND_BY: Final = "audit"


class Auditor:
    """A BatchHandler that audits batches of ledger.journal. It gives `chores` the share of time that batches leave."""

    def __init__(
        self,
        store: AgentConnection,
        reader: RecordReader,
        events: EventProducer,
        *,
        keys: PostingKeys | None = None,
        chores: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._events = events
        self._keys = keys or PostingKeys(None)
        self._chores = chores
        self._spare_time = SpareTime()
        self._breaks = db.BREAKS

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:  # noqa: ARG002 - there is one topic
        """Return the next offset of each partition; 0 if audit has not read the partition."""
        with self._store.transaction() as connection:
            rows = db.LANES.read(connection)
        return {lane: rows[lane].next_offset if lane in rows else 0 for lane in partitions}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Audit a batch; raise FenceLost if a lane's stored offset is not the one that the batch expects."""
        findings: list[Finding] = []
        chains: list[tuple[PartitionBatch, LaneChain]] = []
        with self._spare_time.batch(), self._store.transaction() as connection:
            rows = db.LANES.lock(connection, sorted(part.partition for part in batch))
            for part in batch:
                row = rows[part.partition]
                if row.next_offset != part.expected_offset:
                    raise FenceLost(f"lane {row.lane} stands at {row.next_offset}, not at {part.expected_offset}")
                chain = LaneChain(row)
                chains.append((part, chain))
                findings += self._take(part, chain)
                findings += chain.findings
            taken = [chain.segment() for _, chain in chains]
            judged = [
                self._judge(connection, rows[part.partition], chain, segment)
                for (part, chain), segment in zip(chains, taken, strict=True)
            ]
            findings += [finding for found in judged for finding in found.findings]
            segments = [segment for segment in taken if segment is not None]
            db.add_segments(connection, segments)
            db.LANES.move(
                connection,
                [
                    chain.row(part.end_offset)._replace(
                        signatures_first_seq=found.first_seq, signatures_next_seq=found.next_seq
                    )
                    for (part, chain), found in zip(chains, judged, strict=True)
                ],
            )
            for part, chain in chains:
                findings += self._repeats(connection, part.partition, chain.repeated)
            self._breaks.record(connection, findings)
        metrics.RECORDS.inc(sum(segment.next_seq - segment.first_seq for segment in segments))
        if findings:
            # Log neither subject nor detail, as they name accounts and amounts. The break's id leads to them.
            first = findings[0]
            break_id = str(break_id_of(FOUND_BY, first.kind, first.subject))
            logger.error(
                "breaks found", breaks=len(findings), kind=first.kind.value, break_id=break_id, lane=first.lane
            )
            self.publish()

    def idle(self) -> None:
        """Do the chores (checkpoints, sweeps, rechecks of open breaks, gauges), and publish what they found."""
        self._chores(self._spare_time.share())
        self.publish()

    def publish(self) -> None:
        """Send the breaks whose state is not on the topic yet. If Kafka is away, they wait for the next call."""
        publish_breaks(self._store, self._breaks, self._events)

    def _take(self, part: PartitionBatch, chain: LaneChain) -> list[Finding]:
        """Take the records of a partition; return a finding for each message that is no record of the lane."""
        lane = part.partition
        findings = []
        for message in part.messages:
            try:
                record = cast("JournalRecord", self._reader.read(message.value))
            except Unreadable as unreadable:
                detail = str(unreadable)
            else:
                if record["lane"] == lane:
                    chain.take(record)
                    continue
                detail = f"The record says that it is of lane {record['lane']}."
            findings.append(Finding(BreakKind.CHAIN, f"lane {lane} journal offset {message.offset}", detail, lane))
        return findings

    def _judge(self, connection: Any, row: db.LaneRow, chain: LaneChain, segment: db.Segment | None) -> Judged:
        """Check posting's signatures against the records that arrived."""
        covered = (row.signatures_first_seq, row.signatures_next_seq)
        if not self._keys:
            # Without a key, signatures are not required: workers that do not sign may come back (docs/UPGRADING.md).
            return Judged([], None, None)
        if row.next_seq == 0 and covered == (None, None):
            covered = (0, 0)  # audit reads this lane from its first record, so all must be signed
        arrived = b"" if segment is None else segment.hashes

        def hashes_of(first_seq: int, next_seq: int) -> bytes:
            """Return the hashes of a range: from audit's own copy, then from the records that arrived."""
            kept = db.hashes(connection, row.lane, first_seq, row.next_seq) if first_seq < row.next_seq else b""
            start = max(first_seq - row.next_seq, 0) * db.HASH_BYTES
            return kept + arrived[start : (next_seq - row.next_seq) * db.HASH_BYTES]

        return judge(row.lane, covered, chain.signed, hashes_of, self._keys)

    def _repeats(self, connection: Any, lane: int, repeated: list[JournalRecord]) -> list[Finding]:
        findings = []
        for record in repeated:  # rare: a record that the topic has twice
            seq = record["seq"]
            kept = db.hashes(connection, lane, seq, seq + 1)
            missing = self._breaks.is_unresolved(connection, BreakKind.CHAIN, record_subject(lane, seq))
            finding = repeat_finding(record, kept, missing)
            if finding is not None:
                findings.append(finding)
        return findings
