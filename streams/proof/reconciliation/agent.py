"""The reconciling agent: it checks and counts journal records.

1. take the records in order, note gaps and repeats, add up what they moved;
2. read the intents at their offsets and compare; look up the rows that duplicates, conflicts and reversals refer to;
3. add the movements to reconciliation's own shards and sums (shards.py);
4. compare the touched shards with the ledger's; the ledger commits before the topic is written;
5. store breaks, counts and positions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from db import reconciliation as db
from db import rejections as ledger
from db import symmetry
from db.agent_connection import AgentConnection
from db.books import Books
from domain.breaks import BreakKind, BreakState, Finding, make_record_subject
from domain.symmetry import SymmetryRules
from producers.events import EventProducer
from streams.batches import FenceLost, PartitionBatch
from streams.proof.journal_agent import JournalAgent, Proved
from streams.proof.reconciliation import checks, metrics, state
from streams.proof.reconciliation.clearing import list_movements
from streams.proof.reconciliation.faithful import Compared, Comparison
from streams.proof.reconciliation.shards import OwnShards
from streams.proof.records.decoding import JournalRecord, RecordReader


def make_shard_finding(pair: db.ShardPair, detail: str, explained_by: dict[db.ShardKey, tuple[int, int]]) -> Finding:
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
        return ledger.find_originals(self._connection, names)

    def holdings(self, asked: Sequence[ledger.HoldingAsked]) -> list[ledger.Holding | None]:
        """Return what each of these accounts holds; None for an account that is not open."""
        return ledger.find_holdings(self._connection, asked)

    def settled(self, names: Sequence[db.IntentName]) -> dict[db.IntentName, db.Settled]:
        """Return the rows that settled these intents."""
        return db.find_settled(self._connection, names)

    def reversals(self, names: Sequence[db.IntentName]) -> dict[db.IntentName, db.Reversed]:
        """Return what these originals moved and how much of it reversals took back."""
        return db.sum_reversals(self._connection, names)

    def tenant_times(self, tenants: Sequence[str]) -> dict[str, int]:
        """Return when these tenants were made, in microseconds since 1970."""
        return db.find_tenant_times(self._connection, tenants)


class Reconciler(JournalAgent[db.LaneRow]):
    """Checks batches of ledger.journal."""

    lanes = db.LANES
    breaks = db.BREAKS
    misplaced_kind = BreakKind.CONSERVATION

    def __init__(
        self,
        store: AgentConnection,
        reader: RecordReader,
        comparison: Comparison,
        events: EventProducer,
        source_topic: str,
        *,
        chores: Callable[[float], None] = lambda _: None,
        rules: SymmetryRules | None = None,
    ) -> None:
        super().__init__(store, reader, events, chores)
        self._comparison = comparison
        self._source_topic = source_topic
        self._rules = rules
        self._shards = OwnShards()
        self._recent_books = ledger.RecentBooks()
        self._stands: dict[int, int] = {}

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the next offset of each partition; 0 if reconciliation has not read the partition."""
        self._shards.forget()
        self._stands = super().positions(topic, partitions)
        return dict(self._stands)

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Check a batch; raise FenceLost if a lane's stored offset is not the one that the batch expects."""
        try:
            super().handle(batch)
        except BaseException:
            self._shards.forget()
            raise
        self._stands |= {part.partition: part.end_offset for part in batch}

    def idle(self) -> None:
        """Do the chores, and publish what they found.

        Raise FenceLost if an operator has rewound a lane: a lane without new records would otherwise not be read again.
        """
        for lane, offset in self._read_stored_offsets(self._stands).items():
            if offset != self._stands[lane]:
                raise FenceLost(f"lane {lane} stands at {offset}, not at {self._stands[lane]}")
        super().idle()

    def _prove(self, connection: Any, batch: list[PartitionBatch], rows: dict[int, db.LaneRow]) -> Proved:
        taken = state.Taken()
        gaps = db.find_gaps(connection, list(rows))
        counters = [state.LaneCounter(rows[part.partition], gaps, self._source_topic, taken) for part in batch]
        for part, counter in zip(batch, counters, strict=True):
            for record in self._records(part, taken.findings):
                counter.take(record)
        compared = self._comparison.compare(taken.records, LedgerLookups(connection, self._recent_books))
        findings = taken.findings + compared.findings + self._check_repeats(connection, taken.repeated)
        db.change_gaps(connection, taken.gaps_opened, taken.gaps_closed)
        moved = [counter.row(part.end_offset) for part, counter in zip(batch, counters, strict=True)]
        expired = compared.expired
        self.lanes.move(connection, [row._replace(expired=row.expired + expired.get(row.lane, 0)) for row in moved])
        next_seqs = {counter.lane: counter.next_seq for counter in counters}
        findings += compare_shards(connection, self._shards.add(connection, taken.moved, next_seqs))
        if self._rules and (movements := list_movements(taken.records, self._rules)):
            symmetry.add_movements(connection, movements)
        self.breaks.record(connection, taken.missing + findings)
        if taken.gaps_closed:
            # A record that came late and is wrong keeps its break.
            wrong = {(finding.kind, finding.subject) for finding in findings}
            came = {(BreakKind.CONSERVATION, make_record_subject(*at)) for at in taken.gaps_closed} - wrong
            self.breaks.resolve_about(connection, came, "The record came late.")
        return Proved(taken.missing + findings, lambda: _add_to_metrics(taken.records, compared))

    def _check_repeats(self, connection: Any, repeated: Sequence[JournalRecord]) -> list[Finding]:
        """Return a finding for each repeated record whose hash differs from the ledger's; an equal one is dropped."""
        if not repeated:
            return []
        held = db.find_row_hashes(connection, [(record["lane"], record["seq"]) for record in repeated])
        return [
            repeat_finding(record) for record in repeated if held.get((record["lane"], record["seq"])) != record["hash"]
        ]


def _add_to_metrics(records: Iterable[JournalRecord], compared: Compared) -> None:
    for outcome, number in Counter(record["outcome"] for record in records).items():
        metrics.RECORDS.labels(outcome).inc(number)
    metrics.EXPIRED.inc(sum(compared.expired.values()))
    metrics.LATENCY.observe_since(compared.times_ms)


def compare_shards(connection: Any, pairs: Iterable[db.ShardPair]) -> list[Finding]:
    """Return the findings about shards; those that records owed by the topic account for are explained."""
    wrong = [(pair, detail) for pair in pairs if (detail := checks.check_shard(pair)) is not None]
    explained_by = db.sum_gaps(connection) if wrong else {}
    return [make_shard_finding(pair, detail, explained_by) for pair, detail in wrong]


def repeat_finding(record: JournalRecord) -> Finding:
    """Return the finding for a repeated record whose hash differs from that of the ledger's row."""
    lane, seq = record["lane"], record["seq"]
    detail = "The topic has it a second time, with another hash than the ledger's row."
    return Finding(BreakKind.CONSERVATION, make_record_subject(lane, seq), detail, lane, seq)
