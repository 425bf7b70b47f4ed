"""The reconciling agent: it checks, counts and commits a batch of journal records in one transaction.

1. lock the lanes in order and compare their stored offsets with those that the batch expects (the fence);
2. decode the records; take them in order, note gaps and repeats, add up what they moved;
3. read the intents at their offsets and compare; look up the rows that duplicates, conflicts and reversals refer to;
4. add the movements to reconciliation's own balances and sums (books.py);
5. compare the touched shards with the ledger's; the ledger commits before the topic is written;
6. store breaks, counts and positions; commit. Then set metrics and send events.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import structlog

from db import reconciliation as db
from db import rejections as ledger
from db.agent_connection import AgentConnection
from db.books import Books
from domain.breaks import BreakKind, BreakState, Finding, break_id_of, record_subject
from producers.events import EventProducer
from streams.fenced import FenceLost, PartitionBatch
from streams.proof.proving import SpareTime, publish_breaks
from streams.proof.reconciliation import checks, metrics, state
from streams.proof.reconciliation.books import OwnBooks
from streams.proof.reconciliation.faithful import Compared, Comparison
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable

logger: Final = structlog.get_logger(__name__)

FOUND_BY: Final = "reconciliation"


def shard_finding(pair: db.ShardPair, detail: str, explained_by: dict[db.ShardKey, tuple[int, int]]) -> Finding:
    """Return the finding for one shard. It is explained if records that the topic owes make up just the difference."""
    tenant, address, currency, lane = pair.key
    own, held = pair.own or db.Sums(0, 0, -1), pair.held or db.Sums(0, 0, -1)
    difference = (held.debits_minor - own.debits_minor, held.credits_minor - own.credits_minor)
    is_explained = explained_by.get(pair.key) == difference != (0, 0)
    return Finding(
        BreakKind.BALANCE,
        f"{tenant} {address} {currency} lane {lane}",
        f"{detail} Records that the topic has not brought make up the difference." if is_explained else detail,
        lane,
        state=BreakState.EXPLAINED if is_explained else BreakState.OPEN,
        evidence={"tenant": tenant, "address": address, "currency": currency, "lane": lane},
    )


class LedgerLookups:
    """The queries of the rules to the ledger, within the transaction of the batch."""

    def __init__(self, connection: Any, recent_books: ledger.RecentBooks) -> None:
        self._connection = connection
        self._recent_books = recent_books

    def books(self) -> tuple[Books, int]:
        """Return today's frame of the books and the time of its last change, in microseconds since 1970."""
        return self._recent_books.load(self._connection)

    def originals(self, names: Sequence[db.IntentName]) -> dict[db.IntentName, ledger.OriginalRow]:
        """Return the rows that settled these intents."""
        return ledger.originals(self._connection, names)

    def holdings(self, asked: Sequence[ledger.HoldingAsked]) -> list[ledger.Holding | None]:
        """Return what each of these accounts holds; None for an account that is not open."""
        return ledger.holdings(self._connection, asked)

    def settled(self, names: Sequence[db.IntentName]) -> dict[db.IntentName, db.Settled]:
        """Return the rows that settled these intents."""
        return db.settled(self._connection, names)

    def reversals(self, names: Sequence[db.IntentName]) -> dict[db.IntentName, db.Reversed]:
        """Return what these originals moved and how much of it reversals took back."""
        return db.reversals(self._connection, names)

    def tenant_times(self, tenants: Sequence[str]) -> dict[str, int]:
        """Return when these tenants were made, in microseconds since 1970."""
        return db.tenant_times(self._connection, tenants)


