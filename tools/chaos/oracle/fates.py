"""Check that every offset has one fate, every intent is settled once, and the journal has what the intents asked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from tools.chaos.oracle.canonical import fingerprint_of, intent_id_of
from tools.chaos.oracle.model import (
    Acknowledged,
    Asked,
    Findings,
    Lane,
    Leg,
    Plants,
    Record,
    Row,
    Unreadable,
    place_of,
)

Name = tuple[str, str]
"""Tenant and intent id."""

OUTCOMES: Final = ("posted", "duplicate", "idempotency_conflict", "rejected", "quarantined")
_WITHOUT_TEXT: Final = ("malformed", "unsupported_type")
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_KEY_CHARACTERS_MAX: Final = 255
# A tenant's created_time is the start of its transaction, which may be a while before a worker can see the tenant.
_TENANT_GRACE_MICROSECONDS: Final = 60_000_000


class Settled(NamedTuple):
    """A row about an intent. `asked` is the fingerprint of the intent that the topic has at the row's offset."""

    lane: int
    seq: int
    moment: int
    asked: bytes
    idempotency_key: str
    """The key from which the intent's id follows."""


class Repeat(NamedTuple):
    """A row that settled nothing, because another row settled the intent."""

    name: Name
    outcome: str
    place: Settled


def check_lane(
    number: int,
    lane: Lane | None,
    rows: Sequence[Row],
    entries_without_row: Iterable[int],
    end_offset: int,
    plants: Plants,
    findings: Findings,
) -> None:
    """Check that the lane has one row for each offset, in order and without a gap, up to the end of the topic."""
    if lane is None:
        lane = Lane(number, "", 0, 0, 0, bytes(32))
    if lane.next_offset < end_offset:
        waiting = end_offset - lane.next_offset
        findings.counts["in_flight"] += waiting
        findings.add("one_fate", f"lane {number}", f"{waiting} offsets from {lane.next_offset} on have no fate yet.")
    elif lane.next_offset > end_offset and not plants.lane_row(number):
        findings.add(
            "one_fate", f"lane {number}", f"It stands at {lane.next_offset}, but the topic ends at {end_offset}."
        )
    count = lane.next_offset - lane.first_offset
    if count != lane.next_seq and not plants.lane_row(number):
        findings.add("one_fate", f"lane {number}", f"It counts {lane.next_seq} rows for {count} offsets.")
    _check_sequence(lane, rows, plants, findings)
    _check_whole(lane, {row.record.seq for row in rows}, end_offset, plants, findings)
    for seq in sorted(entries_without_row):
        if not plants.at(number, seq):
            findings.add("one_fate", place_of(number, seq), "There are entries, but there is no journal row.")


def _check_sequence(lane: Lane, rows: Sequence[Row], plants: Plants, findings: Findings) -> None:
    seen: set[int] = set()
    booked_time = 0
    for row in rows:
        record = row.record
        seq, where = record.seq, place_of(lane.lane, record.seq)
        wrong = []
        if seq in seen:
            wrong.append("There is more than one row with this number.")
        elif not 0 <= seq < lane.next_seq:
            wrong.append(f"The row stands outside its lane, which ends at seq {lane.next_seq}.")
        seen.add(seq)
        if record.source_offset != lane.first_offset + seq:
            wrong.append(f"The row has offset {record.source_offset}, not {lane.first_offset + seq}.")
        if record.source_topic != lane.topic:
            wrong.append(f"The row is from {record.source_topic}, the lane from {lane.topic}.")
        if record.booked_time < booked_time:
            wrong.append("The row is booked before the one before it.")
        if record.outcome not in OUTCOMES:
            wrong.append(f"The outcome {record.outcome} is none.")
        if plants.at(lane.lane, seq):
            continue
        booked_time = max(booked_time, record.booked_time)
        for detail in wrong:
            findings.add("one_fate", where, detail)


def _check_whole(lane: Lane, seen: set[int], end_offset: int, plants: Plants, findings: Findings) -> None:
    # Stop at the end of the topic: a lane beyond it is a fault already, and its next_seq may be any number.
    for seq in range(min(lane.next_seq, end_offset - lane.first_offset)):
        if seq not in seen and not plants.at(lane.lane, seq):
            findings.add("one_fate", place_of(lane.lane, seq), f"Offset {lane.first_offset + seq} has no row.")


