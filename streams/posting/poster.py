"""The posting transaction: a batch of intents becomes journal rows, entries and balances, or nothing happens.

One batch, one Postgres transaction:

1. lock the lanes in order, and compare their next offsets with those that this worker expects (the fence);
2. look up which intents are settled already, and the originals of reversals;
3. open missing accounts, lock the constrained ones that are drawn down, in order of id, and read their balances;
4. decide, with a pure function (domain.decision);
5. write rows, entries and balance changes, and advance the lanes;
6. commit. Kafka is told afterwards.

Decoding comes before the transaction, as it needs no lock. Screening by the books runs in step 2, while Postgres looks
up the intents.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import structlog

from db.books import Books
from db.posting import Account, BatchRefused, Collision, PostingStore
from domain.chart import ChartPattern
from domain.decision import (
    Constraint,
    Event,
    Holding,
    IntentName,
    LedgerView,
    Original,
    decide_batch,
    holdings_drawn_down,
    mirrored,
)
from domain.facts import lane_chain
from domain.intents import Intent, Leg
from runtime import tracing
from runtime.faults import Fault, no_fault
from streams.fenced import FenceLost, PartitionBatch
from streams.posting.metrics import LATENCY, OUTCOMES, Stopwatch, observe_read
from streams.posting.published import Published, check_published
from streams.posting.reading import IntentReader, Work, poisoned, screen, without_record
from streams.posting.rows import balance_changes, chain, moved, quarantined_bytes
from streams.posting.signing import Sign, sign_nothing
from streams.posting.source import KafkaAway, Source, check_absent, check_source, check_topic
from streams.tracing import outcome_attributes, transaction_span

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
ACCOUNTS_CACHED_MAX: Final = 200_000

Name = tuple[str, str]
"""Tenant and account address."""


def _not_asked() -> str:
    raise RuntimeError("handle() asks for the topic's id")


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
        ask_topic_id: Callable[[], Callable[[], str]],
        now_microseconds: Callable[[], int] = lambda: time.time_ns() // 1000,
        meanwhile: Callable[[], None] = lambda: None,
        sign: Sign = sign_nothing,
        fault: Fault = no_fault,
    ) -> None:
        """`meanwhile` is called while Postgres is busy with the balances, a fifth of a batch's time."""
        self._store = store
        self._reader = reader
        self._describe = describe
        self._with_record = with_record
        self._published = published
        self._ask_topic_id = ask_topic_id
        self._topic_id = _not_asked
        self._now_microseconds = now_microseconds
        self._meanwhile = meanwhile
        self._sign = sign
        self._fault = fault
        self._books: Books | None = None
        self._accounts: dict[Name, Account] = {}

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
            raise KafkaAway(f"Kafka does not tell of the partitions {unknown} of {topic} yet.")
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
        self._topic_id = self._ask_topic_id()
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
            self._post(work)
        for part, read in holed:
            for piece in self._pieces(part, read):
                self._post(piece)

    def idle(self) -> None:
        """Do nothing: posting has no chores between batches."""

    def _read(self, part: PartitionBatch) -> list[Work]:
        """Return the work of a lane's messages; decode those that were not read ahead."""
        read = self._reader.read
        return [item if isinstance(item, Work) else read(item) for item in part.messages]

    def _pieces(self, part: PartitionBatch, work: list[Work]) -> Iterator[list[Work]]:
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
            yield [found.get(offset) or without_record(part.topic, part.partition, offset) for offset in piece]

    # ------------------------------------------------------------------------------------------ post

    def _post(self, work: Sequence[Work], *, is_poison: bool = False) -> None:
        """Post all of the work. If an event makes it fail, find the event by halving the work and quarantine it."""
        try:
            self._post_despite_collisions(work, is_poison=is_poison)
        except ISOLATING:
            if is_poison:
                raise
            if len(work) > 1:
                middle = len(work) // 2
                self._post(work[:middle])
                self._post(work[middle:])
                return
            message, event = work[0]
            logger.exception(
                "isolated",
                lane=event.lane,
                offset=event.offset,
                tenant=event.intent.tenant if event.intent is not None else None,
                correlation_id=tracing.correlation_id_of(message.headers),
            )
            self._post(work, is_poison=True)

    def _post_despite_collisions(self, work: Sequence[Work], *, is_poison: bool) -> None:
        """Post the work, and retry after a Collision, COLLISIONS_MAX tries in all.

        A Collision means that another lane settled one of our intents first. The next look-up sees that commit.
        """
        for tries_left in reversed(range(COLLISIONS_MAX)):
            try:
                self._post_once(work, is_poison=is_poison)
            except Collision:
                if tries_left == 0:
                    raise
            else:
                return

    def _post_once(self, work: Sequence[Work], *, is_poison: bool) -> None:
        watch = Stopwatch()
        expected: dict[int, int] = {}
        for item in work:
            expected.setdefault(item.event.lane, item.event.offset)
        with transaction_span(len(work)), self._store.transaction():
            lanes = self._store.lanes(expected, lock=True)
            for number, offset in expected.items():
                if lanes[number].next_offset != offset:
                    raise FenceLost(f"lane {number} stands at {lanes[number].next_offset}, not at {offset}")
            watch.done("lock")
            books = self._current_books()
            asked = [(intent.tenant, intent.intent_id) for item in work if (intent := item.event.intent) is not None]
            with self._store.settled(asked) as settled:
                screened = [poisoned(item) if is_poison else screen(item, books) for item in work]
                events = [item.event for item in screened]
            view, accounts = self._view(events, settled, books, watch, lane_chain(min(lanes)))
            fates = decide_batch(events, view)
            watch.done("decide")
            self._fault("decided")
            account_ids = {name: account.account_id for name, account in accounts.items()}
            with self._store.writing(chain(screened, fates, lanes, self._now_microseconds()), account_ids) as rows:
                changes = balance_changes(rows, account_ids)
            with self._store.adding_balances(changes):
                signed = self._sign(rows)
                self._meanwhile()
            self._store.add_quarantined(quarantined_bytes(screened, rows))
            self._fault("written")
            topic_id = self._topic_id()
            for lane in lanes.values():
                check_topic(lane, lane.topic, topic_id)
            standing = moved(lanes, rows)
            self._store.advance(standing, signed)
            if (span := tracing.current_span()) is not None:
                self._store.tell_traced(span.traceparent, standing)
                span.put(outcome_attributes(fate.outcome for fate in fates))
            watch.done("write")
            self._fault("before_commit")
        watch.done("commit")
        LATENCY.observe_since([item.message.timestamp_ms for item in work])
        self._fault("committed")
        self._remember(accounts)
        watch.tell()
        for (outcome, reason), count in Counter((fate.outcome, fate.reason) for fate in fates).items():
            OUTCOMES.labels(outcome.value, reason).inc(count)

    def _remember(self, accounts: dict[Name, Account]) -> None:
        """Cache the accounts after the commit: accounts that a failed transaction opened do not exist."""
        if len(self._accounts) > ACCOUNTS_CACHED_MAX:
            self._accounts.clear()
        self._accounts.update(accounts)

    def _current_books(self) -> Books:
        version = self._store.books_version()
        if self._books is None or self._books.version != version:
            self._books = self._store.books()
            self._accounts.clear()
        return self._books

    # ------------------------------------------------------------------------------------------ what the ledger holds

    def _view(
        self, events: Sequence[Event], settled: dict[IntentName, bytes], books: Books, watch: Stopwatch, chain: int
    ) -> tuple[LedgerView, dict[Name, Account]]:
        """Look up, open and lock what the decision needs; return it, and every account that the batch may touch."""
        live = [event.intent for event in events if event.intent is not None and event.refusal is None]
        if settled:
            live = [intent for intent in live if (intent.tenant, intent.intent_id) not in settled]
        named = {(intent.tenant, intent.reverses): None for intent in live if intent.reverses is not None}
        originals = self._store.originals(list(named)) if named else {}
        touched = self._touched(live, originals)
        accounts = self._find_accounts(
            {(tenant, account) for tenant, legs in touched for account, _, _, _ in legs}, books, chain
        )
        constraints = {name: account.constraint for name, account in accounts.items() if account.constraint is not None}
        watch.done("look_up")
        balances = self._lock(touched, constraints, accounts) if constraints else {}
        watch.done("lock")
        return LedgerView(settled, originals, constraints, balances), accounts

    def _lock(
        self,
        touched: Sequence[tuple[str, Sequence[Leg]]],
        constraints: dict[Name, Constraint],
        accounts: dict[Name, Account],
    ) -> dict[Holding, int]:
        """Lock the constrained accounts that may be drawn down, and return their balances."""
        names = {
            accounts[tenant, account].account_id: (tenant, account)
            for tenant, legs in touched
            for _, account, _ in holdings_drawn_down(tenant, legs, constraints)
        }
        if not names:
            return {}
        balances = self._store.locked_balances(list(names))
        return {(*names[account_id], currency): balance for (account_id, currency), balance in balances.items()}

    def _touched(
        self, live: Sequence[Intent], originals: dict[IntentName, Original]
    ) -> list[tuple[str, Sequence[Leg]]]:
        """Return the legs that each intent may post; for a reversal also the mirrored legs of its original."""
        if all(intent.reverses is None for intent in live):
            return [(intent.tenant, intent.legs) for intent in live]
        # If a batch has several bodies under one key, only the first may be posted: `reversed` makes the first one win.
        in_batch = {(intent.tenant, intent.intent_id): intent for intent in reversed(live) if intent.reverses is None}
        touched: list[tuple[str, Sequence[Leg]]] = []
        for intent in live:
            touched.append((intent.tenant, intent.legs))
            if intent.reverses is None:
                continue
            name = (intent.tenant, intent.reverses)
            if name in originals:
                touched.append((intent.tenant, mirrored(originals[name])))
            elif name in in_batch:
                legs = in_batch[name].legs
                touched.append((intent.tenant, [leg._replace(direction=-leg.direction) for leg in legs]))
        return touched

    def _find_accounts(self, names: set[Name], books: Books, chain: int) -> dict[Name, Account]:
        """Return the accounts; open missing ones as the chart says, and record the openings in this chain of facts.

        The result lacks an account that is not open and that no line of the chart matches.
        """
        known = self._accounts
        accounts = {name: known[name] for name in names if name in known}
        missing = sorted(names - accounts.keys())
        if not missing:
            return accounts
        accounts |= self._store.accounts(missing)
        wanted: dict[Name, ChartPattern] = {}
        for tenant, address in missing:
            line = books.charts[tenant].match(address)
            if (tenant, address) not in accounts and line is not None:
                wanted[tenant, address] = line
        if wanted:
            self._store.open_accounts(wanted, chain)
            accounts |= self._store.accounts(list(wanted))
        return accounts
