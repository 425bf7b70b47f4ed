"""Compares a batch of journal records with the intents at their offsets, and with the rows that settled intents."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, cast

from db.reconciliation import IntentName, Settled
from domain.breaks import Break, BreakKind, Finding, make_record_subject
from domain.outcomes import Outcome, QuarantineReason
from streams.proof.reconciliation import checks, rejections
from streams.proof.reconciliation.source import IntentSource, Window
from streams.proof.records.decoding import IntentRecord, JournalRecord, RecordReader, Unreadable

# Late records lie far from the others. Records are read as one window while no gap between them is larger than this.
RUN_HOLE_MAX: Final = 1000

_REJECTED: Final = Outcome.REJECTED.value
_QUARANTINED: Final = Outcome.QUARANTINED.value
_REPEATS: Final = (Outcome.DUPLICATE.value, Outcome.IDEMPOTENCY_CONFLICT.value)


class Lookups(rejections.Lookups, Protocol):
    """The queries to the ledger that the rules need. Each query serves a whole batch."""

    def settled(self, names: Sequence[IntentName]) -> dict[IntentName, Settled]:
        """Return the rows that settled these intents."""

    def tenant_times(self, tenants: Sequence[str]) -> dict[str, int]:
        """Return when these tenants were made, in microseconds since 1970."""


class Compared(NamedTuple):
    """The result of a comparison."""

    findings: list[Finding]
    expired: dict[int, int]
    """Lane -> the number of records whose intent retention had deleted."""
    times_ms: list[int]
    """Timestamps of the compared messages, in milliseconds since 1970; 0 or less if a message has none."""


class Comparison:
    """A comparison of record batches with their intents."""

    def __init__(self, reader: RecordReader, source: IntentSource) -> None:
        self._reader = reader
        self._source = source

    def compare(self, records: Sequence[JournalRecord], lookups: Lookups) -> Compared:
        """Compare records with their intents. The records of a lane may be in any order."""
        compared = Compared([], {}, [])
        pending: list[tuple[JournalRecord, checks.Asked]] = []
        rejected: list[rejections.Rejection] = []
        for run in _split_runs(records):
            windows = self._source.read(
                {lane: (part[0]["source_offset"], _get_end(part)) for lane, part in run.items()}
            )
            for lane, part in run.items():
                for record in part:
                    self._compare_one(record, windows[lane], compared, pending, rejected)
        compared.findings.extend(look_up(pending, lookups))
        compared.findings.extend(make_finding(record, detail) for record, detail in rejections.judge(rejected, lookups))
        return compared

    def _compare_one(
        self,
        record: JournalRecord,
        window: Window,
        compared: Compared,
        pending: list[tuple[JournalRecord, checks.Asked]],
        rejected: list[rejections.Rejection],
    ) -> None:
        offset, lane = record["source_offset"], record["lane"]
        if offset not in window.values:
            if offset < window.low:
                compared.expired[lane] = compared.expired.get(lane, 0) + 1
                return
            wrong = checks.check_absence(record)
            compared.findings.extend([make_finding(record, detail, BreakKind.CONSERVATION) for detail in wrong])
            return
        compared.times_ms.append(window.times_ms[offset])
        value = window.values[offset]
        asked = self.read(value)
        outcome = record["outcome"]
        if outcome == _QUARANTINED:
            wrong = checks.check_quarantine(record, value, asked)
        else:
            wrong = checks.check_faithfulness(record, asked)
        compared.findings.extend([make_finding(record, detail) for detail in wrong])
        if outcome in _REPEATS or needs_original(record) or needs_tenant(record, asked):
            pending.append((record, asked))
        if outcome == _REJECTED and not wrong and not isinstance(asked, Unreadable):
            rejected.append(rejections.Rejection(record, asked, window.times_ms[offset] * 1000))

    def read(self, value: bytes | None) -> checks.Asked:
        """Return the intent in these bytes, or why there is none."""
        try:
            return checks.check_readable(cast("IntentRecord", self._reader.read(value)))
        except Unreadable as unreadable:
            return unreadable


def make_finding(record: JournalRecord, detail: str, kind: BreakKind = BreakKind.FAITHFULNESS) -> Finding:
    """Return a finding about a record."""
    lane, seq = record["lane"], record["seq"]
    return Finding(kind, make_record_subject(lane, seq), detail, lane, seq)


def needs_original(record: JournalRecord) -> bool:
    """Return whether the record is a posted reversal."""
    return record["reverses"] is not None and record["outcome"] == Outcome.POSTED.value


def needs_tenant(record: JournalRecord, asked: checks.Asked) -> bool:
    """Return whether the record says that the tenant was unknown, and the intent is readable and names the tenant."""
    return record["reason"] == QuarantineReason.UNKNOWN_TENANT.value and not isinstance(asked, Unreadable)


def look_up(pending: Sequence[tuple[JournalRecord, checks.Asked]], lookups: Lookups) -> list[Finding]:
    """Return the findings that need the ledger: about repeated intents, reversals, and unknown tenants.

    A finding about a repeated intent has the compared values as evidence, because a missing row may come back.
    """
    repeats = [record for record, _ in pending if record["outcome"] in _REPEATS]
    settled = lookups.settled(_list_names(repeats, "intent_id")) if repeats else {}
    reversals = [record for record, _ in pending if needs_original(record)]
    moved = lookups.reversals(_list_names(reversals, "reverses")) if reversals else {}
    tenants = [asked["tenant"] for record, asked in pending if needs_tenant(record, asked)]  # type: ignore[index]
    times = lookups.tenant_times(sorted(set(tenants))) if tenants else {}
    findings = []
    for record, asked in pending:
        wrong: list[str] = []
        if record["outcome"] in _REPEATS:
            wrong = checks.check_settlement(record, settled.get((record["tenant"] or "", record["intent_id"] or "")))
        elif needs_original(record):
            takes_all = not isinstance(asked, Unreadable) and not asked["legs"]
            wrong = checks.check_reversal(
                record, takes_all, moved.get((record["tenant"] or "", record["reverses"] or ""))
            )
        elif not isinstance(asked, Unreadable):
            wrong = checks.check_unknown_tenant(record, times.get(asked["tenant"]))
        evidence = repeat_evidence(record) if record["outcome"] in _REPEATS else {}
        findings += [make_finding(record, detail)._replace(evidence=evidence) for detail in wrong]
    return findings


def repeat_evidence(record: JournalRecord) -> dict[str, str | int]:
    """Return the values that `repeat_still_wrong` needs to judge the record again."""
    return {
        "outcome": record["outcome"],
        "tenant": record["tenant"] or "",
        "intent_id": record["intent_id"] or "",
        "fingerprint": record["fingerprint"].hex(),
    }


def repeat_still_wrong(item: Break, lookups: Lookups) -> bool:
    """Return whether the row that a repeated intent must follow is still missing, or still has the wrong content."""
    evidence = item.evidence
    name = (str(evidence["tenant"]), str(evidence["intent_id"]))
    record = {
        "lane": item.lane,
        "seq": item.seq,
        "outcome": evidence["outcome"],
        "fingerprint": bytes.fromhex(str(evidence["fingerprint"])),
    }
    return bool(checks.check_settlement(cast("JournalRecord", record), lookups.settled([name]).get(name)))


def _list_names(records: Iterable[JournalRecord], member: str) -> list[IntentName]:
    return sorted({(record["tenant"] or "", str(cast("Mapping[str, object]", record)[member])) for record in records})


def _get_end(part: Sequence[JournalRecord]) -> int:
    return part[-1]["source_offset"] + 1


def _split_runs(records: Sequence[JournalRecord]) -> list[dict[int, list[JournalRecord]]]:
    """Split each lane's records, in order of source offset, at large gaps; group the n-th runs of all lanes."""
    lanes: dict[int, list[JournalRecord]] = {}
    for record in records:
        lanes.setdefault(record["lane"], []).append(record)
    runs: list[dict[int, list[JournalRecord]]] = []
    for lane, part in lanes.items():
        part.sort(key=lambda record: record["source_offset"])
        number = 0
        start = 0
        for index in range(1, len(part) + 1):
            is_end = index == len(part)
            if is_end or part[index]["source_offset"] - part[index - 1]["source_offset"] > RUN_HOLE_MAX:
                if number == len(runs):
                    runs.append({})
                runs[number][lane] = part[start:index]
                number, start = number + 1, index
    return runs
