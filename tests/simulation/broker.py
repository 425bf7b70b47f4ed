"""A model of Kafka with what posting and relay rely on: a topic of intents, a consumer group, transactional producers.

A transaction's records are in their partitions as soon as they are sent. A read_committed reader sees nothing behind a
record of an undecided transaction. A commit is decided at one instant; each partition learns of it later, by a marker.
A call of init_transactions() ends the open transaction of that transactional id and fences all earlier producers with
the id.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from domain.journal import GENESIS_HASH
from producers.relay_positions import RelayPosition
from streams.batches import Message
from streams.posting.published import Published
from streams.posting.source import KafkaAway, Source
from tests.simulation.database import Process
from tests.simulation.scheduler import Scheduler

TOPIC: Final = "payments.intents"
HOLE: Final = "hole"
"""Stands for an offset without a record, such as the offset of a transaction marker."""


class Transaction:
    """A producer's transaction: first open, then decided, then announced to each of its partitions."""

    def __init__(self) -> None:
        self.is_committed: bool | None = None
        self.untold: set[tuple[str, int]] = set()

    def is_decided_in(self, partition: tuple[str, int]) -> bool:
        """Return whether a reader of the partition knows how the transaction ended."""
        return self.is_committed is not None and partition not in self.untold


class Slot(NamedTuple):
    """A record in a partition."""

    value: Any
    transaction: Transaction


class Log:
    """A partition that transactional producers write."""

    def __init__(self, partition: tuple[str, int]) -> None:
        self.partition = partition
        self.slots: list[Slot] = []

    def stable_end(self) -> int:
        """Return the last stable offset: the offset where the first undecided transaction begins."""
        for offset, slot in enumerate(self.slots):
            if not slot.transaction.is_decided_in(self.partition):
                return offset
        return len(self.slots)

    def committed(self, end: int) -> list[Any]:
        """Return the values that a read_committed reader gets below the offset `end`."""
        return [slot.value for slot in self.slots[:end] if slot.transaction.is_committed]


