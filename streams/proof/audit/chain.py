"""Recomputes the chain of a lane as its records arrive, and collects their hashes. It does no I/O."""

from typing import Final

from db.audit import HASH_BYTES, LaneRow, Segment
from domain.breaks import BreakKind, BreakState, Finding, make_record_subject
from domain.merkle import MerkleRange
from domain.signed_heads import SignedHead
from streams.proof.records.canonical import compute_record_hash
from streams.proof.records.decoding import JournalRecord

# A topic that skips more records than this at once is another topic, not this topic with a gap.
GAP_RECORDS_MAX: Final = 10_000
ABSENT: Final = bytes(HASH_BYTES)
"""The value in audit's copy in place of the hash of a record that the topic did not bring."""


def make_chain_finding(lane: int, seq: int, detail: str, state: BreakState = BreakState.OPEN) -> Finding:
    """Return the finding for a record that does not fit its chain."""
    return Finding(BreakKind.CHAIN, make_record_subject(lane, seq), detail, lane, seq, state)


def find_link_faults(record: JournalRecord, head: bytes) -> list[str]:
    """Return what is wrong with a record after the hash `head`: another previous hash, or a wrong hash of its own."""
    wrong = []
    if record["previous_hash"] != head:
        wrong.append("It does not follow from the record before it.")
    if record["hash"] != compute_record_hash(record["previous_hash"], record):
        wrong.append("Its hash is not that of its content.")
    return wrong


class LaneChain:
    """One lane, which takes its records in order of offset."""

    def __init__(self, row: LaneRow) -> None:
        self._row = row
        self._next_seq = row.next_seq
        self._head = row.head
        self._hashes: list[bytes] = []
        self.findings: list[Finding] = []
        self.repeated: list[JournalRecord] = []
        """Records below the next seq; to be compared with audit's copy."""
        self.signed: list[SignedHead] = []
        """The signatures of posting that the taken records carry."""

    def take(self, record: JournalRecord) -> None:
        """Check a record against the chain and keep its hash."""
        lane, seq = self._row.lane, record["seq"]
        if seq < self._next_seq:
            self.repeated.append(record)
            return
        if seq - self._next_seq > GAP_RECORDS_MAX:
            self._find(self._next_seq, f"The topic goes on with seq {seq}; that record is not taken.")
            return
        if seq > self._next_seq:
            self._skip_to(record)
        self.findings += [make_chain_finding(lane, seq, detail) for detail in find_link_faults(record, self._head)]
        # Keep the hash that arrived, right or wrong: the copy says what was published, and the break what is wrong.
        is_hash = len(record["hash"]) == HASH_BYTES
        self._append(record["hash"] if is_hash else ABSENT)
        signature = record["signature"]
        if signature is not None:
            signed_from = record["signed_from"]
            self.signed.append(SignedHead(lane, -1 if signed_from is None else signed_from, seq + 1, signature))

    def make_segment(self) -> Segment | None:
        """Return the hashes of the taken records; None if there are none."""
        if not self._hashes:
            return None
        return Segment(self._row.lane, self._row.next_seq, self._next_seq, self._head, b"".join(self._hashes))

    def row(self, next_offset: int) -> LaneRow:
        """Return the lane's row after the records taken; `next_offset` is that of the journal's partition."""
        tree = MerkleRange(self._row.next_seq - self._row.first_seq, self._row.peaks)
        tree.extend(self._hashes)
        return self._row._replace(next_offset=next_offset, next_seq=self._next_seq, head=self._head, peaks=tree.peaks)

    def _skip_to(self, record: JournalRecord) -> None:
        for missing in range(self._next_seq, record["seq"]):
            self._find(missing, f"The topic has no such record: it goes on with seq {record['seq']}.")
            # The record after the gap names the hash of the last missing record.
            is_last = missing == record["seq"] - 1 and len(record["previous_hash"]) == HASH_BYTES
            self._append(record["previous_hash"] if is_last else ABSENT)

    def _append(self, value: bytes) -> None:
        self._hashes.append(value)
        self._head = value
        self._next_seq += 1

    def _find(self, seq: int, detail: str) -> None:
        self.findings.append(make_chain_finding(self._row.lane, seq, detail))


def repeat_finding(record: JournalRecord, kept: bytes, is_missing: bool) -> Finding | None:
    """Return the finding for a record below its lane's end, or None if it equals the record that came before.

    A late record that was missing gives an explained finding. `kept`: audit's copy of the hash at its seq.
    `is_missing`: a break says that the topic skipped the record.
    """
    lane, seq = record["lane"], record["seq"]
    is_sound = record["hash"] == compute_record_hash(record["previous_hash"], record)
    if is_missing and is_sound and kept in (ABSENT, record["hash"]):
        return make_chain_finding(lane, seq, "The record came late, behind those that follow it.", BreakState.EXPLAINED)
    if is_sound and kept == record["hash"]:
        return None
    return make_chain_finding(lane, seq, "The topic has it a second time, with another content or hash.")
