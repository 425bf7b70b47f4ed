"""`ledgerline reconcile`: checks 1 to 4 over all topics and tables, without reconciliation's stored sums.

One snapshot of the ledger fixes the end of each lane. The topics are read up to that end, so posting may go on.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from db import reconciliation as db
from db.agent_connection import open_snapshot
from db.proving import find_stray_rows
from db.rejections import RecentBooks
from domain.breaks import BreakKind, Finding, make_record_subject, merge_findings
from domain.topics import Topics
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.journal_agent import make_misplaced_finding
from streams.proof.reconciliation import checks, state
from streams.proof.reconciliation.agent import LedgerLookups, make_shard_finding, repeat_finding
from streams.proof.reconciliation.faithful import Comparison
from streams.proof.reconciliation.frame import FrameSource
from streams.proof.reconciliation.frame_full import compare_frame
from streams.proof.reconciliation.source import IntentSource
from streams.proof.reconciliation.sweep import find_lane_faults, make_entries_finding, make_stray_finding
from streams.proof.records.decoding import RecordReader
from streams.proof.records.pages import read_up_to

ROWS_PER_QUERY: Final = 50_000
STRAYS_MAX: Final = 1000

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""


@dataclass
class Report:
    """The result of a full recomputation."""

    lanes: list[dict[str, int]] = field(default_factory=list)
    """Conservation by lane: lane, received, each outcome, missing, in_flight, expired."""
    totals: list[dict[str, str | int]] = field(default_factory=list)
    """Symmetry by tenant, currency and class of account."""
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    shards: int = 0
    seconds: float = 0.0

    @property
    def records_per_second(self) -> int:
        """Return how many records were checked per second."""
        return int(self.records / self.seconds) if self.seconds else 0


class _Recomputation:
    def __init__(self, connection: Any, source: IntentSource, registry: SchemaRegistry, topics: Topics) -> None:
        self._connection = connection
        self._source = source
        self._comparison = Comparison(RecordReader(registry, "payments.intents-value"), source)
        self._lookups = LedgerLookups(connection, RecentBooks())
        self._topics = topics
        self._ledger = db.read_ledger_lanes(connection)
        self.bounds = {lane: row.next_seq for lane, row in self._ledger.items()}
        self._taken = state.Taken()
        self._counters = {
            lane: state.LaneCounter(db.LaneRow(lane), (), topics.intents, self._taken) for lane in self._ledger
        }
        self._expired: dict[int, int] = {}
        self.report = Report()

    def read_topics(self, kafka: Kafka, reader: RecordReader, progress: Progress, grace_seconds: float) -> None:
        """Check conservation, symmetry and faithfulness, record by record."""
        total = sum(self.bounds.values())
        taken, report = self._taken, self.report
        for page in read_up_to(kafka, self._topics.journal, reader, self.bounds, grace_seconds):
            taken.records.clear()
            taken.findings += [make_misplaced_finding(BreakKind.CONSERVATION, *message) for message in page.unreadable]
            for record in page.records:
                self._counters[record["lane"]].take(record)
            compared = self._comparison.compare(taken.records, self._lookups)
            taken.findings += compared.findings
            for lane, count in compared.expired.items():
                self._expired[lane] = self._expired.get(lane, 0) + count
            report.records += len(taken.records)
            progress("records", report.records, total)
        if taken.repeated:
            held = db.find_row_hashes(self._connection, [(record["lane"], record["seq"]) for record in taken.repeated])
            repeats = [r for r in taken.repeated if held.get((r["lane"], r["seq"])) != r["hash"]]
            taken.findings += [repeat_finding(record) for record in repeats]
        closed = {make_record_subject(*place) for place in taken.gaps_closed}
        report.findings += taken.findings
        report.findings += [finding for finding in taken.missing if finding.subject not in closed]

    def count_lanes(self) -> None:
        """Check conservation in total, by lane. A record that the snapshot has and the topic lacks is a break."""
        for lane, ledger in self._ledger.items():
            row = self._counters[lane].row(0)
            fates = {name: getattr(row, name) for name in checks.OUTCOME_NAMES}
            owed = row.next_seq - sum(fates.values())
            bounds = self._source.bounds(lane)
            self.report.findings += find_lane_faults(row, ledger._replace(next_seq=row.next_seq), bounds, owed)
            if row.next_seq < ledger.next_seq:
                detail = f"The ledger has rows up to seq {ledger.next_seq - 1}; the topic ends before this one."
                subject = make_record_subject(lane, row.next_seq)
                self.report.findings.append(Finding(BreakKind.CONSERVATION, subject, detail, lane, row.next_seq))
            received = bounds[1] - ledger.first_offset
            self.report.lanes.append(
                {
                    "lane": lane,
                    "received": received,
                    **fates,
                    "missing": owed,
                    "in_flight": received - row.next_seq,
                    "expired": self._expired.get(lane, 0),
                }
            )

    def sum_up(self) -> None:
        """Check symmetry in total, by class of account."""
        classes = db.read_all_account_classes(self._connection)
        sums = state.sum_classes(self._taken.moved, classes)
        totals: dict[tuple[str, str, str], tuple[int, int]] = {}
        for (_, tenant, currency, account_class), (debits, credits) in sums.items():
            before = totals.get((tenant, currency, account_class), (0, 0))
            totals[tenant, currency, account_class] = (before[0] + debits, before[1] + credits)
        self.report.findings += state.find_class_faults(totals)
        names = ("tenant", "currency", "account_class", "debits_minor", "credits_minor")
        self.report.totals = [dict(zip(names, (*key, *totals[key]), strict=True)) for key in sorted(totals)]

    def compare_shards(self, progress: Progress) -> None:
        """Compare the recomputed balances with the ledger's shards, and with the sums of the ledger's entries."""
        own = self._taken.sums()
        self.report.shards = len(own)
        held = db.read_all_sums(self._connection, "all_ledger_shards")
        for finding in self._find_differences(own, held, progress, "shards"):
            self.report.findings.append(finding)
        entries = db.read_all_sums(self._connection, "all_entry_sums")
        for finding in self._find_differences(own, entries, progress, "entries"):
            detail = f"Entries: {finding.detail}"
            self.report.findings.append(finding._replace(kind=BreakKind.ENTRIES, detail=detail))

    def _find_differences(
        self,
        own: Mapping[db.ShardKey, db.Sums],
        held: Iterable[tuple[db.ShardKey, db.Sums]],
        progress: Progress,
        step: str,
    ) -> list[Finding]:
        missing = set(own)
        pairs = []
        for number, (key, sums) in enumerate(held):
            missing.discard(key)
            if own.get(key) != sums:
                pairs.append(db.ShardPair(key, own.get(key), sums, self.bounds.get(key[3], 0)))
            if number % 5000 == 0:
                progress(step, number, len(own))
        pairs += [db.ShardPair(key, own[key], None, self.bounds.get(key[3], 0)) for key in missing]
        return [
            make_shard_finding(pair, checks.check_shard(pair) or "The ledger's shard lies outside every lane.", {})
            for pair in sorted(pairs)
        ]

    def check_rows(self, progress: Progress) -> None:
        """Find journal rows and entries that are missing, are surplus, or do not belong together."""
        total, done = sum(self.bounds.values()), 0
        for lane, bound in self.bounds.items():
            for first in range(0, bound, ROWS_PER_QUERY):
                end = min(first + ROWS_PER_QUERY, bound)
                for row in db.find_faulty_rows(self._connection, lane, first, end):
                    self.report.findings.append(make_entries_finding(lane, row.seq, checks.describe_faulty_row(row)))
                done += end - first
                progress("rows", done, total)
        self.report.findings += [make_stray_finding(*stray) for stray in find_stray_rows(self._connection, STRAYS_MAX)]


def recompute(
    *,
    kafka: Kafka,
    dsn: str,
    registry: SchemaRegistry,
    topics: Topics,
    progress: Progress = lambda *_: None,
    grace_seconds: float = 5.0,
) -> Report:
    """Recompute everything and compare; `grace_seconds` is how long to wait for records that the relay has yet to send.

    Raise DatabaseError, SourceAway or SchemaError if a part is away, so that no result is possible.
    """
    started = time.monotonic()
    source = IntentSource(kafka, topics.intents)
    frame_source = FrameSource(kafka, registry, topics.frame)
    try:
        with open_snapshot(dsn, db.ROLE) as connection:
            work = _Recomputation(connection, source, registry, topics)
            work.read_topics(kafka, RecordReader(registry, "ledger.journal-value"), progress, grace_seconds)
            work.count_lanes()
            work.sum_up()
            work.compare_shards(progress)
            work.check_rows(progress)
            work.report.findings += compare_frame(connection, frame_source, grace_seconds)
    finally:
        source.close()
        frame_source.close()
    report = work.report
    report.findings = sorted(
        merge_findings(report.findings), key=lambda found: (found.kind, found.lane or 0, found.subject)
    )
    report.seconds = time.monotonic() - started
    return report
