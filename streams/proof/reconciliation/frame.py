"""The books' frame: the chained facts of ledger.frame, compared with the ledger's tables.

Between its batches, reconciliation copies the topic into its own tables. A difference between them and the ledger's
tables is a break, unless the ledger has a fact about the row that the relay has not sent to the topic yet.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from db import reconciled_frame as db
from domain.breaks import Break, BreakKind, Finding
from domain.facts import FrameKey, Part, compute_fact_hash, describe_difference
from domain.journal import GENESIS_HASH
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.records.decoding import RecordReader, Unreadable
from streams.proof.records.pages import make_reading_consumer

FACTS_PER_READ: Final = 2000
READ_SECONDS_MAX: Final = 0.4
PAGE_ROWS: Final = 5000
AWAITED_MAX: Final = 10_000
"""Rows are not compared while the topic owes more facts than this: each unequal row would need a lookup."""

Chains = dict[int, tuple[int, bytes]]
"""Chain -> next seq and head."""


@dataclass
class TakenFacts:
    """The facts and the findings of one read of the topic."""

    chains: Chains
    facts: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def take(self, fact: dict[str, Any]) -> None:
        """Take the topic's next fact; check that it follows in its chain and that its hash is that of its content."""
        chain, seq = fact["chain"], fact["seq"]
        next_seq, head = self.chains.get(chain, (0, GENESIS_HASH))
        if seq < next_seq:
            self._add_finding(fact, "The topic has it a second time.")
            return
        if seq > next_seq:
            self._add_finding(fact, f"The topic has it where seq {next_seq} is next.")
        elif fact["previous_hash"] != head:
            self._add_finding(fact, "It is not chained to the fact before it.")
        if compute_fact_hash(fact["previous_hash"], fact) != fact["hash"]:
            self._add_finding(fact, "Its hash is not that of what it says.")
        self.chains[chain] = (seq + 1, fact["hash"])
        self.facts.append(fact)

    def take_unreadable(self, offset: int, why: str) -> None:
        """Record the finding for a message that is no fact."""
        self.findings.append(Finding(BreakKind.FRAME, f"ledger.frame offset {offset}", why))

    def _add_finding(self, fact: Mapping[str, Any], detail: str) -> None:
        self.findings.append(Finding(BreakKind.FRAME, f"facts chain {fact['chain']} seq {fact['seq']}", detail))


class FrameSource:
    """A reader of ledger.frame that continues from an offset. Not thread-safe."""

    def __init__(self, kafka: Kafka, registry: SchemaRegistry, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._reader = RecordReader(registry, "ledger.frame-value")
        self._consumer: Consumer | None = None
        self._stands = -1
        self.is_at_end = False
        """Whether the reader has reached the end of the topic."""

    def close(self) -> None:
        """Close the connection to Kafka."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._stands = -1

    def read(self, offset: int, seconds: float, taken: TakenFacts) -> int:
        """Take the messages from this offset on that arrive within `seconds`; return the next offset to read."""
        if self._consumer is None:
            self._consumer = make_reading_consumer(self._kafka, "ledgerline-reconciliation-frame")
        if self._stands != offset:
            self._consumer.assign([TopicPartition(self._topic, 0, offset)])
            self.is_at_end = False
        # The position is unknown until the read is done: after an error, the next call reads the same offsets again.
        self._stands = -1
        deadline = time.monotonic() + seconds
        read = 0
        while read < FACTS_PER_READ and time.monotonic() < deadline:
            # librdkafka reports the end once. Nothing arrives after it until the topic grows: a short wait is enough.
            messages = self._consumer.consume(FACTS_PER_READ - read, 0.01 if self.is_at_end else 0.05)
            for message in messages:
                error = message.error()
                if error is None:
                    self._take(message, taken)
                    offset, read, self.is_at_end = message.offset() + 1, read + 1, False
                elif error.code() == KafkaError._PARTITION_EOF:
                    offset, self.is_at_end = max(offset, message.offset()), True
            if self.is_at_end and not any(message.error() is None for message in messages):
                break
        self._stands = offset
        return offset

    def _take(self, message: Any, taken: TakenFacts) -> None:
        try:
            taken.take(self._reader.read(message.value()))
        except Unreadable as unreadable:
            taken.take_unreadable(message.offset(), str(unreadable))


def take_facts(connection: Any, source: FrameSource, seconds: float = READ_SECONDS_MAX) -> tuple[list[Finding], int]:
    """Copy new facts into reconciliation's own tables, in the caller's transaction; return findings and fact count.

    A lock lets in one worker at a time: another one waits for the end of the transaction.
    """
    start = db.read_next_offset(connection, lock=True)
    taken = TakenFacts(db.read_own_chains(connection))
    end = source.read(start, seconds, taken)
    if end != start:
        db.apply_facts(connection, taken.facts)
        db.move_chains(connection, taken.chains)
        db.move_reader(connection, end)
    return taken.findings, len(taken.facts)


def make_chain_subject(chain: int) -> str:
    """Return the subject of a break about a whole chain."""
    return f"facts chain {chain}"


def find_chain_faults(pairs: Sequence[db.ChainPair]) -> list[Finding]:
    """Return the findings for chains of which the ledger has fewer facts than the topic, or other facts."""
    wrong = []
    for chain, own_next_seq, own_head, held_next_seq, held_head in pairs:
        if held_next_seq < own_next_seq:
            wrong.append((chain, f"The ledger has {held_next_seq} facts, the topic {own_next_seq}."))
        elif own_next_seq and held_head != own_head:
            wrong.append((chain, f"The ledger's fact seq {own_next_seq - 1} is not the one that the topic has."))
    return [
        Finding(BreakKind.FRAME, make_chain_subject(chain), detail, evidence={"chain": chain})
        for chain, detail in wrong
    ]


def make_row_subject(key: FrameKey) -> str:
    """Return the subject of a break about a row of the frame."""
    return " ".join(filter(None, key))


def find_row_fault(pair: db.RowPair) -> Finding | None:
    """Return the finding for a row if its two sides differ, else None."""
    detail = describe_difference(pair.told, pair.held)
    if detail is None:
        return None
    return Finding(BreakKind.FRAME, make_row_subject(pair.key), detail, evidence=dict(pair.key._asdict()))


def judge_rows(connection: Any, pairs: Sequence[db.RowPair]) -> list[Finding]:
    """Return the findings about unequal rows, except rows with a fact that the topic does not have yet."""
    if not pairs:
        return []
    awaited = db.find_awaited(connection, [pair.key for pair in pairs])
    found = [find_row_fault(pair) for pair in pairs if pair.key not in awaited]
    return [finding for finding in found if finding is not None]


def count_owed(pairs: Sequence[db.ChainPair]) -> int:
    """Return how many facts of the ledger the topic has not brought."""
    return sum(max(pair.held_next_seq - pair.own_next_seq, 0) for pair in pairs)


def list_row_pages() -> Iterator[tuple[str, str]]:
    """Yield (part, query) in the order of a sweep: for each part first the ledger's rows, then those of the facts."""
    for part in Part:
        yield part.value, "unequal_held"
        yield part.value, "untold_own"


def is_gone(connection: Any, item: Break) -> bool:
    """Return whether a break of the frame no longer holds."""
    evidence = item.evidence
    if "chain" in evidence:
        return not any(
            finding.subject == item.subject for finding in find_chain_faults(db.read_chain_pairs(connection))
        )
    if "part" in evidence:
        key = FrameKey(str(evidence["part"]), str(evidence["tenant"]), str(evidence["name"]))
        pair = db.read_row_pair(connection, key)
        return pair.told == pair.held
    return False
