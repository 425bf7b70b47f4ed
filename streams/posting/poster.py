"""The posting transaction: a batch of intents becomes journal rows, entries and balances, or nothing happens.

One batch, one Postgres transaction:

1. lock the lanes in order, and compare where they stand with where this worker believes them to stand (the fence);
2. look up which intents are settled already, and the originals of reversals;
3. open missing accounts, lock the constrained ones that are drawn down, in order of id, and read their balances;
4. decide, purely (domain.decision);
5. write rows, entries and balance changes, and advance the lanes;
6. commit. Kafka is told afterwards.

Decoding and screening come before, as they need no lock.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import structlog

from db.books import Books
from db.posting import Account, BalanceChange, BatchRefused, Collision, Lane, Overflow, PostingStore, QuarantinedBytes
from domain.chart import ChartPattern
from domain.decision import (
    Constraint,
    Event,
    Fate,
    Holding,
    IntentName,
    LedgerView,
    Original,
    decide_batch,
    holdings_drawn_down,
    mirrored,
)
from domain.errors import LedgerlineError
from domain.fingerprint import fingerprint_of
from domain.hash_chain import chained
from domain.intents import Intent, Leg
from domain.journal import JournalRow
from domain.outcomes import Outcome, QuarantineReason, Reason
from domain.screening import Refusal, books_refusal, identity_fault, shape_refusal, value_time_of
from streams.decode import IntentDecoder, Undecodable
from streams.fenced import FenceLost, Message, PartitionBatch
from streams.posting.metrics import OUTCOMES

logger: Final = structlog.get_logger(__name__)

COLLISIONS_MAX: Final = 20
# What an event of its own can raise: refused data, or a bug that it alone brings out. Outages and lost fences are not.
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
METADATA_OF_THE_REFUSED: Final[dict[str, str]] = {}


Name = tuple[str, str]
"""Tenant and account address."""


class TopicMismatch(LedgerlineError):
    """The lanes were posted from another topic than is there now, or the topic lost what was not posted."""


class Source(NamedTuple):
    """The topic that the lanes are made of, as the broker describes it."""

    topic: str
    topic_id: str
    first_offsets: dict[int, int]
    """Lowest offset that each partition still has."""
    end_offsets: dict[int, int]
    """Next offset that each partition will give."""


class Work(NamedTuple):
    """One message with what decoding found in it."""

    message: Message
    event: Event

    @property
    def offset(self) -> int:
        """The message's."""
        return self.message.offset


def _no_fault(point: str) -> None:
    """Fault points cost one call when they are off; chaos tests put a function here that dies."""


