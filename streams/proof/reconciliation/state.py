"""Adds up the records of a batch or of a whole topic: order, counts, balances and sums. It does no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from db.reconciliation import LaneRow, ShardKey, Sums
from domain.breaks import BreakKind, Finding, make_record_subject
from domain.intents import DIRECTIONS
from streams.proof.reconciliation import checks
from streams.proof.records.decoding import JournalRecord

# A topic that skips more records than this at once is another topic, not this topic with a gap.
GAP_RECORDS_MAX: Final = 10_000


@dataclass
class Taken:
    """The records of a batch in order of arrival, their sums, and the findings about them."""

    records: list[JournalRecord] = field(default_factory=list)
    repeated: list[JournalRecord] = field(default_factory=list)
    """Records that the topic had brought before. Their hashes are to be compared with the ledger's."""
    moved: dict[ShardKey, list[int]] = field(default_factory=dict)
    """Shard -> debits, credits (minor units), the last seq that touched it."""
    findings: list[Finding] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    """Findings about records that the topic skipped. Such a record may still come, and is then in `gaps_closed`."""
    gaps_opened: list[tuple[int, int]] = field(default_factory=list)
    gaps_closed: list[tuple[int, int]] = field(default_factory=list)

    def sums(self) -> dict[ShardKey, Sums]:
        """Return `moved` as immutable sums."""
        return {key: Sums(*sums) for key, sums in self.moved.items()}


class LaneCounter:
    """A counter that takes the records of one lane in order of arrival."""

    def __init__(self, row: LaneRow, gaps: Iterable[tuple[int, int]], source_topic: str, taken: Taken) -> None:
        self.lane = row.lane
        self._row = row
        self._next_seq = row.next_seq
        self._first_offset = row.source_first_offset
        self._booked_time = row.booked_time
        self._gaps = {seq for lane, seq in gaps if lane == row.lane}
        self._source_topic = source_topic
        self._taken = taken
        self._counts = dict.fromkeys(checks.OUTCOME_NAMES, 0)

    @property
    def next_seq(self) -> int:
        """Return the seq after the highest one taken."""
        return self._next_seq

    @property
    def first_offset(self) -> int | None:
        """Return the source offset of seq 0; None before the first record."""
        return self._first_offset

    def row(self, next_offset: int) -> LaneRow:
        """Return the lane's row after the records taken; `next_offset` is that of the journal's partition."""
        return self._row._replace(
            next_offset=next_offset,
            next_seq=self._next_seq,
            source_first_offset=self._first_offset,
            booked_time=self._booked_time,
            **{name: getattr(self._row, name) + count for name, count in self._counts.items()},
        )

    def take(self, record: JournalRecord) -> None:
        """Check a record's place, count it and add up its legs. Faults become findings."""
        seq = record["seq"]
        if seq != self._next_seq and not self._take_out_of_order(record):
            return
        if seq >= self._next_seq:
            self._next_seq = seq + 1
            if record["booked_time"] < self._booked_time:
                self._find(seq, f"It was booked at {record['booked_time']}, before the record ahead of it.")
            self._booked_time = record["booked_time"]
        if self._first_offset is None:
            self._first_offset = record["source_offset"] - seq
        if record["source_offset"] != self._first_offset + seq:
            wanted = self._first_offset + seq
            self._find(seq, f"It is the fate of offset {record['source_offset']}, where {wanted} was next.")
        if record["source_topic"] != self._source_topic:
            self._find(seq, f"It is the fate of a message of another topic: {record['source_topic'][:80]!a}.")
        if checks.is_outcome_known(record):
            self._counts[record["outcome"]] += 1
        else:
            self._find(seq, "Its outcome is none that is known.")
        for detail in checks.check_symmetry(record):
            self._find(seq, detail, BreakKind.SYMMETRY)
        self._taken.records.append(record)
        self._move(record)

    def _take_out_of_order(self, record: JournalRecord) -> bool:
        """Return whether to take a record that is not the next one; note gaps and repeats."""
        seq, lane, taken = record["seq"], self.lane, self._taken
        if seq < self._next_seq:
            if seq not in self._gaps:
                taken.repeated.append(record)
                return False
            self._gaps.discard(seq)
            taken.gaps_closed.append((lane, seq))
            return True
        if seq - self._next_seq > GAP_RECORDS_MAX:
            self._find(self._next_seq, f"The topic goes on with seq {seq}; that record is not taken.")
            return False
        for missing in range(self._next_seq, seq):
            self._gaps.add(missing)
            taken.gaps_opened.append((lane, missing))
            taken.missing.append(
                self._make_finding(missing, f"The topic has no such record: it goes on with seq {seq}.")
            )
        return True

    def _move(self, record: JournalRecord) -> None:
        lane, tenant, seq, moved = self.lane, record["tenant"] or "", record["seq"], self._taken.moved
        for leg in record["legs"]:
            key = (tenant, leg["account"], leg["currency"], lane)
            sums = moved.get(key)
            if sums is None:
                sums = moved[key] = [0, 0, seq]
            direction = DIRECTIONS.get(leg["direction"], 0)
            if direction:
                sums[direction < 0] += leg["amount_minor"]
            sums[2] = max(sums[2], seq)

    def _find(self, seq: int, detail: str, kind: BreakKind = BreakKind.CONSERVATION) -> None:
        self._taken.findings.append(self._make_finding(seq, detail, kind))

    def _make_finding(self, seq: int, detail: str, kind: BreakKind = BreakKind.CONSERVATION) -> Finding:
        return Finding(kind, make_record_subject(self.lane, seq), detail, self.lane, seq)


def sum_classes(
    moved: Mapping[ShardKey, Sequence[int]], classes: Mapping[tuple[str, str], str]
) -> dict[tuple[int, str, str, str], tuple[int, int]]:
    """Return (lane, tenant, currency, class) -> (debits, credits). An account without a class counts as `unknown`."""
    sums: dict[tuple[int, str, str, str], tuple[int, int]] = {}
    for (tenant, address, currency, lane), (debits, credits, _) in moved.items():
        key = (lane, tenant, currency, classes.get((tenant, address), "unknown"))
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + debits, before[1] + credits)
    return sums


def find_class_faults(totals: dict[tuple[str, str, str], tuple[int, int]]) -> list[Finding]:
    """Check that each tenant's books balance in each currency, and that every account has a class.

    Assets and expenses must equal liabilities, equity and income: debits less credits are 0 over all classes.
    `totals`: (tenant, currency, class) -> debits and credits.
    """
    nets: dict[tuple[str, str], int] = {}
    findings = []
    for (tenant, currency, account_class), (debits, credits) in totals.items():
        nets[tenant, currency] = nets.get((tenant, currency), 0) + debits - credits
        if account_class == "unknown":
            detail = f"Debits of {debits} and credits of {credits} minor units are on accounts that the ledger lacks."
            findings.append(Finding(BreakKind.SYMMETRY, f"{tenant} {currency} unknown accounts", detail))
    findings += [
        Finding(
            BreakKind.SYMMETRY,
            f"{tenant} {currency} total",
            f"Assets and expenses less liabilities, equity and income are {net} minor units, not 0.",
        )
        for (tenant, currency), net in nets.items()
        if net
    ]
    return findings
