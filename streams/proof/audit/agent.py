"""The auditing agent: it recomputes the chain of each lane as records arrive.

1. check each record against the hash before it, and posting's signatures; compare repeats with audit's own copy;
2. keep the hashes, grow the lane's Merkle tree, store breaks and positions.
"""

from collections.abc import Callable
from typing import Any

from db import audit as db
from db.agent_connection import AgentConnection
from domain.breaks import BreakKind, Finding, make_record_subject
from producers.events import EventProducer
from streams.batches import PartitionBatch
from streams.proof.audit import metrics
from streams.proof.audit.chain import LaneChain, repeat_finding
from streams.proof.audit.signatures import Judged, PostingKeys, judge
from streams.proof.journal_agent import JournalAgent, Proved
from streams.proof.records.decoding import JournalRecord, RecordReader


class Auditor(JournalAgent[db.LaneRow]):
    """Audits batches of ledger.journal."""

    lanes = db.LANES
    breaks = db.BREAKS
    misplaced_kind = BreakKind.CHAIN

    def __init__(
        self,
        store: AgentConnection,
        reader: RecordReader,
        events: EventProducer,
        *,
        keys: PostingKeys | None = None,
        chores: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__(store, reader, events, chores)
        self._keys = keys or PostingKeys(None)

    def _prove(self, connection: Any, batch: list[PartitionBatch], rows: dict[int, db.LaneRow]) -> Proved:
        findings: list[Finding] = []
        chains = [LaneChain(rows[part.partition]) for part in batch]
        for part, chain in zip(batch, chains, strict=True):
            for record in self._records(part, findings):
                chain.take(record)
            findings += chain.findings
        taken = [chain.make_segment() for chain in chains]
        judged = [
            self._judge(connection, rows[part.partition], chain, segment)
            for part, chain, segment in zip(batch, chains, taken, strict=True)
        ]
        findings += [finding for found in judged for finding in found.findings]
        segments = [segment for segment in taken if segment is not None]
        db.add_segments(connection, segments)
        self.lanes.move(
            connection,
            [
                chain.row(part.end_offset)._replace(
                    signatures_first_seq=found.first_seq, signatures_next_seq=found.next_seq
                )
                for part, chain, found in zip(batch, chains, judged, strict=True)
            ],
        )
        for part, chain in zip(batch, chains, strict=True):
            findings += self._check_repeats(connection, part.partition, chain.repeated)
        self.breaks.record(connection, findings)
        records = sum(segment.next_seq - segment.first_seq for segment in segments)
        return Proved(findings, lambda: metrics.RECORDS.inc(records))

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
            kept = db.read_hashes(connection, row.lane, first_seq, row.next_seq) if first_seq < row.next_seq else b""
            start = max(first_seq - row.next_seq, 0) * db.HASH_BYTES
            return kept + arrived[start : (next_seq - row.next_seq) * db.HASH_BYTES]

        return judge(row.lane, covered, chain.signed, hashes_of, self._keys)

    def _check_repeats(self, connection: Any, lane: int, repeated: list[JournalRecord]) -> list[Finding]:
        findings = []
        for record in repeated:  # rare: a record that the topic has twice
            seq = record["seq"]
            kept = db.read_hashes(connection, lane, seq, seq + 1)
            missing = self.breaks.is_unresolved(connection, BreakKind.CHAIN, make_record_subject(lane, seq))
            finding = repeat_finding(record, kept, missing)
            if finding is not None:
                findings.append(finding)
        return findings
