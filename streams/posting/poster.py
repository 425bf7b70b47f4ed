"""The posting transaction: a batch of intents becomes journal rows, entries and balances, or nothing happens.

The path of a batch, each step a function:

1. `handle` gets the fetch of streams.fenced, and decodes what was not decoded ahead: that needs no lock;
2. `_lock_lanes` locks the lanes in order, and compares their next offsets with those that this worker expects;
3. `_look_up` finds which intents are settled already. It screens the intents by the books meanwhile. It then locks and
   reads the originals of reversals, and opens missing accounts;
4. `lock_balances` locks the constrained accounts that are drawn down, in order of id, and reads their balances;
5. `decide_batch`, a pure function of domain.decision, decides;
6. `_write` writes rows, entries and balance changes, and `_advance` moves the lanes;
7. the transaction commits, and streams.fenced tells Kafka.

Steps 2 to 7 are one Postgres transaction.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import structlog

from db.posting import BatchRefused, Collision, Lane, PostingStore
from domain.decision import Fate, LedgerView, decide_batch
from domain.facts import get_lane_chain
from domain.journal import JournalRow
from domain.signed_heads import SignedHead
from runtime import tracing
from runtime.faults import Fault, cause_no_fault
from streams.fenced import FenceLost, PartitionBatch
from streams.posting.lookups import Found, Lookups
from streams.posting.metrics import LATENCY, OUTCOMES, Stopwatch, observe_read
from streams.posting.published import Published, check_published
from streams.posting.reading import IntentReader, Work, judge_by_books, make_work_without_record, quarantine_poisoned
from streams.posting.rows import chain_rows, list_quarantined_bytes, move_lanes, sum_balance_changes
from streams.posting.signing import Sign, sign_nothing
from streams.posting.source import KafkaAway, Source, TopicIdAnswer, check_absent, check_source, check_topic
from streams.tracing import make_outcome_attributes, open_transaction_span

logger: Final = structlog.get_logger(__name__)

COLLISIONS_MAX: Final = 20
# Most offsets in one transaction for a lane that was fetched with holes: one aborted Kafka transaction can leave a
# million offsets without a record.
PIECE_OFFSETS: Final = 10_000
# Errors that one event can cause: refused data, or a bug that only this event triggers. Outages and lost fences are
# not among them.
ISOLATING: Final = (
    BatchRefused,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Poster:
    """A BatchHandler that posts batches of one topic's lanes."""

    def __init__(
        self,
        store: PostingStore,
        reader: IntentReader,
        describe: Callable[[], Source],
        with_record: Callable[[int, int, int], set[int]],
        *,
        published: Callable[[Iterable[int]], dict[int, Published]],
        ask_topic_id: Callable[[], TopicIdAnswer],
        now_microseconds: Callable[[], int] = lambda: time.time_ns() // 1000,
        read_ahead: Callable[[], None] = lambda: None,
        sign: Sign = sign_nothing,
        fault: Fault = cause_no_fault,
    ) -> None:
        """`read_ahead` is called while Postgres is busy with the balances, a fifth of a batch's time."""
        self._store = store
        self._reader = reader
        self._describe = describe
        self._with_record = with_record
        self._published = published
        self._ask_topic_id = ask_topic_id
        self._now_microseconds = now_microseconds
        self._read_ahead = read_ahead
        self._sign = sign
        self._fault = fault
        self._lookups = Lookups(store)

    # ------------------------------------------------------------------------------------------ BatchHandler

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the next offset of each lane.

        Raise TopicMismatch if the lanes were posted from another topic, and JournalAhead if the ledger lacks published
        rows of a lane.
        """
        wanted = list(partitions)
        # Read the published ends before the lanes, and the ends of the topic after the lanes. If another worker moves a
        # lane meanwhile, the lane then seems neither behind its published rows nor beyond the end of the topic.
        published = self._published(wanted)
        lanes = self._store.lanes(wanted)
        source = self._describe()
        unknown = [partition for partition in wanted if partition not in source.end_offsets]
        if unknown:
            # One broker assigned a partition that was just added, and another broker does not know it yet.
            raise KafkaAway(f"Kafka does not describe the partitions {unknown} of {topic} yet.")
        missing = [partition for partition in wanted if partition not in lanes]
        if missing:
            for partition in missing:
                self._store.make_lane(partition, topic, source.topic_id, source.first_offsets[partition])
            lanes = self._store.lanes(wanted)
            source = self._describe()
        for lane in lanes.values():
            check_source(lane, source)
            check_published(lane, published[lane.lane], self._store.row_hash)
        return {number: lane.next_offset for number, lane in lanes.items()}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Post a batch; every offset in it has its row when this returns."""
        # Request the topic id after the fetch and check it before COMMIT: offsets alone miss a recreated topic that has
        # outgrown the lane.
        topic_id = self._ask_topic_id()
        started = time.perf_counter()
        work: list[Work] = []
        holed: list[tuple[PartitionBatch, list[Work]]] = []
        for part in batch:
            read = self._read(part)
            if len(read) == part.end_offset - part.expected_offset:
                work += read
            else:
                holed.append((part, read))
        observe_read(time.perf_counter() - started)
        self._fault("decoded")
        if work:
            self._post(work, topic_id)
        for part, read in holed:
            for piece in self._split_pieces(part, read):
                self._post(piece, topic_id)

    def idle(self) -> None:
        """Do nothing: posting has no chores between batches."""

    def _read(self, part: PartitionBatch) -> list[Work]:
        """Return the work of a lane's messages; decode those that were not read ahead."""
        read = self._reader.read
        return [item if isinstance(item, Work) else read(item) for item in part.messages]

    def _split_pieces(self, part: PartitionBatch, work: list[Work]) -> Iterator[list[Work]]:
        """Yield pieces of work, with one item for each offset of a lane that was fetched with holes.

        Raise FenceLost if the lane moved or the fetch left out records, and TopicMismatch if the broker lost records.
        """
        absent = part.end_offset - part.expected_offset - len(work)
        (lane,) = self._store.lanes([part.partition]).values()
        if lane.next_offset != part.expected_offset:
            raise FenceLost(f"lane {lane.lane} stands at {lane.next_offset}, not at {part.expected_offset}")
        check_absent(lane, self._describe(), part.end_offset, absent)
        found = {item.offset: item for item in work}
        offsets = range(part.expected_offset, part.end_offset)
        if self._with_record(lane.lane, offsets.start, offsets.stop) - found.keys():
            raise FenceLost(
                f"the fetch of lane {lane.lane} left out records between {offsets.start} and {offsets.stop}"
            )
        for start in range(offsets.start, offsets.stop, PIECE_OFFSETS):
            piece = range(start, min(start + PIECE_OFFSETS, offsets.stop))
            yield [
                found.get(offset) or make_work_without_record(part.topic, part.partition, offset) for offset in piece
            ]

    # ------------------------------------------------------------------------------------------ post

    def _post(self, work: Sequence[Work], topic_id: TopicIdAnswer, *, is_poison: bool = False) -> None:
        """Post all of the work. If an event makes it fail, find the event by halving the work and quarantine it."""
        try:
            self._post_despite_collisions(work, topic_id, is_poison=is_poison)
        except ISOLATING:
            if is_poison:
                raise
            if len(work) > 1:
                middle = len(work) // 2
                self._post(work[:middle], topic_id)
                self._post(work[middle:], topic_id)
                return
            message, event = work[0]
            logger.exception(
                "isolated",
                lane=event.lane,
                offset=event.offset,
                tenant=event.intent.tenant if event.intent is not None else None,
                correlation_id=tracing.find_correlation_id(message.headers),
            )
            self._post(work, topic_id, is_poison=True)

    def _post_despite_collisions(self, work: Sequence[Work], topic_id: TopicIdAnswer, *, is_poison: bool) -> None:
        """Post the work, and retry after a Collision, COLLISIONS_MAX tries in all.

        A Collision means that another lane settled one of our intents first. The next look-up sees that commit.
        """
        for tries_left in reversed(range(COLLISIONS_MAX)):
            try:
                self._post_once(work, topic_id, is_poison=is_poison)
            except Collision:
                if tries_left == 0:
                    raise
            else:
                return

    def _post_once(self, work: Sequence[Work], topic_id: TopicIdAnswer, *, is_poison: bool) -> None:
        """Post the work in one transaction."""
        watch = Stopwatch()
        with open_transaction_span(len(work)), self._store.transaction():
            lanes = self._lock_lanes(work)
            watch.done("lock")
            work, found = self._look_up(work, lanes, is_poison=is_poison)
            watch.done("look_up")
            balances = self._lookups.lock_balances(found)
            watch.done("lock")
            view = LedgerView(found.settled, found.originals, found.constraints, balances)
            fates = decide_batch([item.event for item in work], view)
            watch.done("decide")
            self._fault("decided")
            rows, signed = self._write(work, fates, lanes, found)
            self._fault("written")
            self._advance(lanes, rows, signed, topic_id.result())
            watch.done("write")
            self._fault("before_commit")
        watch.done("commit")
        LATENCY.observe_since([item.message.timestamp_ms for item in work])
        self._fault("committed")
        self._lookups.remember(found.accounts)
        watch.tell()
        for (outcome, reason), count in Counter((fate.outcome, fate.reason) for fate in fates).items():
            OUTCOMES.labels(outcome.value, reason).inc(count)

    def _lock_lanes(self, work: Sequence[Work]) -> dict[int, Lane]:
        """Lock the lanes and return them. Raise FenceLost if one is not at the offset of its first event."""
        expected: dict[int, int] = {}
        for item in work:
            expected.setdefault(item.event.lane, item.event.offset)
        lanes = self._store.lanes(expected, lock=True)
        for number, offset in expected.items():
            if lanes[number].next_offset != offset:
                raise FenceLost(f"lane {number} stands at {lanes[number].next_offset}, not at {offset}")
        return lanes

    def _look_up(self, work: Sequence[Work], lanes: Mapping[int, Lane], *, is_poison: bool) -> tuple[list[Work], Found]:
        """Return the work, screened by the books, and what the ledger holds of it."""
        books = self._lookups.get_books()
        named = [(intent.tenant, intent.intent_id) for item in work if (intent := item.event.intent) is not None]
        settled = self._store.look_up_settled(named)
        screened = [quarantine_poisoned(item) if is_poison else judge_by_books(item, books) for item in work]
        events = [item.event for item in screened]
        return screened, self._lookups.find(events, settled.result(), books, get_lane_chain(min(lanes)))

    def _write(
        self, work: Sequence[Work], fates: Sequence[Fate], lanes: Mapping[int, Lane], found: Found
    ) -> tuple[list[JournalRow], dict[int, SignedHead]]:
        """Write rows, entries, balances and quarantined bytes. Return the rows, and the signed heads of their lanes."""
        account_ids = {name: account.account_id for name, account in found.accounts.items()}
        rows = self._store.write_journal(chain_rows(work, fates, lanes, self._now_microseconds()))
        entries = self._store.write_entries(rows, account_ids)
        changes = sum_balance_changes(rows, account_ids)
        entries.result()
        balances = self._store.add_balances(changes)
        signed = self._sign(rows)
        self._read_ahead()
        balances.result()
        self._store.add_quarantined(list_quarantined_bytes(work, rows))
        return rows, signed

    def _advance(
        self, lanes: Mapping[int, Lane], rows: Sequence[JournalRow], signed: Mapping[int, SignedHead], topic_id: str
    ) -> None:
        """Move the lanes past the rows. Raise TopicMismatch if the topic of the fetch is not the lanes' topic."""
        for lane in lanes.values():
            check_topic(lane, lane.topic, topic_id)
        standing = move_lanes(lanes, rows)
        self._store.advance(standing, signed)
        if (span := tracing.get_current_span()) is not None:
            self._store.tell_traced(span.traceparent, standing)
            span.put(make_outcome_attributes(row.outcome for row in rows))