class Fates:
    """The comparison of rows with the intents at their offsets, and the row that settled each intent."""

    def __init__(
        self,
        tenants: Mapping[str, int],
        acknowledged: Iterable[Acknowledged],
        findings: Findings,
        *,
        by_commit: bool,
    ) -> None:
        self._tenants = tenants
        self._by_commit = by_commit
        self._findings = findings
        self._settled: dict[Name, Settled] = {}
        self._repeats: list[Repeat] = []
        self._acknowledged = list(acknowledged)
        # (partition, offset) told to a client -> intent id and fingerprint of the intent there; None until it is read.
        self._told: dict[tuple[int, int], tuple[str, bytes] | None] = {
            (answer.partition, answer.offset): None
            for answer in self._acknowledged
            if answer.partition is not None and answer.offset is not None
        }

    def take(self, lane: int, offset: int, row: Row | None, asked: Asked | Unreadable, value: bytes | None) -> None:
        """Compare one offset of the topic with its row."""
        fingerprint = sha256(value or b"").digest() if isinstance(asked, Unreadable) else fingerprint_of(asked)
        if (lane, offset) in self._told and isinstance(asked, Asked):
            self._told[lane, offset] = (asked.intent_id, fingerprint)
        if row is None:
            return
        record = row.record
        if record.outcome == "quarantined" or isinstance(asked, Unreadable) or identity_fault(asked) is not None:
            wrong = self._quarantine_faults(row, asked, value)
        else:
            wrong = _row_faults(record, asked, fingerprint)
            self._settle(row, asked, fingerprint)
        for detail in wrong:
            self._findings.add("faithful", place_of(lane, record.seq), detail)

    def _settle(self, row: Row, asked: Asked, fingerprint: bytes) -> None:
        record = row.record
        name = (asked.tenant, asked.intent_id)
        place = Settled(record.lane, record.seq, row.moment, fingerprint, asked.idempotency_key)
        if record.outcome not in ("posted", "rejected"):
            self._repeats.append(Repeat(name, record.outcome, place))
        elif name in self._settled:
            first = self._settled[name]
            where = place_of(record.lane, record.seq)
            detail = f"{place_of(first.lane, first.seq)} has settled the intent already."
            self._findings.add("settled_once", where, detail)
        else:
            self._settled[name] = place

    def _quarantine_faults(self, row: Row, asked: Asked | Unreadable, value: bytes | None) -> list[str]:
        """Return the faults of a row if the row is quarantined or its message is no intent.

        A message that cannot be read as an intent must be in quarantine, and no other. The reason `poison` does not
        excuse an intent that can be read: an outage that was mistaken for a fault of the intent would look the same.
        """
        record = row.record
        fault = None if isinstance(asked, Unreadable) else identity_fault(asked)
        if record.outcome != "quarantined":
            what = f"the bytes are {asked.reason}" if isinstance(asked, Unreadable) else fault
            return [f"It is {record.outcome}, but {what}."]
        wrong = []
        if record.fingerprint != sha256(value or b"").digest():
            wrong.append("Its fingerprint is not that of the bytes.")
        if any((record.tenant, record.intent_id, record.idempotency_key, record.type, record.legs)):
            wrong.append("It is quarantined and yet names an intent.")
        if isinstance(asked, Unreadable):
            # The registry may have got the schema since the message was quarantined.
            if record.reason not in (asked.reason, "unknown_schema"):
                wrong.append(f"It is quarantined as {record.reason}, but its bytes are {asked.reason}.")
        elif record.reason == "unknown_tenant":
            made_time = self._tenants.get(asked.tenant)
            if made_time is not None and made_time < row.moment - _TENANT_GRACE_MICROSECONDS:
                wrong.append("It is quarantined as its tenant was unknown, but the books had it.")
        elif record.reason != "identity_mismatch" or fault is None:
            wrong.append(f"It is quarantined as {record.reason}, but its bytes are an intent.")
        return wrong

    def without_record(self, row: Row, low: int) -> None:
        """Judge a row if the topic has no message at its offset. `low` is the lowest offset that the topic keeps."""
        record = row.record
        where = place_of(record.lane, record.seq)
        if record.source_offset < low:
            self._findings.add("faithful", where, "Retention has deleted the intent: it cannot be judged.")
        elif (record.outcome, record.reason) != ("quarantined", "no_record"):
            self._findings.add("faithful", where, f"It is {record.outcome}, but the topic has nothing at its offset.")
        else:
            self._findings.counts["without_record"] += 1

    def finish(self) -> None:
        """Run the checks that need all lanes."""
        for name, outcome, place in self._repeats:
            detail = _repeat_fault(outcome, place, self._settled.get(name), self._by_commit)
            if detail is not None:
                self._findings.add("settled_once", place_of(place.lane, place.seq), detail)
        asked_by_body: dict[tuple[str, str, str], bytes] = {}
        for answer in self._acknowledged:
            self._findings.counts["acknowledged"] += 1
            self._finish_answer(answer, asked_by_body)

    def _finish_answer(self, answer: Acknowledged, asked_by_body: dict[tuple[str, str, str], bytes]) -> None:
        wrong = []
        settled = self._settled.get((answer.tenant, answer.intent_id))
        follows = settled is not None and settled.idempotency_key == answer.idempotency_key
        if not follows and answer.intent_id != intent_id_of(answer.tenant, answer.idempotency_key):
            wrong.append("The id that was told does not follow from tenant and key.")
        if answer.partition is not None and answer.offset is not None:
            told = f"partition {answer.partition} offset {answer.offset}"
            there = self._told[answer.partition, answer.offset]
            if there is None:
                wrong.append(f"The topic has no intent at {told}, which was told.")
            elif there[0] != answer.intent_id:
                wrong.append(f"The topic has another intent at {told}, which was told.")
            elif answer.body_sha256:
                body = (answer.tenant, answer.idempotency_key, answer.body_sha256)
                if asked_by_body.setdefault(body, there[1]) != there[1]:
                    wrong.append(f"At {told} something else is asked than by the same body before.")
        if settled is None:
            wrong.append("No row settles it.")
        for detail in wrong:
            self._findings.add("acknowledged", f"intent {answer.tenant} {answer.idempotency_key}", detail)


