"""Replays into a ledger that has records already, such as a restored backup: in batches, with all rules in force."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from db import replay as db
from db.posting import BatchRefused, Collision, Lane, PostingStore
from domain.intents import DIRECTIONS, Leg
from domain.journal import JournalRow
from domain.outcomes import Outcome
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.posting.published import Published
from streams.posting.rows import sum_balance_changes
from streams.proof.records.decoding import JournalRecord, RecordReader
from streams.proof.replay.accounts import AccountIds
from streams.proof.replay.lane_replay import (
    LaneReplay,
    ReplayRefused,
    find_offset,
    make_beginning,
    read_record,
    read_to_ends,
)

RECORDS_MAX: Final = 2000

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""


class CatchUp:
    """A replay of each lane from the end of the ledger's lane to the end of ledger.journal."""

    def __init__(
        self, connection: Any, store: PostingStore, kafka: Kafka, registry: SchemaRegistry, journal: str, source: str
    ) -> None:
        self._connection = connection
        self._store = store
        self._kafka = kafka
        self._journal = journal
        self._source = source
        self._reader = RecordReader(registry, "ledger.journal-value")
        self._accounts = AccountIds(store)

    def run(
        self, published: dict[int, Published], topic_id: str, progress: Progress, *, compare_heads: bool = True
    ) -> int:
        """Replay what the ledger lacks; return the number of records. Raise ReplayRefused if topic and ledger differ.

        `compare_heads`: also compare lanes that lack nothing. This is not needed if everything is compared afterwards.
        """
        lanes = self._store.lanes(published)
        missing = {
            lane: end.next_seq - (lanes[lane].next_seq if lane in lanes else 0) for lane, end in published.items()
        }
        for lane, end in published.items():
            if compare_heads and missing[lane] <= 0:
                self._compare(lane, end)
        behind = [lane for lane, records in missing.items() if records > 0]
        total = sum(missing[lane] for lane in behind)
        done = 0
        for lane in behind:
            for records in self._replay(lane, lanes.get(lane), topic_id):
                done += records
                progress("replay", done, max(total, done))
        return done

    def _compare(self, lane: int, end: Published) -> None:
        """Check a lane that has all published records: its row at the topic's end must be the topic's last record."""
        if end.next_seq and db.find_hash_at(self._connection, lane, end.next_seq - 1) != end.head:
            raise ReplayRefused(
                f"This ledger has another record than {self._journal} at lane {lane} seq {end.next_seq - 1}:"
                " replay into an empty database instead."
            )

    def _replay(self, number: int, lane: Lane | None, topic_id: str) -> Any:
        """Replay one lane; yield the number of records of each batch."""
        place = self._find_place(number, lane)
        taking = LaneReplay(place, self._source)
        for messages in read_to_ends(self._kafka, self._journal, {number: place.journal_offset}):
            for first in range(0, len(messages), RECORDS_MAX):
                read = [(read_record(self._reader, m), m.offset()) for m in messages[first : first + RECORDS_MAX]]
                before = taking.place()
                records = [record for record, offset in read if taking.take(record, offset)]
                if records:
                    self._write(before, taking.place(), records, topic_id)
                    yield len(records)

    def _find_place(self, number: int, lane: Lane | None) -> db.LoadedLane:
        if lane is None or lane.next_seq == 0:
            return make_beginning(number)
        offset = find_offset(self._kafka, self._journal, number, lane.next_seq)
        first = lane.next_offset - lane.next_seq
        return db.LoadedLane(number, offset, lane.topic, first, lane.next_seq, lane.head, lane.booked_time)

    def _write(
        self, before: db.LoadedLane, after: db.LoadedLane, records: Sequence[JournalRecord], topic_id: str
    ) -> None:
        """Write one batch in one transaction, with the statements and the triggers of posting."""
        rows = [make_journal_row(record) for record in records]
        ids = self._accounts.learn(records)
        number = before.lane
        if before.next_seq == 0:
            self._store.make_lane(number, after.source_topic, topic_id, after.first_offset)
        try:
            with self._store.transaction() as connection:
                lane = self._store.lanes([number], lock=True)[number]
                if (lane.next_seq, lane.head) != (before.next_seq, before.head):
                    raise ReplayRefused(f"Another process posts to lane {number}: stop the posting workers first.")
                self._store.write_journal(rows)
                entries = self._store.write_entries(rows, ids)
                changes = sum_balance_changes(rows, ids)
                entries.result()
                self._store.add_balances(changes).result()
                moved = lane._replace(
                    next_offset=rows[-1].source_offset + 1,
                    next_seq=after.next_seq,
                    head=after.head,
                    booked_time=after.booked_time,
                )
                db.add_signed_heads(connection, filter(None, map(db.get_signed_head, records)))
                self._store.advance([moved])
        except (Collision, BatchRefused) as error:
            cause = str(error).strip().splitlines()[0]
            raise ReplayRefused(
                f"The ledger refuses lane {number} from seq {before.next_seq} on ({cause}): replay into an empty one."
            ) from error


def make_journal_row(record: JournalRecord) -> JournalRow:
    """Return the row of a record, as posting wrote it."""
    return JournalRow(
        record["lane"],
        record["seq"],
        record["source_topic"],
        record["source_offset"],
        Outcome(record["outcome"]),
        record["reason"],
        record["detail"],
        record["tenant"],
        None if record["intent_id"] is None else UUID(record["intent_id"]),
        record["idempotency_key"],
        record["fingerprint"],
        record["type"],
        None if record["reverses"] is None else UUID(record["reverses"]),
        tuple(
            Leg(leg["account"], DIRECTIONS[leg["direction"]], leg["amount_minor"], leg["currency"])
            for leg in record["legs"]
        ),
        record["reference"],
        record["metadata"],
        record["value_time"],
        record["booked_time"],
        record["previous_hash"],
        record["hash"],
    )
