"""`ledgerline audit verify`: recomputes every chain from the topic and from the tables, and checks every checkpoint.

One snapshot of the database fixes the end of each lane. The topic is read up to that end, so posting may go on.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from db import audit as db
from db.agent_connection import open_snapshot
from db.proving import find_stray_rows
from domain.breaks import BreakKind, Finding, merge_findings
from domain.checkpoints import CheckpointRow, LaneHead
from domain.merkle import compute_root
from domain.topics import Topics
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.audit.chain import LaneChain, make_chain_finding, repeat_finding
from streams.proof.audit.kept import Kept, find_genuineness_faults, get_record_place
from streams.proof.audit.signatures import PostingKeys, judge, make_unsigned_finding
from streams.proof.audit.signing import GENESIS, find_checkpoint_faults, make_checkpoint_event
from streams.proof.audit.stored import find_window_faults, make_stored_finding, make_stray_finding
from streams.proof.audit.witness import Witness, find_gaps, read_witness
from streams.proof.journal_agent import make_misplaced_finding
from streams.proof.records.decoding import RecordReader
from streams.proof.records.pages import read_all, read_up_to

PAGE_ROWS: Final = 5000
PAGE_CHECKPOINTS: Final = 500
STRAYS_MAX: Final = 1000
LOST_MAX: Final = 1000
WITNESS_LATE_SECONDS: Final = 60.0

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""


@dataclass
class Report:
    """The result of a full verification."""

    lanes: list[dict[str, int | str]] = field(default_factory=list)
    """By lane: the number of records, and the recomputed head in hex."""
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    checkpoints: int = 0
    kept: int = 0
    """The number of checkpoints from outside that were compared with the ledger."""
    seconds: float = 0.0

    @property
    def records_per_second(self) -> int:
        """Return how many records were checked per second, each on the topic and in the tables."""
        return int(self.records / self.seconds) if self.seconds else 0


class PublishedCheckpoints:
    """The checkpoints that the topic had before the snapshot. Audit stores before it sends: the table must have all."""

    def __init__(self, next_checkpoint: int, messages: Iterable[tuple[int, dict[str, Any] | str]]) -> None:
        self._next_checkpoint = next_checkpoint
        """All checkpoints before this one were published when reading began."""
        self._on_topic: set[int] = set()
        self.records: dict[int, list[dict[str, Any]]] = {}
        self.unreadable: list[Finding] = []
        for offset, message in messages:
            if isinstance(message, str):
                self.unreadable.append(Finding(BreakKind.CHECKPOINT, f"audit.checkpoints offset {offset}", message))
            else:
                self.records.setdefault(message["checkpoint"], []).append(message)
                self._on_topic.add(message["checkpoint"])

    def find_lost(self, total: int) -> list[int]:
        """Return the published checkpoints from number `total` on that the topic lacks too; at most LOST_MAX."""
        lost = (number for number in range(total, self._next_checkpoint) if number not in self._on_topic)
        return list(islice(lost, LOST_MAX))

    def find_faults(self, number: int, stored: dict[str, Any]) -> list[str]:
        """Return how the topic contradicts a stored checkpoint. The same checkpoint twice on the topic is no fault."""
        told = self.records.pop(number, [])
        faults = []
        if any(record != stored for record in told):
            faults.append("The topic has another checkpoint under its number.")
        if stored not in told and number < self._next_checkpoint:
            faults.append("It was published, and the topic does not have it.")
        return faults


class _Verification:
    def __init__(self, connection: Any, progress: Progress, posting_keys: PostingKeys) -> None:
        self._connection = connection
        self._progress = progress
        self._posting_keys = posting_keys
        self._ledger = db.read_ledger_lanes(connection)
        self._own = db.LANES.read(connection)
        self.bounds = {lane: next_seq for lane, (next_seq, _) in self._ledger.items()}
        # Lane -> the hashes that its records must have, joined: audit's own copy, then the topic's hashes after it.
        self._trusted: dict[int, bytes] = {}
        self._stored: dict[int, tuple[CheckpointRow, list[LaneHead]]] = {}
        self.report = Report(records=sum(self.bounds.values()))

    def read_topic(self, kafka: Kafka, topic: str, reader: RecordReader, grace_seconds: float) -> None:
        """Recompute each chain from the topic, and compare it with audit's own copy."""
        chains = {lane: LaneChain(db.LaneRow(lane, 0, 0, GENESIS, 0, b"")) for lane in self.bounds}
        done = 0
        for page in read_up_to(kafka, topic, reader, self.bounds, grace_seconds):
            self.report.findings += [make_misplaced_finding(BreakKind.CHAIN, *message) for message in page.unreadable]
            for record in page.records:
                chains[record["lane"]].take(record)
            done += len(page.records)
            self._progress("topic", done, self.report.records)
        for lane, chain in chains.items():
            segment = chain.make_segment()
            published = b"" if segment is None else segment.hashes
            self._judge_topic(lane, chain, published)
            if self._posting_keys:
                self._judge_signatures(lane, chain, published)

    def _judge_topic(self, lane: int, chain: LaneChain, published: bytes) -> None:
        findings = chain.findings
        for record in chain.repeated:
            at = record["seq"] * db.HASH_BYTES
            late = repeat_finding(record, published[at : at + db.HASH_BYTES], is_missing=False)
            if late is not None:
                findings.append(late)
        own = db.read_hashes(self._connection, lane, 0, self.bounds[lane])
        common = min(len(own), len(published))
        if own[:common] != published[:common]:
            differing = [
                seq for seq in range(common // db.HASH_BYTES) if _get_hash_at(own, seq) != _get_hash_at(published, seq)
            ]
            findings += [
                make_chain_finding(lane, seq, "The topic has another hash than it had when audit took its copy.")
                for seq in differing
            ]
        for seq in range(len(published) // db.HASH_BYTES, self.bounds[lane]):
            findings.append(make_chain_finding(lane, seq, "The topic has no such record; it ends before."))
        self._trusted[lane] = own + published[len(own) :]
        self.report.findings += findings

    def _judge_signatures(self, lane: int, chain: LaneChain, published: bytes) -> None:
        """Check that posting's signatures cover the lane to its end.

        They must begin at the first range that is signed on the topic, or where audit first asked for signatures,
        whichever is earlier.
        """
        own = self._own.get(lane)
        starts = [head.first_seq for head in chain.signed[:1]]
        if own is not None and own.signatures_first_seq is not None:
            starts.append(own.signatures_first_seq)
        began = min(starts, default=None)
        found = judge(
            lane,
            (began, began),
            chain.signed,
            lambda first_seq, next_seq: published[first_seq * db.HASH_BYTES : next_seq * db.HASH_BYTES],
            self._posting_keys,
        )
        self.report.findings += found.findings
        if found.next_seq is not None and found.next_seq < self.bounds[lane]:
            self.report.findings.append(make_unsigned_finding(lane, found.next_seq, self.bounds[lane]))

    def read_tables(self) -> None:
        """Hash every stored row again; report each row that is not what was published, but not those that follow it."""
        done = 0
        for lane, bound in self.bounds.items():
            kept = self._trusted[lane]
            for first in range(0, bound, PAGE_ROWS):
                end = min(first + PAGE_ROWS, bound)
                rows, legs = db.read_stored_rows(self._connection, lane, first, end)
                before = _get_hash_at(kept, first - 1) if first else GENESIS
                window = kept[first * db.HASH_BYTES : end * db.HASH_BYTES]
                known = [row for row in rows if row.seq < first + len(window) // db.HASH_BYTES]
                for seq, detail in find_window_faults(lane, first, known, legs, window, before):
                    self.report.findings.append(make_stored_finding(lane, seq, detail))
                done += end - first
                self._progress("tables", done, self.report.records)
            head = _get_hash_at(kept, bound - 1) if bound else GENESIS
            if len(kept) == bound * db.HASH_BYTES and head != self._ledger[lane][1]:
                detail = "The ledger's head of the chain is not the last record's hash."
                self.report.findings.append(Finding(BreakKind.STORED, f"lane {lane} head", detail, lane))
            self.report.lanes.append({"lane": lane, "records": bound, "head": head.hex()})
        for lane, own in self._own.items():
            if own.next_seq > self.bounds.get(lane, 0):
                at = self.bounds.get(lane, 0)
                detail = f"The ledger's lane stands at seq {at}, but {own.next_seq} records were published."
                self.report.findings.append(Finding(BreakKind.STORED, f"lane {lane} head", detail, lane))
        strays = find_stray_rows(self._connection, STRAYS_MAX)
        self.report.findings += [make_stray_finding(*stray) for stray in strays]

    def check_checkpoints(self, published: PublishedCheckpoints, public_key: bytes | None) -> None:
        """Check the signature, roots and link of each checkpoint, and that table and topic have the same ones."""
        keys = db.list_signing_keys(self._connection)
        previous: tuple[CheckpointRow, list[LaneHead]] | None = None
        total = 0
        while page := db.list_checkpoints(self._connection, total, PAGE_CHECKPOINTS):
            for row, heads in page:
                key = public_key or keys.get(row.key_id, b"")
                faults = [] if row.checkpoint == total else [f"Checkpoint {total} is missing before it."]
                faults += find_checkpoint_faults(row, heads, previous, key)
                faults += self._find_root_faults(heads)
                faults += published.find_faults(row.checkpoint, make_checkpoint_event(row, heads))
                self._check_checkpoint(row.checkpoint, faults)
                previous, total = (row, heads), row.checkpoint + 1
            self._progress("checkpoints", total, total)
        for number in sorted(published.records):  # faults_of has removed those that the table has
            self._check_checkpoint(number, ["The topic has it, the database has not."])
        for number in published.find_lost(total):
            self._check_checkpoint(number, ["It was published; neither the topic nor the database has it."])
        self.report.findings += published.unreadable
        self._judge_signed_ends(previous)
        self.report.checkpoints = total

    def _judge_signed_ends(self, newest: tuple[CheckpointRow, list[LaneHead]] | None) -> None:
        """Check that the newest checkpoint ends where audit.lane says that audit has signed up to."""
        signed = {} if newest is None else {head.lane: head.next_seq for head in newest[1]}
        for lane, own in self._own.items():
            if own.first_seq != signed.get(lane, 0):
                detail = (
                    f"Audit signed lane {lane} up to {own.first_seq}, its newest checkpoint says {signed.get(lane, 0)}."
                )
                self.report.findings.append(Finding(BreakKind.CHECKPOINT, "newest checkpoint", detail, lane))

    def check_kept(self, kept: Sequence[Kept], public_key: bytes | None) -> None:
        """Compare the checkpoints that were kept outside with today's ledger."""
        keys = db.list_signing_keys(self._connection)
        for item in kept:
            faults = find_genuineness_faults(item, public_key, keys) or self._find_kept_faults(item)
            self.report.findings += [Finding(BreakKind.CHECKPOINT, f"kept {item.place}", fault) for fault in faults]
        self.report.kept += len(kept)

    def _find_kept_faults(self, kept: Kept) -> list[str]:
        """Return why today's ledger does not continue the kept checkpoint (RFC 6962, 2.1.2: consistency).

        Each lane of the kept checkpoint must be the beginning of today's lane. All records are here, so the roots are
        computed again, and no consistency proof is needed.
        """
        number = kept.row.checkpoint
        today = self._read_stored_checkpoint(number)
        wrong = []
        if today is None:
            wrong.append(f"The ledger has no checkpoint {number}.")
        elif today != (kept.row, kept.heads):
            wrong.append(f"The ledger has another checkpoint {number}.")
        if wrong:  # a checkpoint that is stored just so was checked with the stored ones
            short = [head for head in kept.heads if head.next_seq > self.bounds.get(head.lane, 0)]
            wrong += [
                f"It covers {head.next_seq} records of lane {head.lane}; there are not so many." for head in short
            ]
            wrong += self._find_root_faults([head for head in kept.heads if head not in short])
        if kept.proof is not None:
            lane, seq, record_hash = get_record_place(kept.proof)
            if _get_hash_at(self._trusted.get(lane, b""), seq) != record_hash:
                wrong.append(f"The record that it proves, lane {lane} seq {seq}, is another one today.")
        return wrong

    def _read_stored_checkpoint(self, number: int) -> tuple[CheckpointRow, list[LaneHead]] | None:
        """Return a checkpoint as it is stored now; read those after it too, as they are asked for next."""
        if number not in self._stored:
            page = db.list_checkpoints(self._connection, number, PAGE_CHECKPOINTS)
            self._stored = {row.checkpoint: (row, sorted(heads)) for row, heads in page}
        return self._stored.get(number)

    def check_witness(self, witness: Witness, public_key: bytes | None) -> None:
        """Compare a witness with the ledger, and the ledger with the witness."""
        kept, strange = read_witness(witness)
        self.check_kept(kept, public_key)
        faults = list(strange)
        faults += [(witness.name, f"Checkpoint {number} is missing in it.") for number in find_gaps(kept)]
        faults += [(witness.name, fault) for fault in witness.find_history_faults()]
        first_missing = max((item.row.checkpoint for item in kept), default=-1) + 1
        missing = self._read_stored_checkpoint(first_missing)
        if missing is not None and time.time() - missing[0].signed_time / 1e6 > WITNESS_LATE_SECONDS:
            faults.append((witness.name, f"It ends before checkpoint {first_missing}, which was signed since."))
        self.report.findings += [Finding(BreakKind.CHECKPOINT, f"witness {place}", text) for place, text in faults]

    def _find_root_faults(self, heads: list[LaneHead]) -> list[str]:
        wrong = []
        for head in heads:
            kept = self._trusted.get(head.lane, b"")
            leaves = [_get_hash_at(kept, seq) for seq in range(head.first_seq, head.next_seq)]
            if compute_root(leaves) != head.records_root or (
                head.next_seq and _get_hash_at(kept, head.next_seq - 1) != head.head
            ):
                wrong.append(f"Its root of lane {head.lane} is not that of the records.")
        return wrong

    def _check_checkpoint(self, number: int, faults: list[str]) -> None:
        self.report.findings += [Finding(BreakKind.CHECKPOINT, f"checkpoint {number}", fault) for fault in faults]


def _get_hash_at(joined: bytes, seq: int) -> bytes:
    return joined[seq * db.HASH_BYTES : (seq + 1) * db.HASH_BYTES]


def verify(
    *,
    kafka: Kafka,
    dsn: str,
    registry: SchemaRegistry,
    topics: Topics,
    public_key: bytes | None = None,
    kept: Sequence[Kept] = (),
    witnesses: Sequence[Witness] = (),
    posting_keys: PostingKeys | None = None,
    progress: Progress = lambda *_: None,
    grace_seconds: float = 5.0,
) -> Report:
    """Verify everything and return the report.

    `public_key` (32 raw bytes) must have signed all checkpoints; without it, the keys that audit remembers must.
    Without `posting_keys` the signatures of posting are not judged. `kept` and `witnesses` are compared with the
    ledger as well. Raise DatabaseError, SourceAway, SchemaError or WitnessAway if a part is away, so that no result is
    possible.
    """
    started = time.monotonic()
    with open_snapshot(dsn, db.ROLE) as connection:
        next_checkpoint = db.find_next_unpublished_checkpoint(connection)
    # The order matters: first the number of published checkpoints, then the topic, then the tables. So a checkpoint
    # that is signed and published meanwhile cannot look as if it were missing.
    checkpoint_reader = RecordReader(registry, "audit.checkpoints-value")
    published = PublishedCheckpoints(next_checkpoint, read_all(kafka, topics.checkpoints, checkpoint_reader))
    with open_snapshot(dsn, db.ROLE) as connection:
        work = _Verification(connection, progress, posting_keys or PostingKeys(None))
        reader = RecordReader(registry, "ledger.journal-value")
        work.read_topic(kafka, topics.journal, reader, grace_seconds)
        work.read_tables()
        work.check_checkpoints(published, public_key)
        work.check_kept(kept, public_key)
        for witness in witnesses:
            work.check_witness(witness, public_key)
    report = work.report
    report.findings = sorted(
        merge_findings(report.findings), key=lambda found: (found.kind, found.lane or 0, found.seq or 0, found.subject)
    )
    report.seconds = time.monotonic() - started
    return report
