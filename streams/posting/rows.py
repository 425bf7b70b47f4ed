"""From fates to what is written: journal rows chained to their lanes, balance changes, raw bytes."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from db.posting import BalanceChange, Lane, QuarantinedBytes
from domain.decision import Event, Fate
from domain.hash_chain import chained
from domain.journal import JournalRow
from domain.outcomes import Outcome, Reason
from domain.screening import value_time_of
from streams.posting.reading import Work

_NO_METADATA: Final[dict[str, str]] = {}


def chain(
    work: Sequence[Work], fates: Sequence[Fate], lanes: Mapping[int, Lane], now: int
) -> tuple[list[JournalRow], list[Lane]]:
    """Chain the fates, lane after lane, to where the lanes stand; returns the rows, and the lanes as they then stand.

    `now` is in microseconds since 1970; a row is never booked before the row that precedes it in its lane.
    """
    rows: list[JournalRow] = []
    moved: list[Lane] = []
    decided = zip(work, fates, strict=True)
    for number, group in groupby(decided, key=lambda pair: pair[0].event.lane):
        lane = lanes[number]
        head, seq, booked_time = lane.head, lane.next_seq, max(now, lane.booked_time)
        for item, fate in group:
            row = chained(head, journal_row(lane, seq, item.event, fate, booked_time))
            rows.append(row)
            head, seq = row.hash, seq + 1
        moved.append(
            lane._replace(next_offset=rows[-1].source_offset + 1, next_seq=seq, head=head, booked_time=booked_time)
        )
    return rows, moved


def journal_row(lane: Lane, seq: int, event: Event, fate: Fate, booked_time: int) -> JournalRow:
    """The row of one event, not yet chained. What is malformed keeps no text, as that may be unfit to store."""
    intent = event.intent if fate.outcome is not Outcome.QUARANTINED else None
    fit = intent is not None and fate.outcome in (Outcome.POSTED, Outcome.REJECTED)
    fit = fit and fate.reason not in (Reason.MALFORMED, Reason.UNSUPPORTED_TYPE)
    return JournalRow(
        lane=lane.lane,
        seq=seq,
        source_topic=lane.topic,
        source_offset=event.offset,
        outcome=fate.outcome,
        reason=fate.reason,
        detail=fate.detail,
        tenant=intent.tenant if intent else None,
        intent_id=intent.intent_id if intent else None,
        idempotency_key=intent.idempotency_key if intent else None,
        fingerprint=event.fingerprint,
        type=intent.type if intent else None,
        reverses=intent.reverses if intent and fit else None,
        legs=fate.legs,
        reference=intent.reference if intent and fit else None,
        metadata=intent.metadata if intent and fit else _NO_METADATA,
        value_time=value_time_of(intent) if intent and fate.outcome is Outcome.POSTED else None,
        booked_time=booked_time,
        previous_hash=b"",
        hash=b"",
    )


def quarantined_bytes(work: Sequence[Work], rows: Sequence[JournalRow]) -> list[QuarantinedBytes]:
    """The messages behind the rows in quarantine, byte for byte."""
    return [
        QuarantinedBytes(
            row.lane,
            row.seq,
            item.message.key,
            item.message.value,
            # Postgres' JSON has no NUL, which a header's name may hold.
            [
                (name.replace("\x00", "\N{SYMBOL FOR NULL}"), None if value is None else value.hex())
                for name, value in item.message.headers
            ],
        )
        for item, row in zip(work, rows, strict=True)
        if row.outcome is Outcome.QUARANTINED
    ]


def balance_changes(rows: Sequence[JournalRow], account_ids: Mapping[tuple[str, str], int]) -> list[BalanceChange]:
    """One change for each shard that the rows touch, in order of its key so that the index is walked once."""
    sums: dict[tuple[int, str, int], list[int]] = {}
    for row in rows:
        for account, direction, amount_minor, currency in row.legs:
            shard = (account_ids[row.tenant or "", account], currency, row.lane)
            change = sums.get(shard)
            if change is None:
                change = sums[shard] = [0, 0, 0]
            change[direction < 0] += amount_minor
            change[2] = row.seq
    return [BalanceChange(*shard, *change) for shard, change in sorted(sums.items())]