def identity_fault(asked: Asked) -> str | None:
    """Return why tenant, key and id do not identify an intent; None if they do."""
    if not _TENANT.fullmatch(asked.tenant):
        return "its tenant is no tenant's name"
    if not 0 < len(asked.idempotency_key) <= _KEY_CHARACTERS_MAX or "\x00" in asked.idempotency_key:
        return "its idempotency key has no allowed form"
    if asked.intent_id != intent_id_of(asked.tenant, asked.idempotency_key):
        return "its id does not follow from tenant and key"
    return None


def _row_faults(record: Record, asked: Asked, fingerprint: bytes) -> list[str]:
    """Return how a row that names an intent differs from what the intent asks."""
    posted = record.outcome == "posted"
    kept = posted or (record.outcome == "rejected" and record.reason not in _WITHOUT_TEXT)
    value_time = asked.value_time
    if value_time is None:
        value_time = asked.accepted_time or record.booked_time  # 0: the producer gave no time
    legs: tuple[Leg, ...] = asked.legs if posted else ()
    if posted and asked.type == "reversal" and not asked.legs:
        legs = record.legs  # the reversal takes all that is left: Balances checks the sums
    wanted = {
        "tenant": asked.tenant,
        "intent_id": asked.intent_id,
        "idempotency_key": asked.idempotency_key,
        "type": asked.type,
        "fingerprint": fingerprint,
        "legs": legs,
        "reverses": asked.reverses if kept else None,
        "reference": asked.reference if kept else None,
        "metadata": asked.metadata if kept else {},
        "value_time": value_time if posted else None,
    }
    differ = [name for name, value in wanted.items() if getattr(record, name) != value]
    return [f"It differs from what was asked in {', '.join(differ)}."] if differ else []


def _repeat_fault(outcome: str, place: Settled, settled: Settled | None, by_commit: bool) -> str | None:
    if settled is None:
        return f"It is a {outcome}, but no row settles the intent."
    where = place_of(settled.lane, settled.seq)
    later = settled.seq >= place.seq if settled.lane == place.lane else by_commit and settled.moment > place.moment
    if later:
        return f"It is a {outcome}, but only the later {where} settles the intent."
    if (settled.asked == place.asked) != (outcome == "duplicate"):
        than = "the same as" if settled.asked == place.asked else "another thing than"
        return f"It is a {outcome}, but asks {than} {where}."
    return None
