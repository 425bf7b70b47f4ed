"""The agent of both provers: its fence, the messages that are no records, and the breaks that it sends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from domain.breaks import Break, BreakKind, Finding, compute_break_id
from domain.errors import Outage
from domain.outcomes import QuarantineReason
from streams.batches import FenceLost, Message, PartitionBatch
from streams.proof.journal_agent import JournalAgent, Proved
from streams.proof.records.decoding import Unreadable
from tests.log_capture import captured_logs

RECORD = Finding(BreakKind.CHAIN, "lane 1 seq 4", "It is wrong.", 1, 4)


class Lane(NamedTuple):
    """A row of a prover's table of lanes."""

    lane: int
    next_offset: int


class Store:
    """Transactions and tables in memory: what the agent asks of its connection, its lanes and its breaks."""

    found_by = "audit"

    def __init__(self) -> None:
        self.rows = {1: Lane(1, 5), 2: Lane(2, 0)}
        self.is_open = False
        self.unsent: list[Break] = []

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.is_open = True
        yield self
        self.is_open = False

    def read(self, _: Any) -> dict[int, Lane]:
        return self.rows

    def lock(self, _: Any, lanes: list[int]) -> dict[int, Lane]:
        assert lanes == sorted(lanes), "two workers that lock in another order may deadlock"
        return {lane: self.rows[lane] for lane in lanes}

    def unpublished(self, _: Any, limit: int) -> list[Break]:
        return self.unsent[:limit]

    def published(self, _: Any, told: list[Break]) -> None:
        self.unsent = [item for item in self.unsent if item not in told]


class Reader:
    """Reads `lane,seq`."""

    def read(self, value: bytes) -> dict[str, int]:
        if not value:
            raise Unreadable(QuarantineReason.EMPTY, "There are no bytes.")
        lane, seq = value.split(b",")
        return {"lane": int(lane), "seq": int(seq)}


class Events:
    """A topic; `cause` is why it takes nothing."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.cause: str | None = None

    def send(self, events: Iterator[tuple[bytes, Any]]) -> None:
        if self.cause is not None:
            raise Outage(self.cause)
        self.sent += [key for key, _ in events]


class Prover(JournalAgent[Lane]):
    """A prover whose only rule is that no record has seq 4."""

    misplaced_kind = BreakKind.CHAIN

    def __init__(self) -> None:
        self.store, self.events = Store(), Events()
        super().__init__(self.store, Reader(), self.events, lambda _: None)  # type: ignore[arg-type]
        self.lanes = self.breaks = self.store  # type: ignore[assignment]
        self.taken: list[int] = []
        self.counted: list[int] = []
        self.findings: list[Finding] = []

    def _prove(self, connection: Any, batch: list[PartitionBatch], rows: dict[int, Lane]) -> Proved:  # noqa: ARG002
        self.findings = []
        for part in batch:
            for record in self._records(part, self.findings):
                self.taken.append(record["seq"])
                if record["seq"] == 4:
                    self.findings.append(RECORD)
        return Proved(self.findings, self._count)

    def _count(self) -> None:
        assert not self.store.is_open, "the batch is committed"
        self.counted.append(len(self.taken))


def part(lane: int, expected: int, *values: bytes) -> PartitionBatch:
    messages = [Message("t", lane, expected + at, 0, None, value, []) for at, value in enumerate(values)]
    return PartitionBatch("t", lane, expected, messages, expected + len(values))


def test_a_lane_that_was_not_read_begins_at_0() -> None:
    assert Prover().positions("t", (1, 2, 3)) == {1: 5, 2: 0, 3: 0}


def test_a_batch_for_another_position_is_fenced_before_a_record_is_read() -> None:
    prover = Prover()
    with pytest.raises(FenceLost, match=r"^lane 1 stands at 5, not at 4$"):
        prover.handle([part(2, 0, b"2,0"), part(1, 4, b"1,0")])
    assert prover.taken == prover.counted == []


def test_a_message_that_is_no_record_of_its_lane_is_found_among_the_other_findings() -> None:
    prover = Prover()
    prover.handle([part(1, 5, b"1,3", b"", b"1,4", b"2,5"), part(2, 0, b"2,0")])
    assert prover.taken == [3, 4, 0]
    assert prover.counted == [3]
    assert prover.findings == [
        Finding(BreakKind.CHAIN, "lane 1 journal offset 6", "There are no bytes.", 1),
        RECORD,
        Finding(BreakKind.CHAIN, "lane 1 journal offset 8", "The record says that it is of lane 2.", 1),
    ]


def test_breaks_are_logged_without_their_subject_and_sent_once_kafka_is_there() -> None:
    prover = Prover()
    stored = break_of(RECORD)
    prover.store.unsent = [stored]
    prover.handle([part(2, 0, b"2,0")])
    assert prover.events.sent == [], "a batch without findings sends nothing"
    prover.events.cause = "Kafka is away."
    with captured_logs() as stream:
        prover.handle([part(1, 5, b"1,4")])
    found, waits = map(json.loads, stream.getvalue().splitlines())
    assert {name: found[name] for name in ("event", "level", "breaks", "kind", "break_id", "lane")} == {
        "event": "breaks found", "level": "error", "breaks": 1, "kind": "chain", "lane": 1,
        "break_id": str(stored.break_id),
    }  # fmt: skip
    assert RECORD.subject not in stream.getvalue()
    assert RECORD.detail not in stream.getvalue()
    assert (waits["event"], waits["breaks"], waits["cause"]) == ("breaks wait to be published", 1, "Kafka is away.")
    prover.events.cause = None
    prover.idle()
    assert (prover.events.sent, prover.store.unsent) == ([str(stored.break_id).encode()], [])


def break_of(finding: Finding) -> Break:
    """Return the row of a finding of audit."""
    break_id = compute_break_id("audit", finding.kind, finding.subject)
    return Break(
        break_id, "audit", finding.kind, finding.subject, "open", finding.lane, finding.seq, finding.detail, {}, 1, 1
    )