class Poster:
    """Posts batches of one topic's lanes; a BatchHandler."""

    def __init__(
        self,
        store: PostingStore,
        decoder: IntentDecoder,
        describe: Callable[[], Source],
        *,
        now_microseconds: Callable[[], int] = lambda: time.time_ns() // 1000,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        self._store = store
        self._decoder = decoder
        self._describe = describe
        self._now_microseconds = now_microseconds
        self._fault = fault
        self._books: Books | None = None
        self._accounts: dict[Name, Account] = {}

    # ------------------------------------------------------------------------------------------ BatchHandler

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Where the lanes stand; refuses with TopicMismatch where the topic is not the one they were posted from."""
        wanted = list(partitions)
        source = self._describe()
        lanes = self._store.lanes(wanted)
        for partition in wanted:
            if partition not in lanes:
                self._store.make_lane(partition, topic, source.topic_id, source.first_offsets[partition])
        lanes = self._store.lanes(wanted)
        for lane in lanes.values():
            check_source(lane, source)
        return {number: lane.next_offset for number, lane in lanes.items()}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Post a batch; every offset in it has its row when this returns."""
        read = self._read
        work = [item if isinstance(item, Work) else read(item) for part in batch for item in part.messages]
        self._fault("decoded")
        if work:
            self._post(work)

    def idle(self) -> None:
        """Nothing to do between batches."""

    def prepare(self, message: Message) -> "Work | Message":
        """Decode ahead, in the consumer's thread; what the registry must be asked for is left as it is."""
        return self._read(message) if self._decoder.is_ready_for(message.value) else message

    # ------------------------------------------------------------------------------------------ decode, screen

    def _read(self, message: Message) -> Work:
        """Decode a message and tell who asks; screening against the books comes when they are known to be current."""
        try:
            intent = self._decoder.decode(message.value)
            fault = identity_fault(intent)
            if fault is not None:
                raise Undecodable(QuarantineReason.IDENTITY_MISMATCH, fault)
        except Undecodable as undecodable:
            event = _quarantined(message, undecodable.reason, str(undecodable))
        else:
            fingerprint = fingerprint_of(
                intent.type, intent.legs, intent.reverses, intent.value_time, intent.reference,
                intent.metadata,
            )  # fmt: skip
            event = Event(message.partition, message.offset, fingerprint, intent)
        return Work(message, event)

    def _screen(self, work: Work, books: Books) -> Work:
        intent = work.event.intent
        if intent is None:
            return work
        chart = books.charts.get(intent.tenant)
        if chart is None:
            detail = f"The books know no tenant {intent.tenant}."
            return work._replace(event=_quarantined(work.message, QuarantineReason.UNKNOWN_TENANT, detail))
        refusal = shape_refusal(intent) or books_refusal(intent.legs, chart, books.units.get(intent.tenant, {}))
        return work if refusal is None else work._replace(event=work.event._replace(refusal=refusal))

    # ------------------------------------------------------------------------------------------ post

    def _post(self, work: Sequence[Work], forced: Refusal | QuarantineReason | None = None) -> None:
        """Post all of it; an event that cannot be posted with the others is found by halving and gets its own fate."""
        try:
            self._post_despite_collisions(work, forced)
        except ISOLATING as error:
            if forced is not None:
                raise
            if len(work) > 1:
                middle = len(work) // 2
                self._post(work[:middle])
                self._post(work[middle:])
                return
            logger.exception("isolated", lane=work[0].event.lane, offset=work[0].event.offset)
            self._post(work, _own_fate(work[0], error))

    def _post_despite_collisions(self, work: Sequence[Work], forced: Refusal | QuarantineReason | None) -> None:
        """Where another lane settled one of our intents first, the next look-up sees its commit and finds it."""
        for tries_left in reversed(range(COLLISIONS_MAX)):
            try:
                self._post_once(work, forced)
            except Collision:
                if tries_left == 0:
                    raise
            else:
                return

    def _post_once(self, work: Sequence[Work], forced: Refusal | QuarantineReason | None) -> None:
        expected: dict[int, int] = {}
        for item in work:
            expected.setdefault(item.event.lane, item.event.offset)
        with self._store.transaction():
            lanes = self._store.lanes(expected, lock=True)
            for number, offset in expected.items():
                if lanes[number].next_offset != offset:
                    raise FenceLost(f"lane {number} stands at {lanes[number].next_offset}, not at {offset}")
            books = self._current_books()
            screened = [_force(item, forced) if forced else self._screen(item, books) for item in work]
            events = [item.event for item in screened]
            view, accounts = self._view(events, books)
            fates = decide_batch(events, view)
            self._fault("decided")
            rows, moved, quarantined = self._rows(screened, fates, lanes)
            account_ids = {name: account.account_id for name, account in accounts.items()}
            self._store.write(rows, account_ids, balance_changes(rows, account_ids), quarantined)
            self._fault("written")
            self._store.advance(moved)
            self._fault("before_commit")
        self._fault("committed")
        self._remember(accounts)
        for (outcome, reason), count in Counter((fate.outcome, fate.reason) for fate in fates).items():
            OUTCOMES.labels(outcome.value, reason).inc(count)

    def _remember(self, accounts: dict[Name, Account]) -> None:
        """Keep accounts for the batches to come: only now, as what a transaction that failed opened is not there."""
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

    def _view(self, events: Sequence[Event], books: Books) -> tuple[LedgerView, dict[Name, Account]]:
        """Look up, open and lock what the decision needs; returns it, and every account that the batch may touch."""
        asked = {(event.intent.tenant, event.intent.intent_id): None for event in events if event.intent is not None}
        settled = self._store.settled(list(asked))
        live = [event.intent for event in events if event.intent is not None and event.refusal is None]
        if settled:
            live = [intent for intent in live if (intent.tenant, intent.intent_id) not in settled]
        named = {(intent.tenant, intent.reverses): None for intent in live if intent.reverses is not None}
        originals = self._store.originals(list(named)) if named else {}
        touched = self._touched(live, originals)
        accounts = self._find_accounts({(tenant, leg.account) for tenant, legs in touched for leg in legs}, books)
        constraints = {
            name: Constraint(account.normal_direction, account.floor_minor)
            for name, account in accounts.items()
            if account.floor_minor is not None
        }
        balances = self._lock(touched, constraints, accounts) if constraints else {}
        return LedgerView(settled, originals, constraints, balances), accounts

    def _lock(
        self,
        touched: Sequence[tuple[str, Sequence[Leg]]],
        constraints: dict[Name, Constraint],
        accounts: dict[Name, Account],
    ) -> dict[Holding, int]:
        """Lock the constrained accounts that may be drawn down, and read what they hold."""
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
        """The legs that each intent may post; of a reversal also those of its original, mirrored."""
        # Of several bodies under one key it is the first that may be posted.
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

    def _find_accounts(self, names: set[Name], books: Books) -> dict[Name, Account]:
        """All of these accounts; those that are missing are opened as the chart says."""
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
            self._store.open_accounts(wanted)
            accounts |= self._store.accounts(list(wanted))
        return accounts

    # ------------------------------------------------------------------------------------------ rows

    def _rows(
        self, work: Sequence[Work], fates: Sequence[Fate], lanes: dict[int, Lane]
    ) -> tuple[list[JournalRow], list[Lane], list[QuarantinedBytes]]:
        """Chain the fates to their lanes; returns the rows, the lanes as they then stand, and the raw bytes to keep."""
        rows: list[JournalRow] = []
        quarantined: list[QuarantinedBytes] = []
        now = self._now_microseconds()
        for item, fate in zip(work, fates, strict=True):
            lane = lanes[item.event.lane]
            booked_time = max(now, lane.booked_time)
            row = chained(lane.head, journal_row(lane, item.message, item.event, fate, booked_time))
            rows.append(row)
            lanes[lane.lane] = Lane(
                lane.lane, lane.topic, lane.topic_id, row.source_offset + 1, row.seq + 1, row.hash, booked_time
            )
            if fate.outcome is Outcome.QUARANTINED:
                message = item.message
                # Postgres' JSON has no NUL, which a header's name may hold.
                headers = [
                    (name.replace("\x00", "\N{SYMBOL FOR NULL}"), None if value is None else value.hex())
                    for name, value in message.headers
                ]
                quarantined.append(QuarantinedBytes(row.lane, row.seq, message.key, message.value, headers))
        return rows, list(lanes.values()), quarantined


def balance_changes(rows: Sequence[JournalRow], account_ids: Mapping[Name, int]) -> list[BalanceChange]:
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


def check_source(lane: Lane, source: Source) -> None:
    """Refuse to post where skipping or repeating would follow: TopicMismatch says which and what to do."""
    what = f"Lane {lane.lane} was posted from {lane.topic} ({lane.topic_id})"
    if lane.topic != source.topic or lane.topic_id != source.topic_id:
        raise TopicMismatch(
            f"{what}, but the topic there now is {source.topic} ({source.topic_id}): restore the old topic,"
            " or start a new ledger on the new one."
        )
    if lane.next_offset > source.end_offsets[lane.lane]:
        raise TopicMismatch(
            f"{what} up to {lane.next_offset}, but the topic ends at {source.end_offsets[lane.lane]}:"
            " restore the topic before posting goes on."
        )
    if lane.next_offset < source.first_offsets[lane.lane]:
        raise TopicMismatch(
            f"{what} up to {lane.next_offset}, but the topic now begins at {source.first_offsets[lane.lane]}:"
            " intents were deleted before they were posted; restore them from a backup of the topic."
        )


def journal_row(lane: Lane, message: Message, event: Event, fate: Fate, booked_time: int) -> JournalRow:
    """The row of one event, not yet chained. What is malformed keeps no text, as that may be unfit to store."""
    intent = event.intent if fate.outcome is not Outcome.QUARANTINED else None
    fit = intent is not None and fate.outcome in (Outcome.POSTED, Outcome.REJECTED)
    fit = fit and fate.reason not in (Reason.MALFORMED, Reason.UNSUPPORTED_TYPE)
    return JournalRow(
        lane=lane.lane,
        seq=lane.next_seq,
        source_topic=lane.topic,
        source_offset=message.offset,
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
        metadata=intent.metadata if intent and fit else METADATA_OF_THE_REFUSED,
        value_time=value_time_of(intent) if intent and fate.outcome is Outcome.POSTED else None,
        booked_time=booked_time,
        previous_hash=b"",
        hash=b"",
    )


def _quarantined(message: Message, reason: QuarantineReason, detail: str) -> Event:
    fingerprint = sha256(message.value or b"").digest()
    return Event(message.partition, message.offset, fingerprint, None, quarantine=(reason, detail))


def _own_fate(work: Work, error: Exception) -> Refusal | QuarantineReason:
    """What an event gets that cannot be posted even alone."""
    if isinstance(error, Overflow) and work.event.intent is not None:
        return Refusal(Reason.AMOUNT_OVERFLOW, "A balance of one of the accounts would leave 64 bits.")
    return QuarantineReason.POISON


def _force(work: Work, fate: Refusal | QuarantineReason) -> Work:
    if isinstance(fate, Refusal):
        return work._replace(event=work.event._replace(refusal=fate))
    return work._replace(event=_quarantined(work.message, fate, "The event breaks every batch that holds it."))