class Broker:
    """All topics, and the owner of each lane."""

    def __init__(self, scheduler: Scheduler, lanes: list[list[str]], workers: list[str]) -> None:
        self.scheduler = scheduler
        self.lanes = lanes
        self.workers = workers
        self.owners = {lane: workers[lane % len(workers)] for lane in range(len(lanes))}
        self.generation = 0
        self.epochs: dict[str, int] = {}
        self.transactions: dict[str, Transaction] = {}
        self.logs: dict[tuple[str, int], Log] = {}
        self.on_told: Callable[[Log], None] = lambda _: None

    def log(self, topic: str, partition: int) -> Log:
        """Return a partition; create it at its first use."""
        return self.logs.setdefault((topic, partition), Log((topic, partition)))

    # ------------------------------------------------------------------------------------------ intents and their group

    def rebalance(self, number: int) -> None:
        """Give one lane to one worker. The former owner finds out later."""
        lane, worker = number % len(self.lanes), self.workers[number // len(self.lanes) % len(self.workers)]
        if self.owners[lane] != worker:
            self.scheduler.tell("the broker gives lane {} to {}", lane, worker)
            self.owners[lane] = worker
            self.generation += 1

    def owned(self, worker: str) -> list[int]:
        """Return the lanes that the group has assigned to a worker."""
        return [lane for lane, owner in self.owners.items() if owner == worker]

    def message(self, lane: int, offset: int) -> Message | None:
        """Return the record at an offset, or None if the offset holds no record."""
        text = self.lanes[lane][offset]
        return None if text == HOLE else Message(TOPIC, lane, offset, 0, None, text.encode(), ())

    def describe(self, process: Process) -> Source:
        """See describe_source."""
        _reached(process)
        lanes = range(len(self.lanes))
        return Source(TOPIC, "id", dict.fromkeys(lanes, 0), {lane: len(self.lanes[lane]) for lane in lanes})

    def with_record(self, process: Process, lane: int, start: int, end: int) -> set[int]:
        """See find_offsets_with_record."""
        _reached(process)
        return {offset for offset in range(start, end) if self.lanes[lane][offset] != HOLE}

    def published(self, process: Process, lanes: Iterable[int]) -> dict[int, Published]:
        """See read_last_published. Each of its requests to Kafka is one step."""
        wanted = list(lanes)
        _reached(process)
        ends = {lane: len(self.log("ledger.journal", lane).slots) for lane in wanted}
        _reached(process)
        stable = {lane: self.log("ledger.journal", lane).stable_end() for lane in wanted}
        _reached(process)
        found: dict[int, Published] = {}
        for lane in wanted:
            log = self.log("ledger.journal", lane)
            committed = log.committed(stable[lane])
            last = committed[-1] if committed else {"seq": -1, "hash": GENESIS_HASH}
            open_next_seq = log.slots[-1].value["seq"] + 1 if stable[lane] < ends[lane] else 0
            found[lane] = Published(last["seq"] + 1, last["hash"], open_next_seq)
        return found

    # ------------------------------------------------------------------------------------------ transactions

    def end(self, transactional_id: str, *, commit: bool) -> None:
        """Decide the open transaction of an id. Its partitions learn of the decision one by one, later."""
        transaction = self.transactions.get(transactional_id)
        if transaction is None or transaction.is_committed is not None:
            return
        transaction.is_committed = commit
        transaction.untold = {
            partition for partition, log in self.logs.items() if any(s.transaction is transaction for s in log.slots)
        }
        for partition in sorted(transaction.untold):
            self.scheduler.later(
                f"{partition[0]} {partition[1]} learns of a {'commit' if commit else 'roll-back'}",
                lambda partition=partition: self._told(transaction, partition),
            )

    def _told(self, transaction: Transaction, partition: tuple[str, int]) -> None:
        transaction.untold.discard(partition)
        self.on_told(self.logs[partition])

    def is_ended(self, transactional_id: str) -> bool:
        """Return whether the id's last transaction is decided and every partition has learnt of it."""
        transaction = self.transactions.get(transactional_id)
        return transaction is None or (transaction.is_committed is not None and not transaction.untold)

    def read_positions(self, process: Process, topic: str) -> dict[int, RelayPosition]:
        """See read_relay_positions.

        Return the committed positions up to the end; first wait until all transactions there are decided.
        """
        _kafka_reached(process)
        log = self.log(topic, 0)
        end = len(log.slots)
        self.scheduler.wait(lambda: log.stable_end() >= end)
        _kafka_reached(process)
        found = {value["lane"]: RelayPosition(value["next_seq"], value["head"]) for value in log.committed(end)}
        self.scheduler.tell("{} reads its positions: {}", process.name, {n: c.next_seq for n, c in found.items()})
        return found


class SimulatedProducer:
    """The part of confluent_kafka's transactional Producer that the relay uses."""

    def __init__(self, broker: Broker, process: Process, settings: dict[str, Any]) -> None:
        self._broker = broker
        self._process = process
        self._id: str = settings["transactional.id"]
        self._epoch = -1
        self._transaction: Transaction | None = None
        self._is_fatal = False

    def init_transactions(self, _timeout: float) -> None:
        """Fence earlier producers of the id, and roll back the transaction that they left open."""
        _kafka_reached(self._process)
        broker = self._broker
        self._epoch = broker.epochs[self._id] = broker.epochs.get(self._id, 0) + 1
        broker.scheduler.tell("{} shuts out earlier relays of its id", self._process.name)
        broker.end(self._id, commit=False)
        broker.scheduler.wait(lambda: broker.is_ended(self._id))
        _kafka_reached(self._process)

    def begin_transaction(self) -> None:
        """Begin a transaction. Only the client knows of it yet."""
        self._transaction = Transaction()

    def produce(self, topic: str, value: Any, _key: bytes | None = None, *, partition: int = 0) -> None:
        """Send the record at once. A refusal by the broker is fatal, and the next call raises it."""
        self._process.step("code")
        if self._is_fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL, "fenced"))
        self._broker.scheduler.wait(self._may_write)
        if self._is_fenced():
            self._is_fatal = True
            return
        assert self._transaction is not None
        self._broker.transactions[self._id] = self._transaction
        self._broker.log(topic, partition).slots.append(Slot(value, self._transaction))

    def _is_fenced(self) -> bool:
        return self._broker.epochs[self._id] != self._epoch

    def _may_write(self) -> bool:
        own = self._broker.transactions.get(self._id) is self._transaction
        return self._is_fenced() or own or self._broker.is_ended(self._id)

    def poll(self, _timeout: float) -> int:
        """Return 0: nothing is ever queued here."""
        return 0

    def commit_transaction(self, _timeout: float) -> None:
        """Commit, fail, or leave open whether the commit happened."""
        tell, name = self._broker.scheduler.tell, self._process.name
        choice = self._process.step("kafka commit")
        what = "" if choice is None else choice.what
        if what == "timeout":
            tell("the broker rolls back what {} left open for too long", name)
            self._broker.epochs[self._id] += 1
            self._broker.end(self._id, commit=False)
        if self._is_fatal or self._is_fenced():
            raise KafkaException(KafkaError(KafkaError._FENCED, "fenced"))
        if what in ("", "answer lost"):
            self._broker.end(self._id, commit=True)
        if what == "":
            tell("{} commits to Kafka", name)
            return
        tell("{} asks Kafka to commit: {}", name, what)
        if what in ("commit late", "crash in commit"):
            self._broker.scheduler.later(f"the request of {name} to commit reaches Kafka", self._commit_late)
        if what == "crash in commit":
            self._process.crash_now()
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))

    def _commit_late(self) -> None:
        if not self._is_fenced() and self._broker.transactions.get(self._id) is self._transaction:
            self._broker.end(self._id, commit=True)

    def abort_transaction(self, _timeout: float) -> None:
        """Roll back. Raise KafkaException if the producer is fenced."""
        self._process.step("code")
        if self._is_fatal or self._is_fenced():
            raise KafkaException(KafkaError(KafkaError._FENCED, "fenced"))
        self._broker.end(self._id, commit=False)


def _reached(process: Process) -> None:
    if process.step("broker") is not None:
        raise KafkaAway("Kafka does not answer: a fault.")


def _kafka_reached(process: Process) -> None:
    if process.step("broker") is not None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "Kafka does not answer: a fault"))