class Reconciler:
    """A BatchHandler that checks batches of ledger.journal. It gives `chores` the share of time that batches leave."""

    def __init__(
        self,
        store: AgentConnection,
        reader: RecordReader,
        comparison: Comparison,
        events: EventProducer,
        source_topic: str,
        *,
        chores: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._comparison = comparison
        self._events = events
        self._source_topic = source_topic
        self._chores = chores
        self._spare_time = SpareTime()
        self._breaks = db.BREAKS
        self._books = OwnBooks()
        self._recent_books = ledger.RecentBooks()
        self._stands: dict[int, int] = {}

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:  # noqa: ARG002 - there is one topic
        """Return the next offset of each partition; 0 if reconciliation has not read the partition."""
        self._books.forget()
        self._stands = self._stored(partitions)
        return dict(self._stands)

    def _stored(self, lanes: Iterable[int]) -> dict[int, int]:
        with self._store.transaction() as connection:
            rows = db.LANES.read(connection)
        return {lane: rows[lane].next_offset if lane in rows else 0 for lane in lanes}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Check a batch; raise FenceLost if a lane's stored offset is not the one that the batch expects."""
        taken = state.Taken()
        try:
            with self._spare_time.batch():
                findings, compared = self._commit(batch, taken)
        except BaseException:
            self._books.forget()
            raise
        self._stands |= {part.partition: part.end_offset for part in batch}
        for outcome, number in Counter(record["outcome"] for record in taken.records).items():
            metrics.RECORDS.labels(outcome).inc(number)
        metrics.EXPIRED.inc(sum(compared.expired.values()))
        metrics.LATENCY.observe_since(compared.times_ms)
        if findings:
            # Log neither subject nor detail, as they name accounts and amounts. The break's id leads to them.
            first = findings[0]
            break_id = str(break_id_of(FOUND_BY, first.kind, first.subject))
            logger.error(
                "breaks found", breaks=len(findings), kind=first.kind.value, break_id=break_id, lane=first.lane
            )
            self.publish()

    def _commit(self, batch: list[PartitionBatch], taken: state.Taken) -> tuple[list[Finding], Compared]:
        """Run the batch's one transaction; return all findings, and the result of the comparison with the intents."""
        with self._store.transaction() as connection:
            lanes = sorted(part.partition for part in batch)
            rows = db.LANES.lock(connection, lanes)
            for part in batch:
                if rows[part.partition].next_offset != part.expected_offset:
                    at = rows[part.partition].next_offset
                    raise FenceLost(f"lane {part.partition} stands at {at}, not at {part.expected_offset}")
            counters = self._take(batch, rows, db.gaps(connection, lanes), taken)
            compared = self._comparison.compare(taken.records, LedgerLookups(connection, self._recent_books))
            findings = taken.findings + compared.findings + self._repeats(connection, taken.repeated)
            db.change_gaps(connection, taken.gaps_opened, taken.gaps_closed)
            moved = [counters[part.partition].row(part.end_offset) for part in batch]
            expired = compared.expired
            db.LANES.move(connection, [row._replace(expired=row.expired + expired.get(row.lane, 0)) for row in moved])
            next_seqs = {lane: counter.next_seq for lane, counter in counters.items()}
            findings += compare_shards(connection, self._books.add(connection, taken.moved, next_seqs))
            self._breaks.record(connection, findings)
            if taken.gaps_closed:
                came = [(BreakKind.CONSERVATION, record_subject(*at)) for at in taken.gaps_closed]
                self._breaks.resolve_about(connection, came, "The record came late.")
        return findings, compared

    def idle(self) -> None:
        """Do the chores (sweeps, rechecks of open breaks, gauges), and publish what they found.

        Raise FenceLost if an operator has rewound a lane: a lane without new records would otherwise not be read again.
        """
        for lane, offset in self._stored(self._stands).items():
            if offset != self._stands[lane]:
                raise FenceLost(f"lane {lane} stands at {offset}, not at {self._stands[lane]}")
        self._chores(self._spare_time.share())
        self.publish()

    def publish(self) -> None:
        """Send the breaks whose state is not on the topic yet. If Kafka is away, they wait for the next call."""
        publish_breaks(self._store, self._breaks, self._events)

    # ------------------------------------------------------------------------------------------ steps of a batch

    def _take(
        self,
        batch: list[PartitionBatch],
        rows: dict[int, db.LaneRow],
        gaps: set[tuple[int, int]],
        taken: state.Taken,
    ) -> dict[int, state.LaneCounter]:
        counters = {}
        for part in batch:
            lane = part.partition
            counter = state.LaneCounter(rows[lane], gaps, self._source_topic, taken)
            counters[lane] = counter
            for message in part.messages:
                try:
                    record = cast("JournalRecord", self._reader.read(message.value))
                except Unreadable as unreadable:
                    taken.findings.append(misplaced(lane, message.offset, str(unreadable)))
                    continue
                if record["lane"] != lane:
                    detail = f"The record says that it is of lane {record['lane']}."
                    taken.findings.append(misplaced(lane, message.offset, detail))
                    continue
                counter.take(record)
        return counters

    def _repeats(self, connection: Any, repeated: Sequence[JournalRecord]) -> list[Finding]:
        """Return a finding for each repeated record whose hash differs from the ledger's; an equal one is dropped."""
        if not repeated:
            return []
        held = db.row_hashes(connection, [(record["lane"], record["seq"]) for record in repeated])
        return [
            repeat_finding(record) for record in repeated if held.get((record["lane"], record["seq"])) != record["hash"]
        ]


def compare_shards(connection: Any, pairs: Iterable[db.ShardPair]) -> list[Finding]:
    """Return the findings about shards; those that records owed by the topic account for are explained."""
    wrong = [(pair, detail) for pair in pairs if (detail := checks.shard(pair)) is not None]
    explained_by = db.gap_sums(connection) if wrong else {}
    return [shard_finding(pair, detail, explained_by) for pair, detail in wrong]


def misplaced(lane: int, offset: int, detail: str) -> Finding:
    """Return the finding for a message of the journal's topic that is no record of its lane."""
    return Finding(BreakKind.CONSERVATION, f"lane {lane} journal offset {offset}", detail, lane)


def repeat_finding(record: JournalRecord) -> Finding:
    """Return the finding for a repeated record whose hash differs from that of the ledger's row."""
    lane, seq = record["lane"], record["seq"]
    detail = "The topic has it a second time, with another hash than the ledger's row."
    return Finding(BreakKind.CONSERVATION, record_subject(lane, seq), detail, lane, seq)
