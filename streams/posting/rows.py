"""Turn fates into what is written: journal rows chained to their lanes, balance changes, raw bytes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from db.posting import BalanceChanges, Lane, QuarantinedBytes
from domain.decision import Event, Fate
from domain.hash_chain import chain_row
from domain.journal import JournalRow
from domain.outcomes import Outcome, Reason
from domain.screening import get_value_time
from streams.posting.reading import Work

_NO_METADATA: Final[dict[str, str]] = {}
_NO_HASH: Final = b""
LANE_BITS: Final = 15
"""As many as ledger.row_place in the schema has."""
LANE_MAX: Final = (1 << LANE_BITS) - 1
# JournalRow's constructor is a Python function around this one.
_make: Final = tuple.__new__
_UNFIT: Final = (Reason.MALFORMED, Reason.UNSUPPORTED_TYPE)


def chain_rows(
    work: Sequence[Work], fates: Sequence[Fate], lanes: Mapping[int, Lane], now: int
) -> Iterator[JournalRow]:
    """Yield the journal rows of the fates, lane after lane, chained to the head of each lane.

    `now` is in microseconds since 1970. The booked time of a row is never before that of the previous row of its lane.
    """
    decided = zip(work, fates, strict=True)
    for number, group in groupby(decided, key=lambda pair: pair[0].event.lane):
        lane = lanes[number]
        head, seq, booked_time = lane.head, lane.next_seq, max(now, lane.booked_time)
        for item, fate in group:
            row = chain_row(head, make_journal_row(lane, seq, item.event, fate, booked_time))
            yield row
            head, seq = row.hash, seq + 1


def move_lanes(lanes: Mapping[int, Lane], rows: Sequence[JournalRow]) -> list[Lane]:
    """Return the lanes with the next offset, next seq, head and booked time that they have after these rows."""
    last = {row.lane: row for row in rows}
    return [
        lanes[number]._replace(
            next_offset=row.source_offset + 1, next_seq=row.seq + 1, head=row.hash, booked_time=row.booked_time
        )
        for number, row in last.items()
    ]


def make_journal_row(lane: Lane, seq: int, event: Event, fate: Fate, booked_time: int) -> JournalRow:
    """Return the row of one event, without its hashes.

    A malformed intent keeps no reference and no metadata: Postgres may be unable to store their text.
    """
    outcome, reason, detail, legs = fate
    intent = event.intent
    if intent is None or outcome is Outcome.QUARANTINED:
        return JournalRow(
            lane=lane.lane,
            seq=seq,
            source_topic=lane.topic,
            source_offset=event.offset,
            outcome=outcome,
            reason=reason,
            detail=detail,
            tenant=None,
            intent_id=None,
            idempotency_key=None,
            fingerprint=event.fingerprint,
            type=None,
            reverses=None,
            legs=legs,
            reference=None,
            metadata=_NO_METADATA,
            value_time=None,
            booked_time=booked_time,
            previous_hash=_NO_HASH,
            hash=_NO_HASH,
        )
    reverses, reference, metadata = intent.reverses, intent.reference, intent.metadata
    value_time = None
    if outcome is Outcome.POSTED:
        value_time = get_value_time(intent)
        if value_time is None:
            value_time = booked_time
    elif outcome is not Outcome.REJECTED or reason in _UNFIT:
        reverses, reference, metadata = None, None, _NO_METADATA
    # By position: keywords take four times as long. tests/unit/test_posting_rows.py compares the fields by name.
    fields = (
        lane.lane, seq, lane.topic, event.offset, outcome, reason, detail, intent.tenant, intent.intent_id,
        intent.idempotency_key, event.fingerprint, intent.type, reverses, legs, reference, metadata, value_time,
        booked_time, _NO_HASH, _NO_HASH,
    )  # fmt: skip
    return _make(JournalRow, fields)


def list_quarantined_bytes(work: Sequence[Work], rows: Sequence[JournalRow]) -> list[QuarantinedBytes]:
    """Return the messages of the quarantined rows, byte for byte."""
    return [
        QuarantinedBytes(
            row.lane,
            row.seq,
            item.message.key,
            item.message.value,
            # A header's name may have a NUL, which JSON in Postgres cannot store.
            [
                (name.replace("\x00", "\N{SYMBOL FOR NULL}"), None if value is None else value.hex())
                for name, value in item.message.headers
            ],
        )
        for item, row in zip(work, rows, strict=True)
        if row.outcome is Outcome.QUARANTINED
    ]


def sum_balance_changes(rows: Sequence[JournalRow], account_ids: Mapping[tuple[str, str], int]) -> BalanceChanges:
    """Return one change for each shard that the rows touch.

    The changes of each currency are in order of account and lane, as the index has them.
    """
    # Account and lane share one number: Python hashes and sorts it faster than a tuple.
    by_currency: dict[str, dict[int, list[int]]] = {}
    for row in rows:
        lane, seq, tenant = row.lane, row.seq, row.tenant or ""
        for account, direction, amount_minor, currency in row.legs:
            sums = by_currency.get(currency)
            if sums is None:
                sums = by_currency[currency] = {}
            place = account_ids[tenant, account] << LANE_BITS | lane
            change = sums.get(place)
            if change is None:
                sums[place] = [amount_minor, 0, seq] if direction > 0 else [0, amount_minor, seq]
            else:
                change[direction < 0] += amount_minor
                change[2] = seq
    changes = BalanceChanges([], [], [], [], [], [])
    for currency, sums in by_currency.items():
        changes.currencies.extend([currency] * len(sums))
        for place in sorted(sums):
            debits_minor, credits_minor, seq = sums[place]
            changes.account_ids.append(place >> LANE_BITS)
            changes.lanes.append(place & LANE_MAX)
            changes.debits_minor.append(debits_minor)
            changes.credits_minor.append(credits_minor)
            changes.seqs.append(seq)
    return changes
