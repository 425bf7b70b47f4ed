"""The judgement: read everything, lane by lane, and compare all parts with each other."""

import time
from collections.abc import Iterable

from tools.chaos.oracle.balances import Balances
from tools.chaos.oracle.breaks import check_breaks
from tools.chaos.oracle.copies import (
    JOURNAL_NAME,
    QUARANTINED_NAME,
    check_bytes,
    check_chain,
    check_quarantine_topic,
    compare_copies,
    linked,
    published_records,
)
from tools.chaos.oracle.fates import OUTCOMES, Fates, check_lane
from tools.chaos.oracle.model import (
    NO_HASH,
    Acknowledged,
    Asked,
    Findings,
    Kept,
    Lane,
    Place,
    Planted,
    Plants,
    Record,
    Row,
    Scheduled,
    Verdict,
    place_of,
)
from tools.chaos.oracle.schedules import check_schedules
from tools.chaos.oracle.tables import Tables
from tools.chaos.oracle.topics import Registry, TopicReader, asked_of, record_of

INTENT_NAME = "ledgerline.payments.PaymentIntent"


def judge(
    place: Place,
    acknowledged: Iterable[Acknowledged],
    planted: Iterable[Planted] = (),
    scheduled: Iterable[Scheduled] = (),
) -> Verdict:
    """Judge a ledger at rest: every accepted intent must be posted, relayed and proved by now.

    `scheduled` are the schedules that clients made: each occurrence must be posted by now, and each event published.

    `planted` names the breaks that were made on purpose. The agents must have found each of them, and each excuses the
    faults at its own lane and seq. If the tables were altered (kinds stored and entries), the published record replaces
    the altered row for all other checks. A `balance` break excuses the shard that reconciliation named. Raise
    OracleError if something cannot be read.
    """
    began = time.monotonic()
    plants = Plants(planted)
    with TopicReader(place.kafka_bootstrap) as topics, Registry(place.registry_url) as registry:
        # Read the ends before the tables: an intent that comes later is not judged, and earlier ones are in the tables.
        ends = {
            lane: topics.bounds(f"{place.topic_prefix}payments.intents", lane)
            for lane in topics.partitions(f"{place.topic_prefix}payments.intents")
        }
        with Tables(place.postgres_dsn) as tables:
            judgement = _Judgement(place, topics, registry, tables, plants, acknowledged)
            judgement.run(ends)
            check_schedules(tables, topics, registry, place.topic_prefix, scheduled, judgement.findings)
    counts = {
        **dict.fromkeys(("offsets", "rows", "records", "acknowledged", *OUTCOMES), 0),
        **judgement.findings.counts,
    }
    return Verdict(tuple(judgement.findings.faults), counts, time.monotonic() - began)


