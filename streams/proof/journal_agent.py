"""The agent that each prover is: it reads ledger.journal, and proves and commits a batch in one transaction.

1. lock the lanes in order and compare their stored offsets with those that the batch expects (the fence);
2. let the prover read the records, apply its rules, and store breaks and positions; commit;
3. set metrics, log what was found, and send events.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, cast

import structlog

from db.agent_connection import AgentConnection
from db.breaks import BreakStore
from db.proving import LaneStore, Row
from domain.breaks import BreakKind, Finding, compute_break_id
from domain.errors import LedgerlineError
from producers.events import EventProducer, make_break_event
from streams.fenced import FenceLost, PartitionBatch
from streams.proof.chores import SpareTime
from streams.proof.records.decoding import JournalRecord, RecordReader, Unreadable

logger: Final = structlog.get_logger(__name__)

EVENTS_PER_CALL_MAX: Final = 500


class Proved(NamedTuple):
    """The result of a batch."""

    findings: list[Finding]
    add_to_metrics: Callable[[], None]
    """Called after the commit."""


class JournalAgent(ABC, Generic[Row]):
    """A BatchHandler for ledger.journal. It gives `chores` the share of time that batches leave."""

    lanes: LaneStore[Row]
    breaks: BreakStore
    misplaced_kind: BreakKind
    """The kind of the breaks about messages that are no records of their lane."""

    def __init__(
        self,
        store: AgentConnection,
        reader: RecordReader,
        events: EventProducer,
        chores: Callable[[float], None],
    ) -> None:
        self._store = store
        self._read = cast("Callable[[bytes | None], JournalRecord]", reader.read)
        self._events = events
        self._chores = chores
        self._spare_time = SpareTime()

    @abstractmethod
    def _prove(self, connection: Any, batch: list[PartitionBatch], rows: dict[int, Row]) -> Proved:
        """Read the batch by `_records`, apply the rules, and store breaks and the new positions of the lanes.

        `rows`: the locked rows of the batch's lanes.
        """

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:  # noqa: ARG002 - there is one topic
        """Return the next offset of each partition; 0 if the prover has not read the partition."""
        return self._read_stored_offsets(partitions)

    def _read_stored_offsets(self, lanes: Iterable[int]) -> dict[int, int]:
        with self._store.transaction() as connection:
            rows = self.lanes.read(connection)
        return {lane: rows[lane].next_offset if lane in rows else 0 for lane in lanes}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Prove a batch; raise FenceLost if a lane's stored offset is not the one that the batch expects."""
        with self._spare_time.batch(), self._store.transaction() as connection:
            rows = self.lanes.lock(connection, sorted(part.partition for part in batch))
            for part in batch:
                at = rows[part.partition].next_offset
                if at != part.expected_offset:
                    raise FenceLost(f"lane {part.partition} stands at {at}, not at {part.expected_offset}")
            findings, add_to_metrics = self._prove(connection, batch, rows)
        add_to_metrics()
        if findings:
            # Log neither subject nor detail, as they name accounts and amounts. The break's id leads to them.
            first = findings[0]
            break_id = str(compute_break_id(self.breaks.found_by, first.kind, first.subject))
            logger.error(
                "breaks found", breaks=len(findings), kind=first.kind.value, break_id=break_id, lane=first.lane
            )
            self.publish()

    def idle(self) -> None:
        """Do the chores, and publish what they found."""
        self._chores(self._spare_time.compute_share())
        self.publish()

    def publish(self) -> None:
        """Send the breaks whose state is not on the topic yet. If Kafka is away, they wait for the next call."""
        with self._store.transaction() as connection:
            waiting = self.breaks.unpublished(connection, EVENTS_PER_CALL_MAX)
            if not waiting:
                return
            try:
                self._events.send(make_break_event(item) for item in waiting)
            except LedgerlineError as error:
                logger.warning("breaks wait to be published", breaks=len(waiting), cause=str(error))
                return
            self.breaks.published(connection, waiting)

    def _records(self, part: PartitionBatch, findings: list[Finding]) -> Iterator[JournalRecord]:
        """Yield a partition's records in order; add a finding for each message that is no record of its lane."""
        lane = part.partition
        for message in part.messages:
            try:
                record = self._read(message.value)
            except Unreadable as unreadable:
                detail = str(unreadable)
            else:
                if record["lane"] == lane:
                    yield record
                    continue
                detail = f"The record says that it is of lane {record['lane']}."
            findings.append(make_misplaced_finding(self.misplaced_kind, lane, message.offset, detail))


def make_misplaced_finding(kind: BreakKind, lane: int, offset: int, detail: str) -> Finding:
    """Return the finding for a message of ledger.journal that is no record of its lane."""
    return Finding(kind, f"lane {lane} journal offset {offset}", detail, lane)