class _Judgement:
    """One judgement under way. It holds the rows of one lane in memory, and only sums of the other lanes."""

    def __init__(
        self,
        place: Place,
        topics: TopicReader,
        registry: Registry,
        tables: Tables,
        plants: Plants,
        acknowledged: Iterable[Acknowledged],
    ) -> None:
        self.findings = Findings()
        self._prefix = place.topic_prefix
        self._topics = topics
        self._registry = registry
        self._tables = tables
        self._plants = plants
        self._accounts = tables.accounts()
        self._balances = Balances(self._accounts, self.findings)
        self._fates = Fates(tables.tenants(), acknowledged, self.findings, by_commit=tables.tracks_commits)

    def run(self, ends: dict[int, tuple[int, int]]) -> None:
        lanes = self._tables.lanes()
        numbers = sorted(self._tables.lane_numbers() | ends.keys())
        self.findings.counts.update(lanes=len(numbers), accounts=len(self._accounts))
        for number in numbers:
            self._judge_lane(number, lanes.get(number), ends.get(number))
        breaks = self._tables.breaks()
        found_shards = {
            found.subject for found in breaks if (found.found_by, found.kind) == ("reconciliation", "balance")
        }
        self._balances.finish(self._tables, self._plants, found_shards)
        self._fates.finish()
        check_breaks(breaks, self._plants, self.findings)

    def _judge_lane(self, number: int, lane: Lane | None, bounds: tuple[int, int] | None) -> None:
        rows, entries_without_row = self._tables.rows(number)
        kept = self._tables.kept(number)
        self.findings.counts["rows"] += len(rows)
        for row in rows:
            self.findings.counts[row.record.outcome] += 1
            self.findings.counts["entries"] += len(row.record.legs)
        if bounds is None:
            self.findings.add("one_fate", f"lane {number}", "payments.intents has no such partition.")
            return
        check_lane(number, lane, rows, entries_without_row, bounds[1], self._plants, self.findings)
        published = self._judge_copies(number, rows, kept)
        judged = self._judged(rows, published)
        if lane is not None and not self._plants.lane_row(number):
            self._judge_head(lane, judged)
        self._judge_intents(number, judged, kept, bounds)

    def _judge_head(self, lane: Lane, judged: list[Row]) -> None:
        hashes = {row.record.seq: row.record.hash for row in judged}
        # If the last row is missing, another check reports it.
        last = hashes.get(lane.next_seq - 1, lane.head) if lane.next_seq else NO_HASH
        if lane.head != last:
            self.findings.add("chains", f"lane {lane.lane}", "The lane's head is not the hash of its last row.")

    def _judge_copies(self, number: int, rows: list[Row], kept: dict[int, Kept]) -> dict[int, Record]:
        journal = self._topics.read(f"{self._prefix}ledger.journal", number, committed=True)
        records = ((raw, record_of(self._registry.decode(raw.value, JOURNAL_NAME))) for raw in journal)
        published = published_records(number, records, rows, self._plants, self.findings)
        rows = linked(rows, published)
        compare_copies(rows, published, self._plants, self.findings)
        hashes: dict[int, tuple[Record, bytes]] = {}
        by_seq = (published[seq] for seq in sorted(published))
        check_chain(by_seq, "topic", hashes, self._plants, self.findings)
        check_chain((row.record for row in rows), "table", hashes, self._plants, self.findings)
        quarantine = self._topics.read(f"{self._prefix}payments.quarantine", number, committed=True)
        decoded = (self._registry.decode(raw.value, QUARANTINED_NAME) for raw in quarantine)
        check_quarantine_topic(number, rows, kept, decoded, self._plants, self.findings)
        for seq in kept.keys() - {row.record.seq for row in rows if row.record.outcome == "quarantined"}:
            if not self._plants.at(number, seq):
                self.findings.add(
                    "quarantine", place_of(number, seq), "Bytes are kept of a row that is not quarantined."
                )
        return published

    def _judged(self, rows: list[Row], published: dict[int, Record]) -> list[Row]:
        """Return the rows for the further checks: the published record replaces each row altered on purpose."""
        judged = [row for row in rows if not self._plants.in_table(row.record.lane, row.record.seq)]
        moments = {row.record.seq: row.moment for row in rows}
        for seq, record in published.items():
            if self._plants.in_table(record.lane, seq):
                moment = self._plants.moment(record.lane, seq) or moments.get(seq, record.booked_time)
                judged.append(Row(record, len(record.legs), tuple(range(len(record.legs))), moment, foreign=False))
        judged.sort(key=lambda row: row.record.seq)
        return judged

    def _judge_intents(self, number: int, judged: list[Row], kept: dict[int, Kept], bounds: tuple[int, int]) -> None:
        by_offset = {row.record.source_offset: row for row in judged}
        everything_taken = set()
        for raw in self._topics.read(f"{self._prefix}payments.intents", number, committed=True):
            if raw.offset >= bounds[1]:
                break
            self.findings.counts["offsets"] += 1
            asked = asked_of(self._registry.decode(raw.value, INTENT_NAME))
            row = by_offset.pop(raw.offset, None)
            self._fates.take(number, raw.offset, row, asked, raw.value)
            if row is None:
                continue
            if row.record.outcome == "quarantined":
                check_bytes(raw, row.record, kept.get(row.record.seq), self.findings)
            if isinstance(asked, Asked) and asked.type == "reversal" and not asked.legs:
                everything_taken.add(row.record.seq)
        for row in by_offset.values():
            self._fates.without_record(row, bounds[0])
        for row in judged:
            seq = row.record.seq
            self._balances.take(row, stands_in=self._plants.in_table(number, seq), takes_all=seq in everything_taken)
